//! One key that somebody holds a slot of or waits for, and how it is found.

use super::list::{linked, Linked, Links, List};
use super::Slots;
use crate::table::{scale, Key};
use crate::time::Micros;

/// The keys whose hash leads to this place.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    chain: List,
}

/// The slots of one key. It is there while somebody holds one or waits.
///
/// Whoever waits for room finds none: as soon as there is room it is handed out. So a newcomer overtakes nobody.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Semaphore {
    key: Key,
    links: Links,
    /// First come, first served.
    pub(super) queue: List,
    /// The leases whose time has begun.
    pub(super) leases: List,
    /// No lease of the list expires before.
    pub(super) soonest: Micros,
    /// As the last caller told it: a release has no definition at hand.
    pub(super) capacity: u32,
    /// The slots that are taken.
    pub(super) count: u32,
    /// How many processes are in the queue.
    pub(super) waiting: u32,
}

linked!(Semaphore);

impl Semaphore {
    pub(super) fn has_room(&self) -> bool {
        self.count < self.capacity
    }

    /// There may be expired leases.
    pub(super) fn is_due(&self, now: Micros) -> bool {
        !self.leases.is_empty() && self.soonest <= now
    }
}

impl Slots<'_> {
    pub(super) fn find(&self, key: Key) -> Option<usize> {
        let bucket = self.memory.buckets.get(self.bucket(key))?;
        let mut next = bucket.chain.first();
        while let Some(place) = next {
            let semaphore = self.memory.semaphores.get(place)?;
            if semaphore.key == key {
                return Some(place);
            }
            next = semaphore.next();
        }
        None
    }

    fn bucket(&self, key: Key) -> usize {
        scale(key[1], self.memory.buckets.len())
    }

    /// The place of this key's semaphore, which is made if need be. None: there is no place left.
    pub(super) fn find_or_make(&mut self, key: Key) -> Option<usize> {
        if let Some(place) = self.find(key) {
            return Some(place);
        }
        let bucket = self.bucket(key);
        let memory = &mut self.memory;
        let bucket = memory.buckets.get_mut(bucket)?;
        let place = memory.head.semaphores.take(memory.semaphores)?;
        *memory.semaphores.get_mut(place)? = Semaphore { key, ..Semaphore::default() };
        bucket.chain.push_front(memory.semaphores, place);
        Some(place)
    }

    /// Frees the semaphore if nobody needs it any more.
    pub(super) fn tidy(&mut self, place: usize) {
        let Some(semaphore) = self.memory.semaphores.get(place) else { return };
        if semaphore.count > 0 || !semaphore.queue.is_empty() {
            return;
        }
        let bucket = self.bucket(semaphore.key);
        let memory = &mut self.memory;
        let Some(bucket) = memory.buckets.get_mut(bucket) else { return };
        bucket.chain.remove(memory.semaphores, place);
        memory.head.semaphores.give_back(memory.semaphores, place);
    }

    /// What the semaphore at this place is for.
    pub(super) fn key_at(&self, place: usize) -> Option<Key> {
        self.memory.semaphores.get(place).map(|semaphore| semaphore.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_semaphore_is_a_cache_line() {
        assert_eq!(size_of::<Semaphore>(), 64);
    }
}
