//! The keys that are denied most, in memory that does not grow: Space-Saving.
//!
//! A. Metwally, D. Agrawal, A. El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data Streams", ICDT 2005. There is a
//! counter for each of so many keys. A key that has none takes that of the key with the smallest count, and goes on from there: so
//! its count is too large by at most what it began with, its error. With m counters and N denials, no error is above N/m, and
//! each key with more than N/m denials has a counter. Denials that were told together count together.

use crate::table::Key;
use crate::time::Micros;

/// How many keys are tracked at a time.
pub const TRACKED: usize = 64;

/// How many bytes of a key are kept.
pub const MAX_TEXT: usize = 100;

/// Keys that are tracked. Valid when it is all zero.
///
/// Finding a key, or the smallest count, reads all of one array: so few are as fast as any index of them, and need none.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct HeavyHitters {
    /// Never begin with 0 where there is one.
    keys: [Key; TRACKED],
    counts: [u64; TRACKED],
    details: [Detail; TRACKED],
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Detail {
    error: u64,
    allowed: u64,
    last: Micros,
    owner: u32,
    length: u32,
    text: [u8; MAX_TEXT],
}

/// What is told of a key that was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting<'a> {
    /// The key's identity.
    pub key: Key,
    /// Whose key it is.
    pub owner: u32,
    /// The key as it is shown; what is longer than [`MAX_TEXT`] is cut there.
    pub text: &'a [u8],
    /// How often it was denied.
    pub denied: u64,
    /// How often it was allowed: that alone gives no counter to a key.
    pub allowed: u64,
    /// When it was denied last.
    pub last: Micros,
}

/// A tracked key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hitter<'a> {
    /// What was told of it. `denied` is what was counted since it is tracked: never too much, and by at most the error too little.
    pub seen: Sighting<'a>,
    /// How much it may have been denied before.
    pub error: u64,
}

impl HeavyHitters {
    /// Counts a key. The answer is the key that had to go for it.
    pub fn add(&mut self, seen: &Sighting<'_>) -> Option<Key> {
        if let Some(place) = self.keys.iter().position(|key| *key == seen.key) {
            if let (Some(count), Some(detail)) =
                (self.counts.get_mut(place), self.details.get_mut(place))
            {
                *count = count.saturating_add(seen.denied);
                detail.allowed = detail.allowed.saturating_add(seen.allowed);
                detail.last = detail.last.max(seen.last);
            }
            return None;
        }
        if seen.denied == 0 || seen.key[0] == 0 {
            return None;
        }
        // What is free counts 0, and nothing else does.
        let (place, error) = self.smallest();
        let gone = self.keys.get(place).copied().filter(|key| key[0] != 0);
        self.set(place, &Hitter { seen: *seen, error });
        gone
    }

    /// Puts a key back that was tracked before, if there is room; says whether there is.
    pub fn restore(&mut self, hitter: &Hitter<'_>) -> bool {
        let (place, smallest) = self.smallest();
        let fits = smallest == 0 && hitter.seen.denied > 0 && hitter.seen.key[0] != 0;
        if fits {
            self.set(place, hitter);
        }
        fits
    }

    fn smallest(&self) -> (usize, u64) {
        let first = (0, u64::MAX);
        self.counts.iter().enumerate().fold(first, |least, (place, count)| {
            if *count < least.1 {
                (place, *count)
            } else {
                least
            }
        })
    }

    fn set(&mut self, place: usize, hitter: &Hitter<'_>) {
        let Hitter { seen, error } = *hitter;
        let text = seen.text.get(..MAX_TEXT).unwrap_or(seen.text);
        let mut detail = Detail {
            error,
            allowed: seen.allowed,
            last: seen.last,
            owner: seen.owner,
            length: text.len() as u32,
            text: [0; MAX_TEXT],
        };
        if let Some(start) = detail.text.get_mut(..text.len()) {
            start.copy_from_slice(text);
        }
        let places =
            (self.keys.get_mut(place), self.counts.get_mut(place), self.details.get_mut(place));
        if let (Some(key), Some(count), Some(kept)) = places {
            (*key, *count, *kept) = (seen.key, error.saturating_add(seen.denied), detail);
        }
    }

    /// Forgets the keys that are to go, and tells of each.
    pub fn remove(&mut self, goes: impl Fn(u32) -> bool, mut gone: impl FnMut(Key)) {
        let places = self.keys.iter_mut().zip(&mut self.counts).zip(&mut self.details);
        for ((key, count), detail) in places {
            if key[0] != 0 && goes(detail.owner) {
                gone(*key);
                (*key, *count) = ([0, 0], 0);
                detail.text = [0; MAX_TEXT];
            }
        }
    }

    /// The keys that are tracked, in no order.
    pub fn iter(&self) -> impl Iterator<Item = Hitter<'_>> {
        let places = self.keys.iter().zip(&self.counts).zip(&self.details);
        places.filter(|((key, _), _)| key[0] != 0).map(|((key, count), detail)| Hitter {
            seen: Sighting {
                key: *key,
                owner: detail.owner,
                text: detail.text.get(..detail.length as usize).unwrap_or_default(),
                denied: count.saturating_sub(detail.error),
                allowed: detail.allowed,
                last: detail.last,
            },
            error: detail.error,
        })
    }
}

impl Default for HeavyHitters {
    fn default() -> Self {
        let detail =
            Detail { error: 0, allowed: 0, last: 0, owner: 0, length: 0, text: [0; MAX_TEXT] };
        HeavyHitters { keys: [[0; 2]; TRACKED], counts: [0; TRACKED], details: [detail; TRACKED] }
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn denied(key: u64, times: u64) -> Sighting<'static> {
        Sighting { key: [key, key], owner: 1, text: b"key", denied: times, allowed: 0, last: 0 }
    }

    fn found(hitters: &HeavyHitters, key: u64) -> Option<Hitter<'_>> {
        hitters.iter().find(|hitter| hitter.seen.key == [key, key])
    }

    #[test]
    fn few_keys_are_counted_exactly() {
        let mut hitters = HeavyHitters::default();
        for key in 1..=TRACKED as u64 {
            assert_eq!(hitters.add(&denied(key, key)), None);
            assert_eq!(hitters.add(&Sighting { allowed: 2, last: 9, ..denied(key, 1) }), None);
        }
        for key in 1..=TRACKED as u64 {
            let hitter = found(&hitters, key).unwrap();
            let Sighting { denied, allowed, last, text, .. } = hitter.seen;
            assert_eq!(
                (denied, allowed, last, text, hitter.error),
                (key + 1, 2, 9, &b"key"[..], 0)
            );
        }
    }

    #[test]
    fn a_new_key_takes_the_place_of_the_least_denied() {
        let mut hitters = HeavyHitters::default();
        for key in 1..=TRACKED as u64 {
            hitters.add(&denied(key, 100 + key));
        }
        assert_eq!(hitters.add(&denied(1_000, 2)), Some([1, 1]));
        let new = found(&hitters, 1_000).unwrap();
        assert_eq!((new.seen.denied, new.error), (2, 101));
        assert!(found(&hitters, 1).is_none());
    }

    #[test]
    fn what_is_allowed_tracks_nobody() {
        let mut hitters = HeavyHitters::default();
        assert_eq!(hitters.add(&Sighting { allowed: 5, ..denied(1, 0) }), None);
        assert_eq!(hitters.iter().count(), 0);
    }

    #[test]
    fn a_long_key_is_cut() {
        let mut hitters = HeavyHitters::default();
        hitters.add(&Sighting { text: &[b'x'; 3 * MAX_TEXT], ..denied(1, 1) });
        assert_eq!(found(&hitters, 1).unwrap().seen.text, [b'x'; MAX_TEXT]);
    }

    #[test]
    fn the_keys_of_one_owner_are_forgotten() {
        let mut hitters = HeavyHitters::default();
        hitters.add(&denied(1, 1));
        hitters.add(&Sighting { owner: 2, ..denied(2, 1) });
        let mut gone = Vec::new();
        hitters.remove(|owner| owner == 1, |key| gone.push(key));
        assert_eq!(gone, [[1, 1]]);
        assert_eq!(hitters.iter().map(|hitter| hitter.seen.owner).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn what_was_saved_comes_back_as_it_was() {
        let mut hitters = HeavyHitters::default();
        for key in 1..=2 * TRACKED as u64 {
            hitters.add(&denied(key, key));
        }
        let mut restored = HeavyHitters::default();
        assert!(hitters.iter().all(|hitter| restored.restore(&hitter)));
        let all = |hitters: &HeavyHitters| {
            let key = |h: Hitter<'_>| (h.seen.key, h.seen.denied, h.error, h.seen.text.to_vec());
            hitters.iter().map(key).collect::<Vec<_>>()
        };
        assert_eq!(all(&restored), all(&hitters));
        assert!(!restored.restore(&Hitter { seen: denied(9_999, 1), error: 0 }), "it is full");
    }

    proptest! {
        /// The bounds of the paper's lemmas, for any stream.
        #[test]
        fn errors_are_bounded(
            stream in prop::collection::vec((prop_oneof![1..20_u64, 1..400_u64], 1..5_u64), 0..600),
        ) {
            let (mut hitters, mut truth) = (HeavyHitters::default(), BTreeMap::new());
            for (key, times) in &stream {
                hitters.add(&denied(*key, *times));
                *truth.entry(*key).or_insert(0) += *times;
            }
            let all: u64 = truth.values().sum();
            let bound = all / TRACKED as u64;
            let count: u64 = hitters.iter().map(|hitter| hitter.seen.denied + hitter.error).sum();
            prop_assert_eq!(count, all, "what one key gives up the next one takes over");
            for hitter in hitters.iter() {
                let true_count = truth[&hitter.seen.key[0]];
                prop_assert!(hitter.error <= bound);
                prop_assert!(hitter.seen.denied <= true_count);
                prop_assert!(true_count <= hitter.seen.denied + hitter.error);
            }
            for (key, _) in truth.iter().filter(|(_, count)| **count > bound) {
                prop_assert!(found(&hitters, *key).is_some(), "key {} is missing", key);
            }
        }
    }
}
