//! The server, with the limiter and the tables of the replay.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use testbed::postgres::Client;
use testbed::{Server, Tree};

use crate::plan::Plan;
use crate::scene::{Kind, STRICT, TRIAL};
use crate::screen::{say, Screen};

/// What a person need not see: where refused entries go, a view of both, and what the limiter that
/// bans said of each.
const LIMITED: &str = "\
CREATE TABLE limited (at timestamptz, client text, what text);
CREATE TABLE verdicts (client text, reason text);
CREATE VIEW traffic AS
    SELECT at, client, true AS allowed FROM TABLE
    UNION ALL SELECT at, client, false FROM limited;";

/// The limit of the replay.
pub struct Limit {
    pub rates: String,
    /// The shortest period of its rules.
    pub period: Duration,
    /// How long a client has to be idle to be as good as new.
    pub refill: Duration,
}

pub struct Stage {
    pub server: Server,
    pub kind: &'static Kind,
    pub limit: Limit,
    /// The rates of the limiter that is on trial.
    pub trial: String,
    statements: Vec<String>,
}

impl Stage {
    /// Starts a server and sets up the limiter; `rates` in the place of the usual ones.
    pub fn build(tree: &Tree, kind: &'static Kind, rates: Option<&str>) -> Result<Self> {
        let server = Server::builder(tree)
            .setting("synchronous_commit", "off")
            .setting("checkpoint_timeout", "1h")
            // A refusal is an error of the statement, and its log would fill with them.
            .setting("log_min_messages", "fatal")
            .start()?;
        let mut client = server.connect()?;
        let mut statements = vec![
            "CREATE EXTENSION ratelimit;".to_owned(),
            kind.create_limiter(rates.unwrap_or(kind.rates)),
            kind.create_table.to_owned(),
            kind.create_trigger(),
        ];
        for statement in &statements {
            client.batch_execute(statement).context("cannot set up the limiter")?;
        }
        client.batch_execute(&LIMITED.replace("TABLE\n", &format!("{}\n", kind.table)))?;
        let limit = Limit::read(&mut client, kind, rates.unwrap_or(kind.rates))?;
        let others = kind.create_others(limit.period);
        let trigger = kind.create_trial_trigger();
        client.batch_execute(&format!("{others}{trigger}"))?;
        statements
            .push("-- The same limit, and who goes on is banned. Half of it, on trial.".to_owned());
        statements.extend([others, trigger]);
        let export = format!("SELECT rl_export_config() #>> '{{limiters,{TRIAL},rates}}'");
        let trial = client.query_one(&export, &[])?.get(0);
        Ok(Self { server, kind, limit, trial, statements })
    }

    /// The statements that set all up.
    pub fn shown(&self) -> String {
        self.statements.join("\n")
    }

    pub fn version(&self, client: &mut Client) -> Result<String> {
        let row = client.query_one(
            "SELECT format('PostgreSQL %s with ratelimit %s preloaded', current_setting('server_version'),
                           extversion)
               FROM pg_extension WHERE extname = 'ratelimit'",
            &[],
        )?;
        Ok(row.get(0))
    }

    /// Makes the limiters' periods and bans shorter by as much as the replay is faster than the log.
    pub fn hasten(&self, client: &mut Client, plan: &Plan, screen: &mut Screen) -> Result<()> {
        if plan.speed > 1 {
            let speed = plan.speed;
            let change = format!(
                "UPDATE rl_rules SET period = period / {speed};\n\
                 UPDATE rl_limiters\n   \
                    SET ban_within = ban_within / {speed}, ban_for = ban_for / {speed};"
            );
            client.batch_execute(&change)?;
            screen.sql(&change)?;
            say!(screen)?;
        }
        Ok(())
    }

    /// Gives the limiters the log's pace again, and forgets what was used.
    pub fn slow_down(&self, client: &mut Client) -> Result<()> {
        let create = self.kind.create_limiter(&self.limit.rates);
        let others = self.kind.create_others(self.limit.period);
        let names = [self.kind.limiter, STRICT, TRIAL];
        let drop = names.map(|name| format!("SELECT rl_drop_limiter('{name}');")).concat();
        client.batch_execute(&format!("BEGIN; {drop} {create} {others} COMMIT"))?;
        Ok(())
    }

    /// How to open psql.
    pub fn psql(&self) -> String {
        let program = self.server.tree().program("psql");
        let program = if program.exists() { program.as_path() } else { Path::new("psql") };
        format!("{} -h {} -U postgres", program.display(), self.server.host())
    }

    /// Leaves the server running and returns the command that ends it.
    pub fn detach(self) -> Result<String> {
        // Run as root, the server may have a copy of the installation in a temporary folder.
        let bindir = self.server.tree().bindir.clone();
        let copy = bindir.ancestors().find(|folder| folder.parent() == Some(Path::new("/tmp")));
        let folder = self.server.detach()?;
        let folder = folder.display();
        let copy = copy.map_or(String::new(), |copy| format!(" {}", copy.display()));
        Ok(format!("kill -INT $(head -1 {folder}/data/postmaster.pid); rm -rf {folder}{copy}"))
    }
}

impl Limit {
    fn read(client: &mut Client, kind: &Kind, rates: &str) -> Result<Self> {
        let row = client.query_one(
            "SELECT min(seconds), max(seconds * greatest(1, burst / quota))
               FROM (SELECT extract(epoch FROM period)::float8 AS seconds, burst::float8, greatest(quota, 1) AS quota
                       FROM rl_rules WHERE limiter = $1) AS rules",
            &[&kind.limiter],
        )?;
        Ok(Self {
            rates: rates.to_owned(),
            period: Duration::from_secs_f64(row.get(0)),
            refill: Duration::from_secs_f64(row.get(1)),
        })
    }
}
