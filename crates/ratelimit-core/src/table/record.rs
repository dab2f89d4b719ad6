//! States on their way out of a table, and into one: to be saved, and loaded into a table of another shape.

use super::cell::{Cell, Key, Locked};
use super::key_state::{first_keys, is_ring, KeyState};
use super::{Full, Host, Table, Wanted};
use crate::sliding_log::{ring, ring_booked, ring_word};
use crate::spec::MAX_LOG;
use crate::state::{State, Words};
use crate::time::Micros;

/// What one key has used of one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The key under the rule: see [`super::rule_key`].
    pub key: Key,
    /// The limiter's tag.
    pub tag: u32,
    /// Whether this is the key's first rule.
    pub primary: bool,
    /// What the words mean: see [`crate::Rule::kind`].
    pub kind: u8,
    /// From when on the key is as good as new.
    pub fresh: Micros,
    /// Until when it refuses something.
    pub open: Micros,
    /// The words; of a log only how many places it has, and whether it is booked.
    pub words: Words,
    /// The times of a log, oldest first, as its state holds them; no more than it has places.
    pub times: &'a [u64],
}

/// Room for the times of one log.
type Times = [u64; MAX_LOG as usize];

impl<'t, H: Host> Table<'t, H> {
    /// Shows every state that matters still, one after the other. Each is whole, but no two need be of the same moment.
    pub fn export<E>(
        &self,
        now: Micros,
        mut show: impl FnMut(&Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut times: Times = [0; _];
        for cell in self.used() {
            // Only the copy is made under the lock.
            if let Some(record) = self.copy(cell, now, &mut times) {
                show(&record)?;
            }
        }
        Ok(())
    }

    pub(super) fn copy<'a>(
        &self,
        cell: &'t Cell,
        now: Micros,
        times: &'a mut Times,
    ) -> Option<Record<'a>> {
        let cell = cell.lock(|times| self.host.yield_now(times));
        if cell.kind() == 0 || cell.owner().is_some() || cell.is_durable() || cell.fresh() <= now {
            return None;
        }
        let mut record = Record {
            key: cell.key(),
            tag: cell.tag(),
            primary: cell.primary(),
            kind: cell.kind(),
            fresh: cell.fresh(),
            open: cell.open(),
            words: cell.words(),
            times: &[],
        };
        if is_ring(record.kind) {
            let (head, size) = ring(record.words[0]);
            let size = size.min(times.len());
            let state = KeyState::of(self, cell, record.kind);
            for (n, time) in times.iter_mut().take(size).enumerate() {
                *time = state.time((head + n) % size);
            }
            let times = times.get(..size).unwrap_or(&[]);
            // The oldest places are those that nothing was written to.
            let untouched = times.iter().take_while(|time| **time == 0).count();
            record.times = times.get(untouched..).unwrap_or(&[]);
            record.words = [size as u64 | ring_booked(record.words[0]), 0, 0];
        }
        Some(record)
    }

    /// Gives a key this state, if its cell, locked, is accepted; says whether it was. The key gets the cells it has not.
    pub fn install(
        &self,
        record: &Record<'_>,
        now: Micros,
        accept: impl Fn(&Locked<'_>) -> bool,
    ) -> Result<bool, Full> {
        let Record { key, tag, primary, kind, .. } = *record;
        let times = if is_ring(kind) { record.times } else { &[] };
        let first = Wanted { key, owner: key, tag, primary };
        let further =
            first_keys(key, times.len()).map(|key| Wanted { key, primary: false, ..first });
        loop {
            self.assign(&first, now)?;
            for wanted in further.clone() {
                self.assign(&wanted, now)?;
            }
            let Some(cell) = self.find(key) else { continue };
            if !accept(&cell) {
                return Ok(false);
            }
            let words = words(record, &cell, now);
            let mut state = KeyState::of(self, cell, kind);
            // In a crowd, a cell may have been given away before the first one was locked.
            if state.keep_first(times.len(), record.fresh).is_err() {
                continue;
            }
            state.set_words(words);
            for (place, time) in times.iter().enumerate() {
                state.set_time(place, *time);
            }
            state.settled(record.fresh, record.open);
            return Ok(true);
        }
    }
}

/// The words as the cell will have them. A log begins at its first place, and has another mark than an earlier one of the same
/// key, whose further cells may still be about.
fn words(record: &Record<'_>, cell: &Locked<'_>, now: Micros) -> Words {
    if !is_ring(record.kind) {
        return record.words;
    }
    let booked = ring_booked(record.words[0]);
    let size = usize::try_from(record.words[0] & !booked).unwrap_or(usize::MAX);
    let size = size.clamp(1, MAX_LOG as usize);
    let mark = if is_ring(cell.kind()) { cell.words()[0] >> 32 } else { now.cast_unsigned() };
    let mark = u64::from((mark as u16).wrapping_add(1));
    [mark << 32 | booked | ring_word(record.times.len() % size, size), 0, 0]
}
