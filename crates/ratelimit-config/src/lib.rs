//! The document that defines all limiters of a database: read, compared with the tables, and written. No PostgreSQL.
//!
//! ```json
//! {"limiters": {"api": {"rates": "100 per minute"},
//!               "login": {"rates": "5 per 5 minutes", "algorithm": "sliding_log", "ban": {"after": 20, "within": "1 hour"}}}}
//! ```
//!
//! A [`limiter::Limiter`] stands between the document and the rows: [`read`] makes it from the one, serde from the others, and two
//! that are equal mean the same. [`write`] and serde go back.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::float_arithmetic)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a test says what it expects by panicking"
    )
)]

mod document;
mod interval;
pub mod limiter;
mod moment;
mod plan;
mod read;
#[cfg(test)]
mod tests;
mod write;

use serde_json::Value;

pub use document::Mistake;
pub use moment::Moment;
pub use plan::{Action, Step};

/// What only the server knows.
pub trait Server {
    /// Whether limits can be counted in shared memory, which they are unless told otherwise.
    fn has_memory(&self) -> bool;
    /// The time by the wall clock.
    fn now(&self) -> Moment;
    /// Whether an interval can be infinite, which came with PostgreSQL 17.
    fn has_infinite_intervals(&self) -> bool;
    /// Whether there is a time zone of that name.
    fn knows_time_zone(&self, name: &str) -> bool;
    /// Why no limiter can be called so, as a sentence.
    fn name_flaw(&self, name: &str) -> Option<&'static str>;
}

/// Why there is no plan, or no document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The document is wrong in these places.
    Document(Vec<Mistake>),
    /// The rows of a limiter make no sense.
    Rows {
        /// The limiter.
        limiter: String,
        /// Why.
        detail: String,
    },
}

/// What is to be done to make the tables equal to a document. `rows` is a JSON array of the limiters that there are, each with the
/// columns of its row and its `rules` in order, and its `overrides`
/// by key.
///
/// # Errors
/// What is wrong with the document.
pub fn plan(
    document: &str,
    rows: &str,
    prune: bool,
    server: &dyn Server,
) -> Result<Vec<Step>, Flaw> {
    let wanted = read::read(document, server).map_err(Flaw::Document)?;
    let current = stored(rows)?.into_iter().map(|(name, limiter)| (name, limiter.ok())).collect();
    Ok(plan::plan(wanted, &current, prune))
}

/// The document that says what the tables say.
///
/// # Errors
/// Which limiter makes no sense.
pub fn export(rows: &str, server: &dyn Server) -> Result<Value, Flaw> {
    let limiters = stored(rows)?.into_iter().map(|(name, stored)| {
        stored.map_err(|error| Flaw::Rows { limiter: name, detail: error.to_string() })
    });
    Ok(write::write(&limiters.collect::<Result<Vec<_>, _>>()?, server))
}

type Stored = (String, serde_json::Result<limiter::Limiter>);

fn stored(rows: &str) -> Result<Vec<Stored>, Flaw> {
    let rows: Vec<Value> = serde_json::from_str(rows)
        .map_err(|error| Flaw::Rows { limiter: String::new(), detail: error.to_string() })?;
    let name = |row: &Value| row.get("name").and_then(Value::as_str).unwrap_or("").to_owned();
    Ok(rows.into_iter().map(|row| (name(&row), serde_json::from_value(row))).collect())
}
