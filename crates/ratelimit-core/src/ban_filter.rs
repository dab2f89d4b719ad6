//! Which keys may be banned in shared memory, told without a look at the table: a Bloom filter, as that of [`lists`](crate::lists), from
//! which bans that have ended go again. A flood of bans must not slow down calls for good.
//!
//! There are two filters. Both are marked by each ban, *after* it has been written; calls look at one of them. To renew the other it is
//! cleared first and then marked for all bans that are found, and then calls look at that. A ban that is not found was written later than
//! the filter was cleared, so its own mark is there.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::lists::mark;
use crate::table::Key;

const WORDS: usize = crate::lists::WORDS;

/// So many marks are worth a renewal: about one key in two hundred that is not then looks as if it were banned.
const MANY: u32 = 32_768;

/// Shared by all processes; all zero at first.
#[repr(C)]
#[derive(Debug)]
pub struct BanFilter {
    filters: [[AtomicU64; WORDS]; 2],
    /// How often one was renewed: the last bit says at which to look.
    renewals: AtomicU32,
    /// How many marks have been made since.
    marks: AtomicU32,
    /// Whether somebody is at it.
    renewing: AtomicU32,
}

impl BanFilter {
    /// Says that a key has just been banned.
    pub fn add(&self, key: Key) {
        let (word, bits) = mark(key);
        for word in self.filters.iter().filter_map(|filter| filter.get(word)) {
            word.fetch_or(bits, Ordering::AcqRel);
        }
        self.marks.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a key may be banned.
    #[inline(always)]
    pub fn may_have(&self, key: Key) -> bool {
        let (word, bits) = mark(key);
        let renewals = self.renewals.load(Ordering::Acquire);
        let filter = self.filters.get(renewals as usize & 1);
        let marks = filter.and_then(|filter| filter.get(word));
        let found = marks.is_none_or(|marks| marks.load(Ordering::Acquire) & bits == bits);
        // Who was held up may have looked at a filter that was being renewed.
        found || self.renewals.load(Ordering::Relaxed) != renewals
    }

    /// Whether there are many marks, of which most may be of bans that have ended.
    pub fn is_worn(&self) -> bool {
        self.marks.load(Ordering::Relaxed) >= MANY
    }

    /// Forgets the keys that are not banned any more; `bans` shows all that are. One process at a time does it.
    pub fn renew(&self, bans: impl FnOnce(&mut dyn FnMut(Key))) {
        if self.renewing.swap(1, Ordering::AcqRel) == 1 {
            return;
        }
        self.marks.store(0, Ordering::Relaxed);
        let renewals = self.renewals.load(Ordering::Relaxed).wrapping_add(1);
        if let Some(filter) = self.filters.get(renewals as usize & 1) {
            for word in filter {
                // Not a store: what is found afterwards is to be as new as the marks that are cleared.
                word.swap(0, Ordering::AcqRel);
            }
            bans(&mut |key| {
                let (word, bits) = mark(key);
                if let Some(word) = filter.get(word) {
                    word.fetch_or(bits, Ordering::AcqRel);
                }
            });
        }
        self.renewals.store(renewals, Ordering::Release);
        self.renewing.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyHasher;
    use alloc::boxed::Box;
    use alloc::vec::Vec;

    fn filter() -> Box<BanFilter> {
        Box::new(BanFilter {
            filters: [const { [const { AtomicU64::new(0) }; _] }; _],
            renewals: AtomicU32::new(0),
            marks: AtomicU32::new(0),
            renewing: AtomicU32::new(0),
        })
    }

    fn key(n: u64) -> Key {
        KeyHasher::new(&[7; 16], &[]).key(&n.to_le_bytes())
    }

    #[test]
    fn a_banned_key_is_found_and_most_others_are_not() {
        let filter = filter();
        assert!(!filter.may_have(key(1)));
        (0..u64::from(MANY)).for_each(|n| filter.add(key(n)));
        assert!((0..u64::from(MANY)).all(|n| filter.may_have(key(n))));
        let mistaken = (100_000..200_000).filter(|n| filter.may_have(key(*n))).count();
        assert!(mistaken < 600, "{mistaken} of 100,000");
    }

    #[test]
    fn bans_that_have_ended_are_forgotten_and_no_others() {
        let filter = filter();
        for round in 0..4 {
            let begin = round * 100_000;
            assert!(!filter.is_worn());
            (begin..begin + u64::from(MANY)).for_each(|n| filter.add(key(n)));
            assert!(filter.is_worn());
            let held: Vec<Key> = (begin..begin + 9).map(key).collect();
            filter.renew(|show| {
                held.iter().for_each(|key| show(*key));
                // One that is written meanwhile, where the look for bans has been already.
                filter.add(key(begin + 50_000));
                filter.renew(|_| panic!("two at a time"));
            });
            assert!(held.iter().all(|key| filter.may_have(*key)));
            assert!(filter.may_have(key(begin + 50_000)));
            let old = (begin + 10..begin + u64::from(MANY)).filter(|n| filter.may_have(key(*n)));
            assert!(old.count() < 20);
        }
    }
}
