//! The statements that pgbench compares.

use crate::lab::{HOT, KEYS, SOME_KEYS, TOO_MUCH};

/// A way to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// The measure of all others.
    Empty,
    Acquire,
    Denied,
    Check,
    Durable,
    DurableDenied,
    /// A transaction that writes one small record and nothing else, and waits until it is on disk.
    Commit,
    AdvisoryLock,
    UpsertUnlogged,
    UpsertUnloggedDenied,
    UpsertLogged,
    UpsertLoggedDenied,
}

/// Which keys are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Always the same.
    Hot,
    /// Any of 5,000.
    Some,
    /// Any of a million.
    Spread,
}

impl Keys {
    pub fn name(self) -> &'static str {
        match self {
            Keys::Hot => "hot",
            Keys::Some => "5,000",
            Keys::Spread => "spread",
        }
    }

    /// The number of the last.
    fn last(self) -> u64 {
        match self {
            Keys::Hot => HOT,
            Keys::Some => SOME_KEYS,
            Keys::Spread => KEYS,
        }
    }
}

impl Contender {
    /// Those that are compared with the empty function, in the order of the table.
    pub const ALL: [Contender; 9] = [
        Contender::Empty,
        Contender::Acquire,
        Contender::Denied,
        Contender::Check,
        Contender::AdvisoryLock,
        Contender::UpsertUnlogged,
        Contender::UpsertUnloggedDenied,
        Contender::UpsertLogged,
        Contender::UpsertLoggedDenied,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Contender::Empty => "empty function",
            Contender::Acquire => "rl_try_acquire",
            Contender::Denied => "rl_try_acquire, denied",
            Contender::Check => "rl_check",
            Contender::Durable => "durable",
            Contender::DurableDenied => "durable, denied",
            Contender::Commit => "commit alone",
            Contender::AdvisoryLock => "advisory lock",
            Contender::UpsertUnlogged => "upsert, unlogged",
            Contender::UpsertUnloggedDenied => "upsert, unlogged, denied",
            Contender::UpsertLogged => "upsert, logged",
            Contender::UpsertLoggedDenied => "upsert, logged, denied",
        }
    }

    /// Whether there is a target, which wants as many rounds as there can be.
    pub fn has_target(self) -> bool {
        matches!(self, Contender::Empty | Contender::Acquire)
    }

    /// A key is denied by the upserts only after it was allowed in the same minute, which the million keys hardly are.
    pub fn runs_with(self, keys: Keys) -> bool {
        let hot_only = [Contender::UpsertUnloggedDenied, Contender::UpsertLoggedDenied];
        keys == Keys::Hot || !hot_only.contains(&self)
    }

    /// The script for pgbench, the same but for the statement.
    pub fn script(self, keys: Keys) -> String {
        let last = keys.last();
        let key = "'user:' || :k";
        let statement = match self {
            Contender::Empty => format!("SELECT bench_empty('api', {key})"),
            Contender::Acquire => format!("SELECT rl_try_acquire('api', {key})"),
            Contender::Denied => format!("SELECT rl_try_acquire('api', {key}, {TOO_MUCH})"),
            Contender::Check => format!("SELECT allowed FROM rl_check('api', {key})"),
            Contender::Durable => format!("SELECT rl_try_acquire('durable', {key})"),
            Contender::DurableDenied => {
                format!("SELECT rl_try_acquire('durable', {key}, {TOO_MUCH})")
            }
            Contender::Commit => "SELECT pg_logical_emit_message(true, 'bench', '')".to_owned(),
            Contender::AdvisoryLock => {
                format!("SELECT pg_try_advisory_xact_lock(hashtextextended({key}, 0))")
            }
            Contender::UpsertUnlogged => upsert("unlogged", key, TOO_MUCH),
            Contender::UpsertUnloggedDenied => upsert("unlogged", key, 1),
            Contender::UpsertLogged => upsert("logged", key, TOO_MUCH),
            Contender::UpsertLoggedDenied => upsert("logged", key, 1),
        };
        format!("\\set k random({HOT}, {last})\n{statement};\n")
    }
}

/// The fixed window that people write by hand.
fn upsert(table: &str, key: &str, limit: u64) -> String {
    format!(
        "INSERT INTO {table} AS w (k, win, n) VALUES ({key}, date_trunc('minute', now()), 1) \
         ON CONFLICT (k, win) DO UPDATE SET n = w.n + 1 WHERE w.n < {limit} RETURNING n"
    )
}
