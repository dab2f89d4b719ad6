//! What a transaction holds: cells that are pinned until it ends, and what it took of their keys.

use super::cell::Key;
use super::key_state::KeyState;
use super::{Full, Host, Request, Table, Unable};
use crate::decide::Limit;
use crate::receipt::Receipts;
use crate::rule::Rule;
use crate::time::{Now, SECOND};

impl<H: Host> KeyState<'_, '_, H> {
    /// Keeps the cell from being given away until [`Table::unpin`].
    pub(super) fn pin(&mut self) {
        if let Some(cell) = self.cell() {
            cell.set_pins(cell.pins().saturating_add(1));
        }
    }

    /// Receipts of another definition are worth nothing once something is taken under this one.
    pub(super) fn follow(&mut self, mark: u8) {
        if let Some(cell) = self.cell().filter(|cell| cell.rule_mark() != mark) {
            cell.void();
            cell.set_rule_mark(mark);
        }
    }

    /// Whether no further transaction can hold the cell.
    pub(super) fn is_crowded(&mut self) -> bool {
        self.cell().is_some_and(|cell| cell.pins() == u16::MAX)
    }
}

impl<H: Host> Table<'_, H> {
    /// Holds the copy of a durable key, although nothing is taken of it.
    pub fn pin(&self, request: &Request<'_>, now: Now) -> Result<(), Unable> {
        let mut state = KeyState::new(self, request.key, request.rule, now);
        state.lock();
        if !state.is_loaded() {
            return Err(Unable::Unloaded);
        }
        if state.is_crowded() {
            return Err(Full { until: now.steady.saturating_add(SECOND) }.into());
        }
        state.pin();
        Ok(())
    }

    /// Lets a key's cell go that a request to [`pin`](Request::pin) has held.
    pub fn unpin(&self, key: Key) {
        if let Some(mut cell) = self.find(key) {
            let pins = cell.pins().saturating_sub(1);
            cell.set_pins(pins);
        }
    }

    /// Gives back what was taken of a key, and lets the cell go if `unpin`. Cannot fail: a cell that is pinned is there. The rule is
    /// the one under which it was taken; the answer is for [`Receipts::moved_up`].
    pub fn undo(&self, rule: &Rule, key: Key, taken: &Receipts, now: Now, unpin: bool) -> u32 {
        // One after the other: undoing may take a while where a log is long, and others want the cell.
        let steps = taken.undo(|receipt| {
            let mut state = KeyState::new(self, key, rule, now);
            state.lock();
            // Another algorithm has begun afresh: there is nothing to give back to.
            if !state.is_current() {
                return 0;
            }
            let mut limit = Limit::new(rule, &mut state, 0);
            let now = self.latest(&limit, now);
            limit.undo(now, receipt)
        });
        if unpin {
            self.unpin(key);
        }
        steps
    }
}
