//! Which keys may have a row of their own in a list that is kept elsewhere, such as a table, or a ban: what all processes of a server know
//! of that, in a fixed amount of memory.
//!
//! * A limiter whose list was read once is said to be *known*: then a key that was never marked has no row, and most keys of most
//!   limiters need no other look. Nothing is ever unmarked: a row that is gone costs a look at the list, and no mistake.
//! * Whoever is about to add a row marks its key first, while nobody else can see the row yet. So who reads a list, and then says that it
//!   is known, has not missed what others are adding.
//! * What a process remembers of a row is good as long as the [`generation`](Lists::generation) of its key is the same. It changes when a
//!   row was changed, after others can see that. So a process reads the generation first, and the row then.
//!
//! A ban in shared memory needs no mark, which would stay when it has ended: where a limiter has had one, there is another filter to ask, the
//! [`ban_filter`](crate::ban_filter).
//!
//! Marks are a Bloom filter (Burton H. Bloom, "Space/time trade-offs in hash coding with allowable errors", 1970) with both bits of a key
//! in one word: about one key in thirty that was not marked looks as if it were, when 100,000 are.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::table::Key;

const LIMITERS: usize = 4_096;
pub(crate) const WORDS: usize = 16_384;
/// How many [generations](Lists::generation) there are.
pub const GENERATIONS: usize = 4_096;

/// How far from its home a limiter may have its place.
const REACH: usize = 16;

/// Shared by all processes; all zero at first.
#[repr(C)]
#[derive(Debug)]
pub struct Lists {
    limiters: [AtomicU64; LIMITERS],
    words: [AtomicU64; WORDS],
    generations: [AtomicU32; GENERATIONS],
}

/// In a limiter's place, above its tag.
const USED: u64 = 1 << 32;
const KNOWN: u64 = 1 << 33;
const MARKED: u64 = 1 << 34;
const BANS: u64 = 1 << 35;

/// Where a limiter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u16);

/// Whether a key has a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// It has none.
    No,
    /// It has none, but may be banned in shared memory.
    NoRow,
    /// It may have one.
    Maybe,
    /// Nobody has read the list.
    Unknown,
}

impl Lists {
    /// The place of a limiter, which is given one; `None` where there is no room for more.
    pub fn place(&self, tag: u32) -> Option<Place> {
        let home = tag as usize % LIMITERS;
        (home..home + REACH).map(|place| place % LIMITERS).find_map(|place| {
            let limiter = self.limiters.get(place)?;
            let fresh = u64::from(tag) | USED;
            let claimed = limiter.compare_exchange(0, fresh, Ordering::AcqRel, Ordering::Acquire);
            let is_ours = claimed.is_ok() || claimed.is_err_and(|found| found as u32 == tag);
            is_ours.then_some(Place(place as u16))
        })
    }

    fn limiter(&self, place: Place) -> Option<&AtomicU64> {
        self.limiters.get(usize::from(place.0))
    }

    /// What is known of a limiter: nothing where it has no place.
    #[inline(always)]
    fn flags(&self, place: Option<Place>) -> u64 {
        let limiter = place.and_then(|place| self.limiter(place));
        limiter.map_or(0, |limiter| limiter.load(Ordering::Acquire))
    }

    /// Whether a key of the limiter has a row. Most questions end with the first look: no key of the limiter was marked or banned.
    #[inline(always)]
    pub fn look(&self, place: Option<Place>, key: Key) -> Listed {
        let flags = self.flags(place);
        if flags & (KNOWN | MARKED | BANS) == KNOWN {
            return Listed::No;
        }
        if flags & KNOWN == 0 {
            return Listed::Unknown;
        }
        let (word, bits) = mark(key);
        let marks = self.words.get(word).map_or(!0, |word| word.load(Ordering::Relaxed));
        if flags & MARKED != 0 && marks & bits == bits {
            Listed::Maybe
        } else if flags & BANS != 0 {
            Listed::NoRow
        } else {
            Listed::No
        }
    }

    fn set(&self, place: Option<Place>, flag: u64) {
        if let Some(limiter) = place.and_then(|place| self.limiter(place)) {
            limiter.fetch_or(flag, Ordering::Release);
        }
    }

    /// Says that a key of the limiter has a row, or is about to.
    pub fn mark(&self, place: Option<Place>, key: Key) {
        let (word, bits) = mark(key);
        if let Some(word) = self.words.get(word) {
            word.fetch_or(bits, Ordering::Relaxed);
        }
        self.set(place, MARKED);
    }

    /// Says that a key of the limiter has just been banned in shared memory, and is in the [`ban_filter`](crate::ban_filter).
    pub fn set_bans(&self, place: Option<Place>) {
        self.set(place, BANS);
    }

    /// Says that all keys of the limiter that have a row are marked.
    pub fn set_known(&self, place: Option<Place>) {
        self.set(place, KNOWN);
    }

    /// Changes when a key's row may have changed. Read it before the row.
    #[inline]
    pub fn generation(&self, key: Key) -> u32 {
        let generation = self.generations.get(generation_of(key));
        generation.map_or(0, |generation| generation.load(Ordering::Acquire))
    }

    /// Says that rows of keys with this [`generation_of`] have changed, and that others can see it.
    pub fn changed(&self, generation: usize) {
        if let Some(generation) = self.generations.get(generation) {
            generation.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// Which of the [generations](Lists::generation) is a key's: it shares it with others.
pub fn generation_of(key: Key) -> usize {
    (key[1] >> 32) as usize % GENERATIONS
}

/// The word with a key's bits, and the bits.
#[inline(always)]
pub(crate) fn mark([high, low]: Key) -> (usize, u64) {
    ((high >> 32) as usize % WORDS, 1 << (low & 63) | 1 << (low >> 6 & 63))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyHasher;
    use alloc::boxed::Box;

    fn lists() -> Box<Lists> {
        Box::new(Lists {
            limiters: [const { AtomicU64::new(0) }; _],
            words: [const { AtomicU64::new(0) }; _],
            generations: [const { AtomicU32::new(0) }; _],
        })
    }

    fn key(n: u64) -> Key {
        KeyHasher::new(&[1; 16], &[b"test"]).key(&n.to_le_bytes())
    }

    #[test]
    fn a_marked_key_is_found_and_most_others_are_not() {
        let lists = lists();
        let place = lists.place(7);
        for n in 0..100_000 {
            lists.mark(place, key(n));
        }
        lists.set_known(place);
        assert!((0..100_000).all(|n| lists.look(place, key(n)) == Listed::Maybe));
        let mistaken = (100_000..200_000).filter(|n| lists.look(place, key(*n)) != Listed::No);
        let mistaken = mistaken.count();
        assert!(mistaken < 5_000, "{mistaken} of 100,000");
    }

    #[test]
    fn a_list_is_empty_only_when_it_was_read_and_nobody_adds_to_it() {
        let lists = lists();
        let (place, other) = (lists.place(7), lists.place(8));
        assert_eq!(lists.look(place, key(1)), Listed::Unknown);
        lists.mark(place, key(1));
        lists.set_known(place);
        lists.set_known(other);
        assert_eq!(lists.look(place, key(1)), Listed::Maybe);
        assert_eq!(lists.look(other, key(1)), Listed::No, "marked for another limiter");
        lists.mark(other, key(2));
        assert_eq!(lists.look(other, key(2)), Listed::Maybe);
    }

    #[test]
    fn bans_in_memory_mark_no_key() {
        let lists = lists();
        let (place, other) = (lists.place(7), lists.place(8));
        lists.set_bans(place);
        assert_eq!(lists.look(place, key(1)), Listed::Unknown);
        lists.set_known(place);
        lists.set_known(other);
        lists.mark(other, key(1));
        assert_eq!(lists.look(place, key(1)), Listed::NoRow, "marked for another limiter");
        lists.mark(place, key(1));
        assert_eq!(lists.look(place, key(1)), Listed::Maybe);
        assert_eq!(lists.look(place, key(2)), Listed::NoRow);
        assert_eq!(lists.look(other, key(2)), Listed::No);
    }

    #[test]
    fn limiters_of_one_home_have_places_of_their_own() {
        let lists = lists();
        let tag = |n: usize| (n * LIMITERS + LIMITERS - 1) as u32;
        let places: alloc::vec::Vec<_> = (0..REACH).map(|n| lists.place(tag(n)).unwrap()).collect();
        for (n, place) in places.iter().enumerate() {
            assert_eq!(lists.place(tag(n)), Some(*place));
            assert!(places.iter().skip(n + 1).all(|other| other != place));
        }
        let crowded = lists.place(tag(REACH));
        assert_eq!(crowded, None);
        lists.set_known(crowded);
        assert_eq!(lists.look(crowded, key(1)), Listed::Unknown);
    }

    #[test]
    fn a_change_is_seen_by_its_key() {
        let lists = lists();
        let before = (lists.generation(key(1)), lists.generation(key(2)));
        assert_ne!(generation_of(key(1)), generation_of(key(2)));
        lists.changed(generation_of(key(1)));
        assert_ne!(lists.generation(key(1)), before.0);
        assert_eq!(lists.generation(key(2)), before.1);
    }
}
