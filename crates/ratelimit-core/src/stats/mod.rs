//! What is counted of limiters, and which of their keys are denied most: plain memory that many processes share.
//!
//! [`Totals`] are counters that are added to side by side. [`HeavyHitters`] need a lock of the host's. Nothing here decides anything,
//! waits, fails or allocates; memory of zeros has counted nothing.

mod heavy;
mod totals;
mod watch;

pub use heavy::{HeavyHitters, Hitter, Sighting, MAX_TEXT, TRACKED};
pub use totals::{Counter, Counts, LimiterId, Place, Total, Totals, COUNTERS};
pub use watch::{Watch, WATCHED};
