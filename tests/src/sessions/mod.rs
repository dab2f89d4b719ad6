//! Tests with several sessions, and with servers that stop or crash.

mod lifecycle;

use anyhow::Result;

use crate::bed::Bed;

/// A name and what to do.
pub type Test = (&'static str, fn(&Bed) -> Result<()>);

/// All tests; each module lists its own.
pub fn tests() -> Vec<Test> {
    [lifecycle::TESTS].concat()
}
