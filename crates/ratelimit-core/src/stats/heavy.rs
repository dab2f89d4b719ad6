//! The keys that are denied most, in memory that does not grow: Space-Saving.
//!
//! A. Metwally, D. Agrawal, A. El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data Streams", ICDT 2005. There is a
//! counter for each of so many keys. A key that has none takes that of the key with the smallest count, and goes on from there: so
//! its count is too large by at most what it began with, its error. With m counters and N denials, no error is above N/m, and
//! each key with more than N/m denials has a counter. Denials that were told together count together.

use super::watch::Watch;
use crate::table::Key;
use crate::time::Micros;

/// How many keys are tracked at a time.
pub const TRACKED: usize = 64;

/// How many bytes of a key are kept.
pub const MAX_TEXT: usize = 100;

/// Keys that are tracked. Valid when it is all zero.
///
/// Finding a key reads all of one array: so few need no index. A smallest count is looked for from where the last one was, as in a flood of
/// new keys most counts are the smallest.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct HeavyHitters {
    /// Never begin with 0 where there is one.
    keys: [Key; TRACKED],
    counts: [u64; TRACKED],
    /// No count is smaller.
    least: u64,
    /// Where to look for the next one that is as small.
    next: u64,
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
    /// Counts a key, and keeps `watch` up to date, which is for this sketch and perhaps others.
    pub fn add(&mut self, seen: &Sighting<'_>, watch: &Watch<'_>) {
        if seen.key[0] == 0 {
            return;
        }
        let known = watch.may_have(seen.key);
        let find = || self.keys.iter().position(|key| *key == seen.key);
        if let Some(place) = known.then(find).flatten() {
            if let (Some(count), Some(detail)) =
                (self.counts.get_mut(place), self.details.get_mut(place))
            {
                *count = count.saturating_add(seen.denied);
                detail.allowed = detail.allowed.saturating_add(seen.allowed);
                detail.last = detail.last.max(seen.last);
            }
        } else if seen.denied > 0 {
            let (place, error) = self.smallest();
            self.set(place, &Hitter { seen: *seen, error }, watch);
        }
    }

    /// Puts a key back that was tracked before, if there is room; says whether there is.
    pub fn restore(&mut self, hitter: &Hitter<'_>, watch: &Watch<'_>) -> bool {
        let (place, smallest) = self.smallest();
        let fits = smallest == 0 && hitter.seen.denied > 0 && hitter.seen.key[0] != 0;
        if fits {
            self.set(place, hitter, watch);
        }
        fits
    }

    /// The place with the smallest count, and that count. What is free counts 0, and nothing else does.
    fn smallest(&mut self) -> (usize, u64) {
        let start = self.next as usize % TRACKED;
        let places = || (start..TRACKED).chain(0..start);
        let with = |least| places().find(|place| self.counts.get(*place) == Some(&least));
        let (place, least) = match with(self.least) {
            Some(place) => (place, self.least),
            None => {
                let least = self.counts.iter().copied().min().unwrap_or(0);
                (with(least).unwrap_or(0), least)
            }
        };
        (self.least, self.next) = (least, place as u64 + 1);
        (place, least)
    }

    fn set(&mut self, place: usize, hitter: &Hitter<'_>, watch: &Watch<'_>) {
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
            if key[0] != 0 {
                watch.remove(*key);
            }
            watch.add(seen.key);
            (*key, *count, *kept) = (seen.key, error.saturating_add(seen.denied), detail);
        }
    }

    /// Forgets the keys of these owners.
    pub fn remove(&mut self, goes: impl Fn(u32) -> bool, watch: &Watch<'_>) {
        self.least = 0;
        let places = self.keys.iter_mut().zip(&mut self.counts).zip(&mut self.details);
        for ((key, count), detail) in places {
            if key[0] != 0 && goes(detail.owner) {
                watch.remove(*key);
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
        HeavyHitters {
            keys: [[0; 2]; TRACKED],
            counts: [0; TRACKED],
            least: 0,
            next: 0,
            details: [detail; TRACKED],
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::boxed::Box;
    use alloc::collections::BTreeMap;
    use alloc::vec::Vec;
    use core::sync::atomic::AtomicU8;

    use proptest::prelude::*;

    use super::super::watch::WATCHED;
    use super::*;

    /// A sketch with its watch.
    struct Sketch {
        hitters: HeavyHitters,
        watch: Box<[AtomicU8; WATCHED]>,
    }

    impl Sketch {
        fn new() -> Self {
            let watch = Box::new([const { AtomicU8::new(0) }; WATCHED]);
            Sketch { hitters: HeavyHitters::default(), watch }
        }

        fn add(&mut self, seen: &Sighting<'_>) {
            self.hitters.add(seen, &Watch::new(&self.watch));
        }

        fn restore(&mut self, hitter: &Hitter<'_>) -> bool {
            self.hitters.restore(hitter, &Watch::new(&self.watch))
        }

        fn remove(&mut self, owner: u32) {
            self.hitters.remove(|of| of == owner, &Watch::new(&self.watch));
        }

        fn may_have(&self, key: u64) -> bool {
            Watch::new(&self.watch).may_have([key, key])
        }

        fn iter(&self) -> impl Iterator<Item = Hitter<'_>> {
            self.hitters.iter()
        }
    }

    fn denied(key: u64, times: u64) -> Sighting<'static> {
        Sighting { key: [key, key], owner: 1, text: b"key", denied: times, allowed: 0, last: 0 }
    }

    fn found(hitters: &Sketch, key: u64) -> Option<Hitter<'_>> {
        hitters.iter().find(|hitter| hitter.seen.key == [key, key])
    }

    #[test]
    fn few_keys_are_counted_exactly() {
        let mut hitters = Sketch::new();
        for key in 1..=TRACKED as u64 {
            hitters.add(&denied(key, key));
            hitters.add(&Sighting { allowed: 2, last: 9, ..denied(key, 1) });
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
        let mut hitters = Sketch::new();
        for key in 1..=TRACKED as u64 {
            hitters.add(&denied(key, 100 + key));
        }
        assert!(hitters.may_have(1) && !hitters.may_have(1_000));
        hitters.add(&denied(1_000, 2));
        assert!(!hitters.may_have(1) && hitters.may_have(1_000));
        let new = found(&hitters, 1_000).unwrap();
        assert_eq!((new.seen.denied, new.error), (2, 101));
        assert!(found(&hitters, 1).is_none());
    }

    #[test]
    fn what_is_allowed_tracks_nobody() {
        let mut hitters = Sketch::new();
        hitters.add(&Sighting { allowed: 5, ..denied(1, 0) });
        assert_eq!(hitters.iter().count(), 0);
    }

    #[test]
    fn a_long_key_is_cut() {
        let mut hitters = Sketch::new();
        hitters.add(&Sighting { text: &[b'x'; 3 * MAX_TEXT], ..denied(1, 1) });
        assert_eq!(found(&hitters, 1).unwrap().seen.text, [b'x'; MAX_TEXT]);
    }

    #[test]
    fn the_keys_of_one_owner_are_forgotten() {
        let mut hitters = Sketch::new();
        hitters.add(&denied(1, 1));
        hitters.add(&Sighting { owner: 2, ..denied(2, 1) });
        hitters.remove(1);
        assert!(!hitters.may_have(1) && hitters.may_have(2));
        assert_eq!(hitters.iter().map(|hitter| hitter.seen.owner).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn what_was_saved_comes_back_as_it_was() {
        let mut hitters = Sketch::new();
        for key in 1..=2 * TRACKED as u64 {
            hitters.add(&denied(key, key));
        }
        let mut restored = Sketch::new();
        assert!(hitters.iter().all(|hitter| restored.restore(&hitter)));
        let all = |hitters: &Sketch| {
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
            let (mut hitters, mut truth) = (Sketch::new(), BTreeMap::new());
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
                prop_assert!(hitter.error <= bound && hitters.may_have(hitter.seen.key[0]));
                prop_assert!(hitter.seen.denied <= true_count);
                prop_assert!(true_count <= hitter.seen.denied + hitter.error);
            }
            for (key, _) in truth.iter().filter(|(_, count)| **count > bound) {
                prop_assert!(found(&hitters, *key).is_some(), "key {} is missing", key);
            }
        }
    }
}
