//! Cells that are copies: the truth about their keys is in tables.
//!
//! A cell is claimed before the tables are read, and filled afterwards, if it is still waiting for this very copy. In between
//! nothing can be taken of the key; and what was taken before is visible in the tables, because a cell is never given away while a
//! transaction holds it. So whoever fills the cell first fills in the truth.
//!
//! A reset is written down as of a moment, and seen here only when its transaction has committed. What others took in between would be
//! forgotten here, but not in the tables. So whoever resets a key freezes it in between, and others wait for the transaction's end.

use super::cell::{Key, Locked};
use super::key_state::KeyState;
use super::{Full, Host, Request, Table, Wanted, GRACE};
use crate::decide::Limit;
use crate::meter::Meter;
use crate::rule::Rule;
use crate::state::{MemoryState, State};
use crate::time::Now;

/// What is to be done about a copy that nothing can be taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is to be filled, with this ticket.
    Fill(u64),
    /// Nothing: it is filled already.
    Filled,
    /// It is frozen: wait for the end of the transaction that did it.
    Frozen,
}

impl<H: Host> Table<'_, H> {
    /// Gets a cell ready to be filled, with `ticket`, which must be new, or with that of somebody who is at it.
    pub fn claim(&self, request: &Request<'_>, ticket: u64, now: Now) -> Result<Claim, Full> {
        loop {
            if let Some(mut cell) = self.find(request.key) {
                if cell.is_loaded() {
                    return Ok(Claim::Filled);
                }
                if cell.is_frozen() {
                    return Ok(Claim::Frozen);
                }
                if let Some(ticket) = cell.ticket() {
                    return Ok(Claim::Fill(ticket));
                }
                cell.set_unloaded(ticket);
                cell.set_fresh(now.steady.saturating_add(GRACE));
                cell.set_open(now.steady.saturating_add(GRACE));
                return Ok(Claim::Fill(ticket));
            }
            self.assign(&request.first_cell(), now.steady)?;
        }
    }

    /// Fills a cell that was claimed. Where the ticket is not valid any more, nothing happens.
    pub fn fill(
        &self,
        request: &Request<'_>,
        ticket: u64,
        copy: &MemoryState,
        now: Now,
    ) -> Result<(), Full> {
        let Request { rule, key, .. } = *request;
        loop {
            let mut state = KeyState::new(self, key, rule, now);
            state.lock();
            let valid = |cell: &mut Locked<'_>| cell.ticket() == Some(ticket);
            if !state.cell().is_some_and(valid) {
                return Ok(());
            }
            match copy_into(&mut state, rule, copy, now) {
                Ok(()) => {
                    Limit::new(rule, &mut state, 0).settle(now);
                    if let Some(cell) = state.cell() {
                        // It is going to be used.
                        cell.set_fresh(cell.fresh().max(now.steady.saturating_add(GRACE)));
                    }
                    return Ok(());
                }
                Err(key) => {
                    drop(state);
                    let wanted = Wanted { key, primary: false, ..request.first_cell() };
                    self.assign(&wanted, now.steady)?;
                }
            }
        }
    }

    /// Forgets a copy that nobody holds.
    pub fn discard(&self, key: Key) {
        if let Some(mut cell) = self.find(key).filter(|cell| cell.pins() == 0) {
            self.forget(&mut cell);
        }
    }

    /// Lets nothing be taken of a durable key that the caller holds, until [`wipe`](Self::wipe) or [`thaw`](Self::thaw). What others
    /// took before they can still give back. Two must not freeze a key at a time.
    pub fn freeze(&self, key: Key) {
        if let Some(mut cell) = self.find(key).filter(Locked::is_loaded) {
            cell.freeze();
        }
    }

    /// Takes a [`freeze`](Self::freeze) back.
    pub fn thaw(&self, key: Key) {
        if let Some(mut cell) = self.find(key).filter(Locked::is_frozen) {
            cell.thaw();
        }
    }

    /// Makes a durable key as good as new.
    pub fn wipe(&self, rule: &Rule, key: Key, now: Now) {
        let copied = |cell: &Locked<'_>| cell.is_loaded() || cell.is_frozen();
        if let Some(mut cell) = self.find(key).filter(copied) {
            self.forget(&mut cell);
            cell.set_loaded();
            let untouched = KeyState::new(self, key, rule, now).words();
            KeyState::of(self, cell, rule.kind()).set_words(untouched);
        }
    }
}

/// Writes a state; the further cell of a log that is missing is the error, and then nothing is written.
fn copy_into<H: Host>(
    state: &mut KeyState<'_, '_, H>,
    rule: &Rule,
    copy: &MemoryState,
    now: Now,
) -> Result<(), Key> {
    if let Rule::SlidingLog(log) = rule {
        state.keep_places(log, 0, log.places(), now.plus(log.ahead(copy, now)))?;
    }
    if let Some(cell) = state.cell() {
        cell.set_loaded();
    }
    let words = copy.words();
    if let Rule::SlidingLog(log) = rule {
        // The lower half of the first word is the log's, the upper one the table's.
        let mark = state.words()[0];
        state.set_words([words[0] | mark, 0, 0]);
        for place in 0..log.places() {
            state.set_time(place, copy.time(place));
        }
    } else {
        state.set_words(words);
    }
    Ok(())
}
