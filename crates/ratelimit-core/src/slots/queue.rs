//! Who waits for a slot, and how it gets one: first come, first served.

use super::holder::{Claim, Details, Holder, Terms};
use super::list::{linked, Link, Linked, Links};
use super::{Refused, Slots};
use crate::table::Key;
use crate::time::Micros;

/// What became of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on.
    Waiting,
    /// It has the slot with this number.
    Granted(u32),
    /// There was room for it, but the server can hold no more slots.
    Ceiling,
}

const IDLE: u32 = 0;
const WAITING: u32 = 1;
const GRANTED: u32 = 2;
const CEILING: u32 = 3;

/// One process: it waits for one key at a time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Waiter {
    links: Links,
    semaphore: Link,
    slot: Link,
    state: u32,
    ttl: Micros,
    details: Details,
}

linked!(Waiter);

impl Slots<'_> {
    /// Takes one of `capacity` slots, or a place in the queue for it. What the process waited for before it gives up.
    pub fn enqueue(&mut self, key: Key, capacity: u32, now: Micros, claim: &Claim<'_>) -> Outcome {
        self.cancel(claim.process);
        match self.try_take(key, capacity, now, claim) {
            Ok(index) => Outcome::Granted(index),
            Err(Refused::Ceiling) => Outcome::Ceiling,
            Err(Refused::Taken) => self.wait(key, capacity, now, claim).unwrap_or(Outcome::Ceiling),
        }
    }

    /// None: there is no place for this process or this key.
    fn wait(&mut self, key: Key, capacity: u32, now: Micros, claim: &Claim<'_>) -> Option<Outcome> {
        let process = claim.process as usize;
        self.memory.waiters.get(process)?;
        let place = self.find_or_make(key)?;
        let waiter = self.memory.waiters.get_mut(process)?;
        waiter.state = WAITING;
        waiter.semaphore = Link::to(place);
        waiter.details.fill(claim, now);
        if let Terms::Lease { ttl, .. } = claim.terms {
            waiter.ttl = ttl;
        }
        let semaphore = self.memory.semaphores.get_mut(place)?;
        semaphore.capacity = capacity;
        semaphore.waiting += 1;
        semaphore.queue.push_back(self.memory.waiters, process);
        Some(Outcome::Waiting)
    }

    /// What became of a process's wait; None if it does not wait. An end is told once: then the slot is the caller's, and the time of a
    /// lease begins.
    pub fn outcome(&mut self, process: u32, now: Micros) -> Option<Outcome> {
        let waiter = self.memory.waiters.get_mut(process as usize)?;
        let state = waiter.state;
        if state == WAITING {
            return Some(Outcome::Waiting);
        }
        waiter.state = IDLE;
        if state == CEILING {
            return Some(Outcome::Ceiling);
        }
        let (index, ttl) = (waiter.slot.get().filter(|_| state == GRANTED)?, waiter.ttl);
        let holder = self.memory.holders.get_mut(index)?;
        holder.details.since = now;
        holder.set_pending(false);
        if holder.details.is_lease() {
            self.start_lease(index, now.saturating_add(ttl));
        }
        Some(Outcome::Granted(index as u32))
    }

    /// Ends a process's wait. If it had been handed a slot meanwhile and was not told, the next one gets that.
    pub fn cancel(&mut self, process: u32) {
        let process = process as usize;
        let Some(waiter) = self.memory.waiters.get_mut(process) else { return };
        let (state, place, slot) = (waiter.state, waiter.semaphore.get(), waiter.slot.get());
        waiter.state = IDLE;
        match (state, place, slot) {
            (WAITING, Some(place), _) => {
                let was_first = self.first_waiter(place) == Some(process);
                self.leave(place, process);
                if was_first {
                    self.ask_first_to_look(place);
                }
                self.tidy(place);
            }
            (GRANTED, _, Some(slot)) => self.vacate_and_serve(slot),
            _ => {}
        }
    }

    /// The first of a queue has to call [`Slots::settle`] at this time, unless it is woken before: then a lease of its key may expire.
    pub fn next_look(&self, process: u32) -> Option<Micros> {
        let process = process as usize;
        let waiter = self.memory.waiters.get(process).filter(|waiter| waiter.state == WAITING)?;
        let semaphore = self.memory.semaphores.get(waiter.semaphore.get()?)?;
        let looks = semaphore.queue.first() == Some(process) && !semaphore.leases.is_empty();
        looks.then_some(semaphore.soonest)
    }

    /// Wakes all who wait: definitions have changed, and each must see whether its own did.
    pub fn wake_all(&mut self) {
        for (waiter, process) in self.memory.waiters.iter().zip(0..) {
            if waiter.state == WAITING {
                (self.wake)(process);
            }
        }
    }

    /// Since when a process waits, and who holds the slots that it waits for, so that it can be in a deadlock. None: it does not wait,
    /// or a lease can end that.
    pub fn awaited(&self, process: u32) -> Option<(Micros, impl Iterator<Item = i32> + use<'_>)> {
        let waiter = self.memory.waiters.get(process as usize)?;
        let place = waiter.semaphore.get().filter(|_| waiter.state == WAITING)?;
        let semaphore = self.memory.semaphores.get(place)?;
        if !semaphore.leases.is_empty() {
            return None;
        }
        let theirs =
            move |holder: &&Holder| holder.is_taken() && holder.semaphore.get() == Some(place);
        let holders = self.memory.holders.get(..self.memory.head.holders.touched())?.iter();
        let holders = holders.filter(theirs).take(semaphore.count as usize);
        Some((waiter.details.since, holders.map(|holder| holder.details.pid)))
    }

    /// Hands out the room there is. Where the server's slots are used up no release of this key's need ever come: so those for whom
    /// there was room are told, rather than left waiting.
    pub(super) fn serve(&mut self, place: usize) {
        let mut served = false;
        while let Some(process) = self.first_to_serve(place) {
            self.leave(place, process);
            let slot = self.hold(place);
            self.tell_outcome(process, slot);
            served = true;
        }
        if served {
            self.ask_first_to_look(place);
        }
    }

    fn first_to_serve(&self, place: usize) -> Option<usize> {
        let semaphore = self.memory.semaphores.get(place)?;
        semaphore.queue.first().filter(|_| semaphore.has_room())
    }

    fn tell_outcome(&mut self, process: usize, slot: Option<usize>) {
        let Some(waiter) = self.memory.waiters.get_mut(process) else { return };
        waiter.state = if slot.is_some() { GRANTED } else { CEILING };
        waiter.slot = slot.map_or_else(Link::default, Link::to);
        if let Some((slot, holder)) = slot.zip(slot.and_then(|n| self.memory.holders.get_mut(n))) {
            holder.details = waiter.details;
            holder.set_pending(true);
            self.stamp(slot);
        }
        (self.wake)(process as u32);
    }

    fn leave(&mut self, place: usize, process: usize) {
        let Some(semaphore) = self.memory.semaphores.get_mut(place) else { return };
        semaphore.queue.remove(self.memory.waiters, process);
        semaphore.waiting = semaphore.waiting.saturating_sub(1);
    }

    fn first_waiter(&self, place: usize) -> Option<usize> {
        self.memory.semaphores.get(place)?.queue.first()
    }

    /// Only the first of a queue looks after leases: it has to hear that it has become that, or that one expires sooner.
    pub(super) fn ask_first_to_look(&mut self, place: usize) {
        let Some(semaphore) = self.memory.semaphores.get(place) else { return };
        if let (Some(first), false) = (semaphore.queue.first(), semaphore.leases.is_empty()) {
            (self.wake)(first as u32);
        }
    }
}
