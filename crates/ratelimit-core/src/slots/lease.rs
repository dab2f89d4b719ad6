//! Leases: slots that outlive the process that took them, and end by their token or their time.

use super::holder::{Holder, Token};
use super::list::{Link, Linked};
use super::semaphore::Semaphore;
use super::text::Text;
use super::Slots;
use crate::table::Key;
use crate::time::Micros;

/// A lease on its way out of memory, or into it: all that is to be known about it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What frees it.
    pub token: Token,
    /// What it is a slot of.
    pub key: Key,
    /// The host remembers it by itself.
    pub durable: bool,
    /// The database of the limiter.
    pub database: u32,
    /// The limiter's id.
    pub limiter: [u8; 16],
    /// When it was taken.
    pub since: Micros,
    /// When it ends.
    pub expires: Micros,
    /// The key.
    pub text: Text,
}

/// The token of the lease in slot `index`, made of 16 random bytes: a UUID of version 4 (RFC 9562) whose last four bytes are the
/// slot's number, so that nobody has to search for it. 90 bits of chance remain.
pub fn lease_token(random: Token, index: u32) -> Token {
    let mut token = random;
    token[6] = 0x40 | token[6] & 0x0F;
    token[8] = 0x80 | token[8] & 0x3F;
    token[12..].copy_from_slice(&index.to_be_bytes());
    token
}

/// The slot that a token says it is in.
pub(super) fn place_of(token: Token) -> usize {
    let [.., a, b, c, d] = token;
    u32::from_be_bytes([a, b, c, d]) as usize
}

impl Slots<'_> {
    /// The lease with this token; None if there is none in this database, or it has expired.
    pub fn lease(&self, token: Token, database: u32, now: Micros) -> Option<Lease> {
        self.holding(self.find_current(token, database, now)? as u32)?.lease()
    }

    /// Lets a lease end at `expires`. False: there is none with this token in this database, or it has expired.
    pub fn renew(&mut self, token: Token, database: u32, now: Micros, expires: Micros) -> bool {
        let Some(index) = self.find_current(token, database, now) else { return false };
        self.set_expiry(index, expires);
        true
    }

    /// Gives a lease back and hands its slot to the first waiter. False: there is none with this token in this database, or it has
    /// expired.
    pub fn release_lease(&mut self, token: Token, database: u32, now: Micros) -> bool {
        let found = self.find_current(token, database, now);
        if let Some(index) = found {
            self.vacate_and_serve(index);
        }
        found.is_some()
    }

    /// Drops the expired leases of the key for which a process waits, and hands their slots on.
    pub fn settle(&mut self, key: Key, now: Micros) {
        let Some(place) = self.find(key) else { return };
        if self.memory.semaphores.get(place).is_some_and(|semaphore| semaphore.is_due(now)) {
            self.drop_expired(place, now);
            self.tidy(place);
        }
    }

    /// Drops the expired leases among `steps` slots from `from` on, and hands their slots on. Answers where to go on; None at the end.
    pub fn sweep(&mut self, from: u32, steps: u32, now: Micros) -> Option<u32> {
        let end = from.saturating_add(steps);
        for index in from as usize..(end as usize).min(self.memory.head.holders.touched()) {
            if self.taken_holder(index).is_some_and(|holder| holder.expired(now)) {
                self.vacate_and_serve(index);
            }
        }
        Some(end).filter(|end| (*end as usize) < self.memory.head.holders.touched())
    }

    /// Shows the leases among `steps` slots from `from` on that have not expired, and that nobody else remembers. Answers where to go
    /// on; None at the end.
    pub fn export(
        &self,
        from: u32,
        steps: u32,
        now: Micros,
        show: impl FnMut(Lease),
    ) -> Option<u32> {
        let (start, end) = (from as usize, from.saturating_add(steps));
        let touched = self.memory.head.holders.touched();
        (start..touched.min(end as usize))
            .filter_map(|index| self.holding(index as u32)?.lease())
            .filter(|lease| lease.expires > now && !lease.durable)
            .for_each(show);
        Some(end).filter(|end| (*end as usize) < touched)
    }

    /// Puts back a lease that there was before a restart, where its token says if that slot is free. None if it has
    /// expired, or finds no place. One that is here already stays as it is.
    pub fn restore(&mut self, lease: &Lease, now: Micros) -> Option<u32> {
        let Lease { token, key, database, expires, .. } = *lease;
        if expires <= now {
            return None;
        }
        if self.find_lease(token, database).is_some() {
            return self.find_current(token, database, now).map(|index| index as u32);
        }
        let place = self.find_or_make(key)?;
        let index = self.hold_at(place, place_of(token)).or_else(|| self.hold(place));
        let Some(index) = index else {
            self.tidy(place);
            return None;
        };
        self.memory.holders.get_mut(index)?.details.fill_again(lease);
        self.memory.head.displaced += u32::from(place_of(token) != index);
        self.start_lease(index, expires);
        Some(index as u32)
    }

    fn hold_at(&mut self, place: usize, index: usize) -> Option<usize> {
        let memory = &mut self.memory;
        let holder = memory.holders.get_mut(index).filter(|holder| !holder.is_taken())?;
        holder.semaphore = Link::to(place);
        memory.head.holders.take_at(memory.holders, index);
        memory.semaphores.get_mut(place)?.count += 1;
        Some(index)
    }

    /// The lease with this token, unless it has expired.
    fn find_current(&self, token: Token, database: u32, now: Micros) -> Option<usize> {
        let current = |index: &usize| !self.holder_at(Some(*index)).is_some_and(|h| h.expired(now));
        self.find_lease(token, database).filter(current)
    }

    /// Walks only if leases were restored to other slots than their tokens say. A copy of a database has the same tokens.
    fn find_lease(&self, token: Token, database: u32) -> Option<usize> {
        let is_it = |index: &usize| {
            self.holder_at(Some(*index)).is_some_and(|holder| {
                let details = &holder.details;
                holder.is_running_lease() && details.token == token && details.database == database
            })
        };
        let said = Some(place_of(token)).filter(is_it);
        match self.memory.head.displaced {
            0 => said,
            _ => said.or_else(|| (0..self.memory.head.holders.touched()).find(is_it)),
        }
    }

    /// Makes a token of what was drawn for it, now that the slot is known.
    pub(super) fn stamp(&mut self, index: usize) {
        let Some(holder) = self.memory.holders.get_mut(index) else { return };
        if holder.details.is_lease() {
            holder.details.token = lease_token(holder.details.token, index as u32);
        }
    }

    /// Begins the time of a lease that was stamped.
    pub(super) fn start_lease(&mut self, index: usize, expires: Micros) {
        let memory = &mut self.memory;
        let place = memory.holders.get(index).and_then(|holder| holder.semaphore.get());
        let semaphore = place.and_then(|place| memory.semaphores.get_mut(place));
        let Some(semaphore) = semaphore else { return };
        if semaphore.leases.is_empty() {
            semaphore.soonest = Micros::MAX;
        }
        semaphore.leases.push_front(memory.holders, index);
        self.set_expiry(index, expires);
    }

    fn set_expiry(&mut self, index: usize, expires: Micros) {
        let Some(holder) = self.memory.holders.get_mut(index) else { return };
        holder.details.expires = expires;
        let Some(place) = holder.semaphore.get() else { return };
        let Some(semaphore) = self.memory.semaphores.get_mut(place) else { return };
        if expires < semaphore.soonest {
            semaphore.soonest = expires;
            self.ask_first_to_look(place);
        }
    }

    pub(super) fn drop_expired(&mut self, place: usize, now: Micros) {
        let Some(semaphore) = self.memory.semaphores.get(place) else { return };
        let mut next = semaphore.leases.first();
        let mut soonest = Micros::MAX;
        while let Some((index, holder)) = next.zip(self.holder_at(next)) {
            next = holder.next();
            if holder.expired(now) {
                self.vacate(index);
            } else {
                soonest = soonest.min(holder.details.expires);
            }
        }
        if let Some(semaphore) = self.memory.semaphores.get_mut(place) {
            semaphore.soonest = soonest;
        }
        self.serve(place);
    }

    /// How many of a key's leases have expired.
    pub(super) fn expired(&self, semaphore: &Semaphore, now: Micros) -> u32 {
        if !semaphore.is_due(now) {
            return 0;
        }
        let first = semaphore.leases.first();
        let leases = core::iter::successors(self.holder_at(first), |h| self.holder_at(h.next()));
        leases.map(|holder| u32::from(holder.expired(now))).sum()
    }

    fn holder_at(&self, index: Option<usize>) -> Option<&Holder> {
        self.memory.holders.get(index?)
    }
}
