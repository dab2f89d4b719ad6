//! Which keys may be tracked: one look without a lock.

use core::sync::atomic::{AtomicU8, Ordering};

use crate::table::Key;

/// How many places there are.
pub const WATCHED: usize = 1 << 14;

/// How many tracked keys point to each place. So the answer no is always right, and yes mostly.
///
/// L. Fan, P. Cao, J. Almeida, A. Broder, "Summary Cache", 2000, call it a counting Bloom filter; this one has a single hash.
#[derive(Debug)]
pub struct Watch<'a>(&'a [AtomicU8; WATCHED]);

impl<'a> Watch<'a> {
    /// In this memory; zeros know no key.
    pub fn new(memory: &'a [AtomicU8; WATCHED]) -> Self {
        Watch(memory)
    }

    #[inline(always)]
    fn place(&self, key: Key) -> Option<&AtomicU8> {
        self.0.get(key[1] as usize % WATCHED)
    }

    /// Whether the key may be tracked.
    #[inline(always)]
    pub fn may_have(&self, key: Key) -> bool {
        self.place(key).is_some_and(|place| place.load(Ordering::Relaxed) > 0)
    }

    /// The key is tracked from now on. Only one may change this at a time.
    pub fn add(&self, key: Key) {
        self.change(key, |count| count.saturating_add(1));
    }

    /// It is not any more.
    pub fn remove(&self, key: Key) {
        // A count that has reached the end stays: it may be that of more keys.
        self.change(key, |count| if count == u8::MAX { count } else { count.saturating_sub(1) });
    }

    fn change(&self, key: Key, change: impl Fn(u8) -> u8) {
        if let Some(place) = self.place(key) {
            place.store(change(place.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_tracked_is_always_seen() {
        let memory = [const { AtomicU8::new(0) }; WATCHED];
        let watch = Watch::new(&memory);
        let (one, other) = ([1, 7], [3, 7 + WATCHED as u64]);
        assert!(!watch.may_have(one));
        watch.add(one);
        watch.add(other);
        watch.remove(other);
        assert!(watch.may_have(one));
        watch.remove(one);
        assert!(!watch.may_have(one) && !watch.may_have(other));
    }

    #[test]
    fn too_many_in_one_place_stay_there() {
        let memory = [const { AtomicU8::new(0) }; WATCHED];
        let watch = Watch::new(&memory);
        (0..300).for_each(|_| watch.add([1, 7]));
        (0..299).for_each(|_| watch.remove([1, 7]));
        assert!(watch.may_have([1, 7]));
    }
}
