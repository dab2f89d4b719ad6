//! The kinds of limiters that differ in what a rollback does.

use anyhow::{Context, Result};

use super::ask::{Ask, AGE};
use super::FileTest;
use crate::bed::{Bed, Database};

pub const ALGORITHMS: [&str; 4] = ["token_bucket", "fixed_window", "sliding_window", "sliding_log"];

/// A kind of limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In memory; what was taken stays taken.
    Keep,
    /// In memory; given back.
    Refund,
    /// In tables; given back.
    Durable,
}

pub const KINDS: [Kind; 3] = [Kind::Keep, Kind::Refund, Kind::Durable];

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Keep => "keep",
            Kind::Refund => "refund",
            Kind::Durable => "durable",
        }
    }

    /// What `rl_create_limiter` is told.
    pub fn options(self) -> &'static str {
        match self {
            Kind::Keep => "storage => 'memory', on_rollback => 'keep'",
            Kind::Refund => "storage => 'memory', on_rollback => 'refund'",
            Kind::Durable => "storage => 'durable'",
        }
    }

    pub fn gives_back(self) -> bool {
        self != Kind::Keep
    }

    /// What is left in the end, where a rollback gives back, and where it keeps.
    pub fn pick(self, given_back: i64, kept: i64) -> i64 {
        if self.gives_back() {
            given_back
        } else {
            kept
        }
    }

    /// Creates a limiter.
    pub fn create(
        self,
        session: &mut impl Ask,
        name: &str,
        rates: &str,
        algorithm: &str,
    ) -> Result<()> {
        let options = self.options();
        let create =
            format!("SELECT rl_create_limiter('{name}', '{rates}', '{algorithm}', {options})");
        session.ask::<String>(&create).with_context(|| format!("{self:?}, {algorithm}")).map(drop)
    }

    /// Creates a limiter of each algorithm, named by it, of which nothing comes back during a test.
    pub fn create_all(self, session: &mut impl Ask, quota: i64) -> Result<()> {
        ALGORITHMS
            .iter()
            .try_for_each(|name| self.create(session, name, &format!("{quota} per {AGE}"), name))
    }
}

/// What a test of one kind gets: a database of its own, named like the test.
pub struct Case<'a> {
    pub kind: Kind,
    pub database: Database<'a>,
}

/// A behaviour, as what comes after "keeps" or "gives back" in a test's name, and its test.
pub type KindTest = (&'static str, fn(&Case) -> Result<()>);

/// One test for each kind and behaviour.
pub fn of_each(kinds: &[Kind], tests: &'static [KindTest]) -> Vec<FileTest> {
    let each = kinds.iter().flat_map(|kind| tests.iter().map(|test| (*kind, test)));
    each.map(|(kind, (behaviour, test))| -> FileTest {
        let verb = if kind.gives_back() { "gives_back" } else { "keeps" };
        let name = format!("{}_{verb}_{behaviour}", kind.name());
        let database = name.clone();
        (name, Box::new(move |bed: &Bed| test(&Case { kind, database: bed.database(&database)? })))
    })
    .collect()
}

impl Case<'_> {
    /// A session, and a limiter `api` of 10.
    pub fn session(&self) -> Result<postgres::Client> {
        let mut session = self.database.connect()?;
        self.kind.create(&mut session, "api", &format!("10 per {AGE}"), "token_bucket")?;
        Ok(session)
    }

    /// Checks what is left, in a session of its own.
    pub fn ensure_left(&self, given_back: i64, kept: i64) -> Result<()> {
        let left = self.database.connect()?.left("api", "key")?;
        let expected = self.kind.pick(given_back, kept);
        anyhow::ensure!(left == expected, "{left} left instead of {expected}");
        Ok(())
    }
}
