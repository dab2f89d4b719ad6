//! Counters of limiters, in a bounded table.

use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use crate::time::Micros;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Decisions that let a call pass.
    Allowed,
    /// Decisions that refused one.
    Denied,
    /// Cost that was given back.
    Refunded,
    /// Calls that had to wait.
    Waits,
    /// How long they waited, in microseconds.
    WaitTime,
    /// Calls that were refused because their turn would have come too late.
    Timeouts,
    /// Keys that were banned.
    Bans,
    /// Calls that a limiter in shadow mode would have refused.
    ShadowDenied,
    /// Decisions that let a call pass and left less than a fifth of the quota.
    NearLimit,
}

/// How many there are.
pub const COUNTERS: usize = Counter::NearLimit as usize + 1;

/// A value for each [`Counter`], by its number.
pub type Counts = [u64; COUNTERS];

/// Tells a limiter from any other of its database; never all zero.
pub type LimiterId = [u8; 16];

/// Where a limiter is in the table.
pub type Place = u32;

/// What was counted of one limiter. Valid when it is all zero: then the place is free.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Total {
    id: [AtomicU64; 2],
    database: AtomicU32,
    since: AtomicI64,
    counts: [AtomicU64; COUNTERS],
}

/// The table. Many may read it and [`add`](Totals::add) to it at a time, but only one may give out places or clear them, and then
/// nobody else may do anything: the host's lock is to be shared for the one and exclusive for the other.
#[derive(Clone, Copy, Debug)]
pub struct Totals<'a>(&'a [Total]);

impl Total {
    fn words(id: &LimiterId) -> [u64; 2] {
        let id = u128::from_le_bytes(*id);
        [id as u64, (id >> 64) as u64]
    }

    fn is(&self, words: [u64; 2], database: u32) -> bool {
        self.id[0].load(Ordering::Relaxed) == words[0]
            && self.id[1].load(Ordering::Relaxed) == words[1]
            && self.database.load(Ordering::Relaxed) == database
    }

    fn set(&self, words: [u64; 2], database: u32) {
        self.id[0].store(words[0], Ordering::Relaxed);
        self.id[1].store(words[1], Ordering::Relaxed);
        self.database.store(database, Ordering::Relaxed);
    }

    /// Whose it is; `None` if it is nobody's.
    pub fn id(&self) -> Option<LimiterId> {
        let [low, high] = [&self.id[0], &self.id[1]].map(|word| word.load(Ordering::Relaxed));
        let id = u128::from(high) << 64 | u128::from(low);
        (id != 0).then(|| id.to_le_bytes())
    }

    /// The database of the limiter.
    pub fn database(&self) -> u32 {
        self.database.load(Ordering::Relaxed)
    }

    /// Since when it has been counted, by the wall clock.
    pub fn since(&self) -> Micros {
        self.since.load(Ordering::Relaxed)
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        core::array::from_fn(|n| self.counts.get(n).map_or(0, |c| c.load(Ordering::Relaxed)))
    }

    fn add(&self, counts: &Counts) {
        for (total, count) in self.counts.iter().zip(counts).filter(|(_, count)| **count > 0) {
            total.fetch_add(*count, Ordering::Relaxed);
        }
    }

    fn begin(&self, now: Micros) {
        self.since.store(now, Ordering::Relaxed);
        self.counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
    }
}

impl<'a> Totals<'a> {
    /// The table in this memory.
    pub fn new(totals: &'a [Total]) -> Self {
        Totals(totals)
    }

    /// Where the limiter is.
    pub fn find(&self, id: &LimiterId, database: u32) -> Option<Place> {
        let words = Total::words(id);
        if words == [0, 0] {
            return None;
        }
        self.0.iter().position(|total| total.is(words, database)).map(|place| place as Place)
    }

    /// The total at a place.
    pub fn get(&self, place: Place) -> Option<&'a Total> {
        self.0.get(place as usize)
    }

    /// All limiters, with their places.
    pub fn iter(&self) -> impl Iterator<Item = (Place, LimiterId, &'a Total)> + use<'a> {
        let places = self.0.iter().enumerate();
        places.filter_map(|(place, total)| Some((place as Place, total.id()?, total)))
    }

    /// Whether every place is taken.
    pub fn is_full(&self) -> bool {
        self.0.iter().all(|total| total.id().is_some())
    }

    /// Adds to what was counted; says whether the limiter is (still) at this place.
    pub fn add(&self, place: Place, id: &LimiterId, database: u32, counts: &Counts) -> bool {
        let total = self.get(place).filter(|total| total.is(Total::words(id), database));
        total.map(|total| total.add(counts)).is_some()
    }

    /// Gives the limiter a place, unless it has one; `None` if there is no more.
    pub fn claim(&self, id: &LimiterId, database: u32, now: Micros) -> Option<Place> {
        if let Some(place) = self.find(id, database) {
            return Some(place);
        }
        let words = Total::words(id);
        let place = self.0.iter().position(|total| total.id().is_none() && words != [0, 0])?;
        let total = self.0.get(place)?;
        total.begin(now);
        total.set(words, database);
        Some(place as Place)
    }

    /// Counts a limiter from 0 again.
    pub fn reset(&self, place: Place, now: Micros) {
        if let Some(total) = self.get(place) {
            total.begin(now);
        }
    }

    /// Gives the place to others.
    pub fn free(&self, place: Place) {
        if let Some(total) = self.get(place) {
            total.set([0, 0], 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: LimiterId = [1; 16];
    const B: LimiterId = [2; 16];

    fn counts(counter: Counter, n: u64) -> Counts {
        let mut counts = Counts::default();
        counts[counter as usize] = n;
        counts
    }

    #[test]
    fn a_limiter_keeps_its_place_and_what_was_added() {
        let memory: [Total; 2] = Default::default();
        let totals = Totals::new(&memory);
        let place = totals.claim(&A, 5, 1_000).unwrap();
        assert_eq!((totals.claim(&A, 5, 2_000), totals.find(&A, 5)), (Some(place), Some(place)));
        assert!(totals.add(place, &A, 5, &counts(Counter::Denied, 3)));
        assert!(totals.add(place, &A, 5, &counts(Counter::Denied, 4)));
        let total = totals.get(place).unwrap();
        assert_eq!((total.counts(), total.since()), (counts(Counter::Denied, 7), 1_000));

        totals.reset(place, 3_000);
        assert_eq!((total.counts(), total.since()), (Counts::default(), 3_000));
        assert_eq!((total.id(), total.database()), (Some(A), 5));
    }

    #[test]
    fn the_same_id_in_a_copied_database_is_another_limiter() {
        let memory: [Total; 2] = Default::default();
        let totals = Totals::new(&memory);
        let (one, copy) = (totals.claim(&A, 5, 0).unwrap(), totals.claim(&A, 6, 0).unwrap());
        assert_ne!(one, copy);
        assert!(!totals.add(copy, &A, 5, &counts(Counter::Allowed, 1)));
    }

    #[test]
    fn who_finds_no_place_is_not_counted_until_one_is_free() {
        let memory: [Total; 1] = Default::default();
        let totals = Totals::new(&memory);
        let place = totals.claim(&A, 5, 0).unwrap();
        totals.add(place, &A, 5, &counts(Counter::Allowed, 9));
        assert_eq!((totals.claim(&B, 5, 0), totals.is_full()), (None, true));

        totals.free(place);
        assert!(!totals.add(place, &A, 5, &counts(Counter::Allowed, 1)), "it is nobody's");
        assert_eq!(totals.claim(&B, 5, 1), Some(place));
        assert_eq!(totals.get(place).unwrap().counts(), Counts::default());
        assert_eq!(totals.iter().map(|(_, id, _)| id).collect::<alloc::vec::Vec<_>>(), [B]);
    }

    #[test]
    fn zeros_are_nobody() {
        let memory: [Total; 1] = Default::default();
        let totals = Totals::new(&memory);
        assert_eq!((totals.claim(&[0; 16], 5, 0), totals.find(&[0; 16], 0)), (None, None));
    }
}
