//! What every algorithm can be asked.

use crate::receipt::Receipt;
use crate::state::State;
use crate::time::{Micros, Now};

/// An algorithm with its definition. A view is the state brought up to `now`, and in the terms of the current definition.
///
/// Costs are at most the capacity where a method decides; [`charge`](Meter::charge) may overdraw.
pub(crate) trait Meter {
    type View: Copy;

    /// The largest cost that can ever pass.
    fn capacity(&self) -> u64;
    /// Reads the state.
    fn view<S: State>(&self, state: &S, now: Now) -> Self::View;
    /// Whether the state may know a later moment than `now`. If that is not booked, `now` was read before another process had its turn.
    fn is_ahead<S: State>(&self, _state: &S, _now: Now) -> bool {
        false
    }
    /// How far ahead of `now` the state is booked: until then nothing else is decided, and what is asked now is decided as at that
    /// moment. An arrival time that lies ahead refuses others by itself.
    #[inline(always)]
    fn ahead<S: State>(&self, _state: &S, _now: Now) -> Micros {
        0
    }
    /// Whether there are bookings to remember when anything but a take changes the state.
    fn is_booked<S: State>(&self, state: &S, now: Now) -> bool {
        self.ahead(state, now) > 0
    }
    /// Says of a state that was just stored that it is booked, and is that of this later moment.
    fn set_booked<S: State>(&self, _state: &mut S, _at: Now) {}
    /// The receipt of a charge that was a booking; without it the key would be as good as new at `fresh`.
    fn booked(&self, receipt: Receipt, _fresh: Micros) -> Receipt {
        receipt
    }
    /// Writes it back.
    fn store<S: State>(&self, state: &mut S, view: &Self::View);
    /// Writes a state that refuses, and is not booked, as it stands now: counts of a window that a changed definition or clock left in
    /// the future are taken over once, not again in each window to come.
    #[inline(always)]
    fn take_over<S: State>(&self, state: &mut S, now: Now) {
        let view = self.view(state, now);
        self.store(state, &view);
    }
    /// Whether `cost` fits.
    fn admits<S: State>(&self, state: &S, view: &Self::View, cost: u64) -> bool;
    /// Takes `cost`, whether it fits or not.
    fn charge<S: State>(&self, state: &mut S, view: &mut Self::View, now: Now, cost: u64);
    /// Gives `cost` back, but never more than was taken. Here and in [`undo`](Meter::undo) the view may be that of the moment up to
    /// which the state is booked, and `now` before it.
    fn refund<S: State>(&self, state: &mut S, view: &mut Self::View, now: Now, cost: u64);
    /// What to remember of a charge of `cost` that was just made, so that it can be undone.
    fn receipt<S: State>(&self, state: &S, view: &Self::View, now: Now, cost: u64) -> Receipt;
    /// Gives back what a charge took, as far as it still counts: never more than the state would hold less if the charge had not
    /// been made. Says by how many steps what was taken later has moved up; `None` if nothing counts any more.
    fn undo<S: State>(
        &self,
        state: &mut S,
        view: &mut Self::View,
        now: Now,
        receipt: &Receipt,
    ) -> Option<u32>;
    /// A receipt for what is left when `part` of the cost has been given back, the latest part of it.
    fn shortened(&self, receipt: &Receipt, part: u64) -> Receipt {
        Receipt { cost: receipt.cost.saturating_sub(part), ..*receipt }
    }
    /// One receipt for both, where that makes no difference, or next to none.
    fn merged(&self, one: &Receipt, other: &Receipt) -> Option<Receipt> {
        (one.position == other.position)
            .then(|| Receipt { cost: one.cost.saturating_add(other.cost), ..*one })
    }
    /// One receipt for both where there are too many, which rather counts too much and gives back too little. `None` if the
    /// oldest of many do not matter any more.
    fn squeezed(&self, _one: &Receipt, _other: &Receipt) -> Option<Receipt> {
        None
    }
    /// The largest cost that fits.
    fn remaining<S: State>(&self, state: &S, view: &Self::View) -> u64;
    /// How long until nothing is used any more, if `cost` were taken now.
    fn reset_after<S: State>(&self, state: &S, view: &Self::View, now: Now, cost: u64) -> Micros;
    /// How long until `cost` fits, which it does not now.
    fn wait<S: State>(&self, state: &S, view: &Self::View, now: Now, cost: u64) -> Micros;
}
