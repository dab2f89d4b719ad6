//! Which keys are tracked, so far as one look without a lock can say.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::table::Key;

/// How many places there are.
pub const WATCHED: usize = 4_096;

/// One half of a tracked key where its other half points to. Of two keys that point to one place, the later is seen.
#[derive(Debug)]
pub struct Watch<'a>(&'a [AtomicU64; WATCHED]);

impl<'a> Watch<'a> {
    /// In this memory; zeros know no key.
    pub fn new(memory: &'a [AtomicU64; WATCHED]) -> Self {
        Watch(memory)
    }

    #[inline(always)]
    fn place(&self, key: Key) -> Option<&AtomicU64> {
        self.0.get(key[1] as usize % WATCHED)
    }

    /// Whether the key is tracked; sometimes not although it is.
    #[inline(always)]
    pub fn has(&self, key: Key) -> bool {
        self.place(key).is_some_and(|place| place.load(Ordering::Relaxed) == key[0])
    }

    /// The key is tracked from now on.
    pub fn add(&self, key: Key) {
        if let Some(place) = self.place(key) {
            place.store(key[0], Ordering::Relaxed);
        }
    }

    /// It is not any more.
    pub fn remove(&self, key: Key) {
        if let Some(place) = self.place(key).filter(|_| self.has(key)) {
            place.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_keys_in_one_place_the_later_is_seen() {
        let memory = [const { AtomicU64::new(0) }; WATCHED];
        let watch = Watch::new(&memory);
        let (one, other) = ([1, 7], [3, 7 + WATCHED as u64]);
        assert!(!watch.has(one));
        watch.add(one);
        assert!(watch.has(one) && !watch.has(other));
        watch.add(other);
        assert!(!watch.has(one) && watch.has(other));
        watch.remove(one);
        assert!(watch.has(other), "it was not the one to go");
        watch.remove(other);
        assert!(!watch.has(other));
    }
}
