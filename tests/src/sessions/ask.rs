//! Short ways to ask a server, and to wait for what it does on its own.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use postgres::error::DbError;
use postgres::types::FromSqlOwned;
use postgres::GenericClient;

/// How long something may take that happens on its own.
const PATIENCE: Duration = Duration::from_secs(60);

/// A period of which no end falls into a test: windows of this length are counted from 1970 on. A
/// bucket of 1000 gains one in 36 days.
pub const AGE: &str = "36500 days";

/// What tests ask of a session.
pub trait Ask {
    /// The only value that a query returns.
    fn ask<T: FromSqlOwned>(&mut self, query: &str) -> Result<T>;

    /// The error that the server answers with.
    fn refused(&mut self, query: &str) -> Result<DbError>;

    /// Waits until a statement that failed is rolled back: the error is sent before.
    fn settle(&mut self);

    /// Creates a token bucket that a test cannot see refill.
    fn limiter(&mut self, name: &str, quota: i64) -> Result<()> {
        self.ask::<String>(&format!("SELECT rl_create_limiter('{name}', '{quota} per {AGE}')"))?;
        Ok(())
    }

    /// Whether one passes.
    fn takes(&mut self, limiter: &str, key: &str) -> Result<bool> {
        self.ask(&format!("SELECT rl_try_acquire('{limiter}', '{key}')"))
    }

    /// How many are left.
    fn left(&mut self, limiter: &str, key: &str) -> Result<i64> {
        self.ask(&format!("SELECT remaining FROM rl_peek('{limiter}', '{key}', 0)"))
    }

    /// The quota as the session sees it.
    fn quota(&mut self, limiter: &str) -> Result<i64> {
        self.ask(&format!("SELECT quota FROM rl_peek('{limiter}', 'anybody')"))
    }

    /// The process that serves the session.
    fn pid(&mut self) -> Result<i32> {
        self.ask("SELECT pg_backend_pid()")
    }
}

impl<C: GenericClient> Ask for C {
    fn ask<T: FromSqlOwned>(&mut self, query: &str) -> Result<T> {
        let row = self.query_one(query, &[]).with_context(|| query.to_owned())?;
        row.try_get(0).with_context(|| query.to_owned())
    }

    fn refused(&mut self, query: &str) -> Result<DbError> {
        let Err(error) = self.batch_execute(query) else {
            bail!("no error: {query}");
        };
        self.settle();
        error.as_db_error().cloned().with_context(|| format!("{error}: {query}"))
    }

    fn settle(&mut self) {
        // Of a session that has ended, too.
        let _ = self.batch_execute("");
    }
}

/// Checks an error's SQLSTATE.
pub fn ensure_code(error: &DbError, code: &str) -> Result<()> {
    ensure!(error.code().code() == code, "{} instead of {code}: {error}", error.code().code());
    Ok(())
}

/// Waits until `happened`.
pub fn eventually(what: &str, mut happened: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !happened()? {
        ensure!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Runs a program with `input`, and returns what it prints.
pub fn run(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    use std::io::Write;

    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    let written = child.stdin.take().context("no input")?.write_all(input);
    let output = child.wait_with_output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {}\n{errors}", output.status);
    written?;
    Ok(output.stdout)
}
