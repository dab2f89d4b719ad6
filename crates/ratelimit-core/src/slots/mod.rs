//! Concurrency slots: who holds one of which key, who waits for one, and who gets the next.
//!
//! * A [`Semaphore`] counts the slots of one key (E. W. Dijkstra, "Cooperating sequential processes", 1965). A [`Holder`] is a slot
//!   that is taken; its number is the slot's. A [`Waiter`] is a process that waits for one.
//! * A slot that becomes free is handed to the first waiter at once, and only that one is woken. Nobody polls, nobody overtakes.
//! * A lease expires when its time is over. It is dropped by the next who needs room; if there are waiters, the first of them looks
//!   when the first lease expires: see [`Slots::next_look`].
//! * All of it is plain memory under one lock of the host's. Nothing here waits, fails or allocates, and all that happens often takes
//!   the same short time, however many slots there are. Memory of zeros has no slot taken.
//!
//! ```
//! use ratelimit_core::slots::{Claim, OwnedMemory, Refused, Shape, Terms};
//!
//! let mut memory = OwnedMemory::new(Shape::new(100, 10));
//! let mut woken = vec![];
//! let mut wake = |process| woken.push(process);
//! let mut slots = memory.slots(&mut wake);
//! let (key, one_at_a_time, now) = ([1, 2], 1, 1_000_000);
//! let claim = |process| Claim {
//!     terms: Terms::Session, process, pid: 4711, database: 5, limiter: [0; 16], text: b"report",
//! };
//!
//! let slot = slots.try_take(key, one_at_a_time, now, &claim(7)).unwrap();
//! assert_eq!(slots.try_take(key, one_at_a_time, now, &claim(8)), Err(Refused::Taken));
//! slots.enqueue(key, one_at_a_time, now, &claim(8));
//! slots.release(slot, 7);
//! assert_eq!(woken, [8]);
//! ```

mod deadlock;
mod holder;
mod lease;
mod list;
mod memory;
mod numbers;
mod queue;
mod semaphore;
mod text;

pub use deadlock::{Wait, Waits, Wanted};
pub use holder::{Claim, Holder, Holding, Kind, Terms, Token};
pub use lease::{lease_token, Lease};
pub use memory::{Head, Memory, OwnedMemory, Shape};
pub use numbers::free_number;
pub use queue::{Outcome, Waiter};
pub use semaphore::{Bucket, Semaphore};
pub use text::{Text, MAX_TEXT};

use crate::table::Key;
use crate::time::Micros;
use list::Link;

/// Why there is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// All slots of the key are taken.
    Taken,
    /// The server can hold no more slots, whatever the key. [`Slots::sweep`] may help: leases of other keys may have expired.
    Ceiling,
}

/// The slots, while their lock is held.
pub struct Slots<'a> {
    memory: Memory<'a>,
    wake: &'a mut dyn FnMut(u32),
}

impl<'a> Slots<'a> {
    /// `wake` is called with the number of a process that has to look what became of its wait: with [`Slots::outcome`], then
    /// [`Slots::next_look`]. It is called under the lock.
    pub fn new(memory: Memory<'a>, wake: &'a mut dyn FnMut(u32)) -> Self {
        Slots { memory, wake }
    }

    /// Takes one of `capacity` slots if that needs no waiting, and answers its number.
    pub fn try_take(
        &mut self,
        key: Key,
        capacity: u32,
        now: Micros,
        claim: &Claim<'_>,
    ) -> Result<u32, Refused> {
        let place = self.find_or_make(key).ok_or(Refused::Ceiling)?;
        self.tell(place, capacity);
        self.make_room(place, now);
        let taken = self.take(place, now, claim);
        self.tidy(place);
        taken
    }

    fn take(&mut self, place: usize, now: Micros, claim: &Claim<'_>) -> Result<u32, Refused> {
        if !self.memory.semaphores.get(place).is_some_and(Semaphore::has_room) {
            return Err(Refused::Taken);
        }
        let index = self.hold(place).ok_or(Refused::Ceiling)?;
        if let Some(holder) = self.memory.holders.get_mut(index) {
            holder.details.fill(claim, now);
        }
        if let Terms::Lease { ttl, .. } = claim.terms {
            self.stamp(index);
            self.start_lease(index, now.saturating_add(ttl));
        }
        Ok(index as u32)
    }

    /// Makes a holder, whose details are the caller's to fill in.
    fn hold(&mut self, place: usize) -> Option<usize> {
        let memory = &mut self.memory;
        let index = memory.head.holders.take(memory.holders)?;
        memory.holders.get_mut(index)?.semaphore = Link::to(place);
        memory.semaphores.get_mut(place)?.count += 1;
        Some(index)
    }

    /// Gives a transaction or session slot back and hands it to the first waiter. False: this process does not hold it (any more).
    pub fn release(&mut self, index: u32, process: u32) -> bool {
        let index = index as usize;
        let theirs = |holder: &&Holder| {
            let details = &holder.details;
            !details.is_lease() && details.process == process && !holder.is_pending()
        };
        let held = self.taken_holder(index).is_some_and(|holder| theirs(&holder));
        if held {
            self.vacate_and_serve(index);
        }
        held
    }

    /// How many of `capacity` slots a newcomer could take now.
    pub fn free(&self, key: Key, capacity: u32, now: Micros) -> u32 {
        let semaphore = self.find(key).and_then(|place| self.memory.semaphores.get(place));
        let Some(semaphore) = semaphore else { return capacity };
        let held = semaphore.count.saturating_sub(self.expired(semaphore, now));
        capacity.saturating_sub(held).saturating_sub(semaphore.waiting)
    }

    /// The capacity of a key has changed. If it was raised waiters are served; if it was lowered nobody has to go.
    pub fn set_capacity(&mut self, key: Key, capacity: u32) {
        if let Some(place) = self.find(key) {
            self.tell(place, capacity);
            self.tidy(place);
        }
    }

    fn tell(&mut self, place: usize, capacity: u32) {
        let Some(semaphore) = self.memory.semaphores.get_mut(place) else { return };
        let raised = semaphore.capacity < capacity;
        semaphore.capacity = capacity;
        if raised {
            self.serve(place);
        }
    }

    /// Drops expired leases if all slots are taken.
    fn make_room(&mut self, place: usize, now: Micros) {
        let Some(semaphore) = self.memory.semaphores.get(place) else { return };
        if !semaphore.has_room() && semaphore.is_due(now) {
            self.drop_expired(place, now);
        }
    }

    fn taken_holder(&self, index: usize) -> Option<&Holder> {
        self.memory.holders.get(index).filter(|holder| holder.is_taken())
    }

    /// Frees a taken slot; serving those who wait for it is left to the caller.
    fn vacate(&mut self, index: usize) -> Option<usize> {
        let memory = &mut self.memory;
        let holder = memory.holders.get_mut(index)?;
        let place = holder.semaphore.get()?;
        let running = holder.is_running_lease();
        let displaced = running && lease::place_of(holder.details.token) != index;
        holder.set_free();
        let semaphore = memory.semaphores.get_mut(place)?;
        semaphore.count = semaphore.count.saturating_sub(1);
        if running {
            semaphore.leases.remove(memory.holders, index);
        }
        memory.head.displaced = memory.head.displaced.saturating_sub(u32::from(displaced));
        memory.head.holders.give_back(memory.holders, index);
        Some(place)
    }

    fn vacate_and_serve(&mut self, index: usize) {
        if let Some(place) = self.vacate(index) {
            self.serve(place);
            self.tidy(place);
        }
    }

    /// How many slots are taken, of all keys.
    pub fn taken(&self) -> u32 {
        self.memory.head.holders.taken()
    }

    /// What is known about this slot, if it is taken.
    pub fn holding(&self, index: u32) -> Option<Holding<'_>> {
        let holder = self.taken_holder(index as usize)?;
        holder.describe(index as usize, self.key_at(holder.semaphore.get()?)?)
    }

    /// All taken slots, by number.
    pub fn iter(&self) -> impl Iterator<Item = Holding<'_>> + use<'_, 'a> {
        (0..self.memory.head.holders.touched()).filter_map(|index| self.holding(index as u32))
    }
}

#[cfg(test)]
mod tests;
