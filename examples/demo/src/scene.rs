//! The two kinds of log, and what guards each of them.

use std::time::Duration;

use crate::screen::duration;

/// The limiter that bans, and the one that is on trial.
pub const STRICT: &str = "strict";
pub const TRIAL: &str = "trial";

/// After how many refusals a key is banned.
pub const BAN_AFTER: u32 = 5;

/// Within how many periods of the limit that has to be, and for how many it is banned.
pub const BAN_WITHIN: u32 = 2;
pub const BAN_FOR: u32 = 12;

/// A kind of log.
pub struct Kind {
    /// What the entries, their clients and the other lines are called.
    pub entries: &'static str,
    pub clients: &'static str,
    pub one_client: &'static str,
    pub skipped: &'static str,
    pub limiter: &'static str,
    /// The limit to replay with, unless the caller has another.
    pub rates: &'static str,
    pub algorithm: &'static str,
    /// Two limits to compare it with.
    pub others: [(&'static str, &'static str); 2],
    pub table: &'static str,
    pub create_table: &'static str,
    /// How many columns the table has.
    pub columns: usize,
}

pub static WEB: Kind = Kind {
    entries: "requests",
    clients: "clients",
    one_client: "client",
    skipped: "malformed and skipped",
    limiter: "api",
    rates: "20 per minute",
    algorithm: "token_bucket",
    others: [("60 per minute", "sliding_window"), ("1/second burst 20, 600/hour", "token_bucket")],
    table: "api_log",
    create_table: "\
CREATE TABLE api_log (at timestamptz, client text, method text, path text,
                      status int, bytes bigint, agent text);",
    columns: 7,
};

pub static LOGINS: Kind = Kind {
    entries: "failed logins",
    clients: "addresses",
    one_client: "address",
    skipped: "are about other things",
    limiter: "login",
    rates: "5 per 5 minutes",
    algorithm: "sliding_log",
    others: [("3 per minute", "sliding_log"), ("20 per day", "fixed_window")],
    table: "failed_logins",
    create_table: "CREATE TABLE failed_logins (at timestamptz, client text, account text);",
    columns: 3,
};

impl Kind {
    /// The statement that creates the limiter.
    pub fn create_limiter(&self, rates: &str) -> String {
        let rates = literal(rates);
        let algorithm = match self.algorithm {
            "token_bucket" => String::new(),
            algorithm => format!(",\n                         algorithm => '{algorithm}'"),
        };
        format!("SELECT rl_create_limiter('{}', {rates}{algorithm});", self.limiter)
    }

    /// The trigger that no client can get around.
    pub fn create_trigger(&self) -> String {
        format!(
            "CREATE TRIGGER quota BEFORE INSERT ON {}\n    \
             FOR EACH ROW EXECUTE FUNCTION rl_limit_row('{}', '{{client}}');",
            self.table, self.limiter
        )
    }

    /// The statement that each entry is put through.
    pub fn insert(&self) -> String {
        let values: Vec<_> = (1..=self.columns).map(|n| format!("${n}")).collect();
        format!("INSERT INTO {} VALUES ({})", self.table, values.join(", "))
    }

    /// The statements that create the other two limiters. One has the same limit and bans who goes
    /// on, the other has half of it and only counts.
    pub fn create_others(&self, period: Duration) -> String {
        let limiter = self.limiter;
        format!(
            "SELECT rl_clone_limiter('{limiter}', '{STRICT}');\n\
             UPDATE rl_limiters\n   \
                SET ban_after = {BAN_AFTER}, ban_within = '{}', ban_for = '{}'\n \
              WHERE name = '{STRICT}';\n\
             SELECT rl_clone_limiter('{limiter}', '{TRIAL}');\n\
             UPDATE rl_limiters SET mode = 'shadow' WHERE name = '{TRIAL}';\n\
             UPDATE rl_rules SET quota = (quota + 1) / 2, burst = (burst + 1) / 2\n \
              WHERE limiter = '{TRIAL}';",
            duration(period * BAN_WITHIN),
            duration(period * BAN_FOR),
        )
    }

    /// Triggers fire by their names, so this one sees also what the other refuses.
    pub fn create_trial_trigger(&self) -> String {
        format!(
            "CREATE TRIGGER on_trial BEFORE INSERT ON {}\n    \
             FOR EACH ROW EXECUTE FUNCTION rl_limit_row('{TRIAL}', '{{client}}');",
            self.table
        )
    }

    /// Statements to play with.
    pub fn try_out(&self) -> String {
        let Self { limiter, table, .. } = self;
        format!(
            "SELECT * FROM rl_check('{limiter}', 'me');\n\
             SELECT * FROM rl_limiters, rl_rules WHERE limiter = name;\n\
             SELECT rl_ban('{limiter}', 'me', '1 hour', 'too curious');\n\
             SELECT * FROM rl_stat_limiters;\n\
             SELECT what, count(*) FROM limited GROUP BY what ORDER BY count DESC;\n\
             INSERT INTO {table} (at, client)\n    \
                 SELECT now(), 'you' FROM generate_series(1, 1000);  -- PT429"
        )
    }
}

/// A string as SQL writes it.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
