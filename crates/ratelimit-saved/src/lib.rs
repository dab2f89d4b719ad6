//! The file in which memory is saved: how it is written, and read with distrust.
//!
//! A [`Head`], the records of the states, and an end with a checksum over all before it. All numbers are little-endian.
//!
//! | head | | record | | end | |
//! |---|---|---|---|---|---|
//! | 8 | [`MAGIC`] | 1 | kind, never 0 | 1 | 0 |
//! | 4 | [`VERSION`] | 1 | 1 if it is a key's first rule | 8 | how many records |
//! | 8 | the cluster's system identifier | 2 | how many times | 4 | CRC-32 |
//! | 16 | the secret | 4 | the limiter's tag | | |
//! | 8, 8 | the clock, steady and wall | 16 | the key | | |
//! | | | 8, 8 | fresh, open | | |
//! | | | 24 | the words | | |
//! | | | 8 each | the times | | |
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{read, Flaw};
pub use write::Writer;

use ratelimit_core::{Now, Secret};

/// How the file begins.
const MAGIC: &[u8; 8] = b"rl_state";
/// Changes with the layout of the file, and with what the words of any kind mean.
const VERSION: u32 = 1;

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
