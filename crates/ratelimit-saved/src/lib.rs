//! The file in which memory is saved: how it is written, and read with distrust.
//!
//! A [`Head`], the records, and an end with a checksum over all before it. All numbers are little-endian.
//!
//! | head | | state | | lease | | end | |
//! |---|---|---|---|---|---|---|---|
//! | 8 | [`MAGIC`] | 1 | kind, 1 to 252 | 1 | [`LEASE`] | 1 | [`END`] |
//! | 4 | [`VERSION`] | 1 | 1 if it is a key's first rule | 1 | bytes of the text | 8 | how many records |
//! | 8 | the cluster's system identifier | 2 | how many times | 4 | the database | 4 | CRC-32 |
//! | 16 | the secret | 4 | the limiter's tag | 16 | the limiter's id | | |
//! | 8, 8 | the clock, steady and wall | 16 | the key | 16 | the key | | |
//! | | | 8, 8 | fresh, open | 16 | the token | | |
//! | | | 24 | the words | 8, 8 | since, expires | | |
//! | | | 8 each | the times | | the text | | |
//!
//! | total of a limiter | | denied key | |
//! |---|---|---|---|
//! | 1 | [`TOTAL`] | 1 | [`DENIED`] |
//! | 1 | how many counters; others are 0 | 1 | bytes of the text |
//! | 4 | the database | 4 | the database |
//! | 16 | the limiter's id | 16 | the limiter's id |
//! | 8 | since when it is counted | 16 | the key |
//! | 8 each | the counters | 8, 8 | denied, and the error |
//! | | | 8, 8 | allowed, denied last |
//! | | | | the text |
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{read, Flaw};
pub use write::Writer;

use ratelimit_core::slots::Lease;
use ratelimit_core::stats::{Counts, Hitter, LimiterId};
use ratelimit_core::table::Record;
use ratelimit_core::{Micros, Now, Secret};

/// How the file begins.
const MAGIC: &[u8; 8] = b"rl_state";
/// Changes with the layout of the file, and with what the words of any kind mean.
const VERSION: u32 = 2;
/// How records begin that are not of a state, whose kinds lie between.
const END: u8 = 0;
const LEASE: u8 = u8::MAX;
const TOTAL: u8 = 254;
const DENIED: u8 = 253;

/// What the file says of the server that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The cluster's system identifier.
    pub system: u64,
    /// With which keys were hashed.
    pub secret: Secret,
    /// When it was written.
    pub clock: Now,
}

/// What the file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// What a key has used of a rule.
    State(Record<'a>),
    /// A lease.
    Lease(Lease),
    /// What was counted of a limiter.
    Total(SavedTotal),
    /// A key that was denied.
    Denied(SavedKey<'a>),
}

/// What was counted of a limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedTotal {
    /// The database of the limiter.
    pub database: u32,
    /// The limiter.
    pub limiter: LimiterId,
    /// Since when it is counted, by the wall clock.
    pub since: Micros,
    /// What was counted.
    pub counts: Counts,
}

/// A key of a limiter that was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedKey<'a> {
    /// The database of the limiter.
    pub database: u32,
    /// The limiter.
    pub limiter: LimiterId,
    /// The key. Its owner is not saved: it reads 0.
    pub hitter: Hitter<'a>,
}
