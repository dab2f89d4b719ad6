//! How a key is known: a 128-bit SipHash-1-3 with a secret of the server's, so that nobody outside can make two keys collide.
//!
//! Jean-Philippe Aumasson and Daniel J. Bernstein, "SipHash: a fast short-input PRF", 2012.

use core::hash::Hasher;
use siphasher::sip128::{Hasher128, SipHasher13};

/// The server's secret, drawn at random when shared memory is made.
pub type Secret = [u8; 16];

/// A hasher that has already taken in which limiter it is for: one per definition, cloned for each key.
#[derive(Clone, Copy, Debug)]
pub struct KeyHasher {
    hasher: SipHasher13,
    tag: u32,
}

impl KeyHasher {
    /// For the limiter with this identity: parts that are written one after the other, each with its length before it, so
    /// that no two lists of parts give the same bytes.
    pub fn new(secret: &Secret, identity: &[&[u8]]) -> Self {
        let mut hasher = SipHasher13::new_with_key(secret);
        for part in identity {
            hasher.write(&(part.len() as u64).to_le_bytes());
            hasher.write(part);
        }
        let tag = (hasher.finish128().h1 >> 32) as u32;
        KeyHasher { hasher, tag }
    }

    /// Marks the limiter's cells in the table. Two limiters share a tag once in four thousand million.
    pub fn tag(&self) -> u32 {
        self.tag
    }

    /// The identity of a key under this limiter. The first word is never 0, which marks an unused cell.
    #[inline(always)]
    pub fn key(&self, key: &[u8]) -> [u64; 2] {
        let mut hasher = self.hasher;
        hasher.write(key);
        let hash = hasher.finish128();
        [hash.h1 | 1, hash.h2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_identity_do_not_run_together() {
        let of = |parts: &[&[u8]]| KeyHasher::new(&[7; 16], parts).key(b"k");
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
        assert_ne!(of(&[b"ab"]), of(&[b"ab", b""]));
    }

    #[test]
    fn another_secret_gives_other_keys() {
        let with = |secret| KeyHasher::new(&[secret; 16], &[b"api"]).key(b"user:42");
        assert_ne!(with(1), with(2));
        assert_eq!(with(1), with(1));
    }
}
