//! The file in which memory is saved: how it is written, and read with distrust.
//!
//! A [`Head`], the records of states and leases, and an end with a checksum over all before it. All numbers are little-endian.
//!
//! | head | | state | | lease | | end | |
//! |---|---|---|---|---|---|---|---|
//! | 8 | [`MAGIC`] | 1 | kind, 1 to 254 | 1 | [`LEASE`] | 1 | [`END`] |
//! | 4 | [`VERSION`] | 1 | 1 if it is a key's first rule | 1 | bytes of the text | 8 | how many records |
//! | 8 | the cluster's system identifier | 2 | how many times | 4 | the database | 4 | CRC-32 |
//! | 16 | the secret | 4 | the limiter's tag | 16 | the limiter's id | | |
//! | 8, 8 | the clock, steady and wall | 16 | the key | 16 | the key | | |
//! | | | 8, 8 | fresh, open | 16 | the token | | |
//! | | | 24 | the words | 8, 8 | since, expires | | |
//! | | | 8 each | the times | | the text | | |
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{read, Flaw};
pub use write::Writer;

use ratelimit_core::slots::Lease;
use ratelimit_core::table::Record;
use ratelimit_core::{Now, Secret};

/// How the file begins.
const MAGIC: &[u8; 8] = b"rl_state";
/// Changes with the layout of the file, and with what the words of any kind mean.
const VERSION: u32 = 2;
/// How records begin that are not of a state, whose kinds lie between.
const END: u8 = 0;
const LEASE: u8 = u8::MAX;

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
}
