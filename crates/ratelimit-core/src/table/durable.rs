//! Cells that are copies: the truth about their keys is in tables.
//!
//! A cell is claimed before the tables are read, and filled afterwards, if it is still waiting for this very copy. In between
//! nothing can be taken of the key; and what was taken before is visible in the tables, because a cell is never given away while a
//! transaction holds it. So whoever fills the cell first fills in the truth.

use super::cell::Key;
use super::key_state::KeyState;
use super::{Full, Host, Request, Table, Wanted, GRACE};
use crate::decide::Limit;
use crate::meter::Meter;
use crate::rule::Rule;
use crate::state::{MemoryState, State};
use crate::time::Now;

impl<H: Host> Table<'_, H> {
    /// Gets a cell ready to be filled. The answer is the ticket to fill it with: `ticket`, which must be new, or that of
    /// somebody who is at it; `None` if the cell is filled already.
    pub fn claim(&self, request: &Request<'_>, ticket: u64, now: Now) -> Result<Option<u64>, Full> {
        loop {
            if let Some(mut cell) = self.find(request.key) {
                if cell.is_loaded() {
                    return Ok(None);
                }
                if let Some(ticket) = cell.ticket() {
                    return Ok(Some(ticket));
                }
                cell.set_unloaded(ticket);
                cell.set_fresh(now.steady.saturating_add(GRACE));
                cell.set_open(now.steady.saturating_add(GRACE));
                return Ok(Some(ticket));
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
            let valid = |cell: &mut super::Locked<'_>| cell.ticket() == Some(ticket);
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

    /// Makes a durable key as good as new.
    pub fn wipe(&self, key: Key) {
        if let Some(mut cell) = self.find(key).filter(|cell| cell.is_loaded()) {
            self.forget(&mut cell);
            cell.set_loaded();
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
