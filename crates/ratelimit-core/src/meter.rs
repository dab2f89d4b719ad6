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
    /// Whether the state knows a later moment than `now`: then `now` was read before another process had its turn.
    fn is_ahead<S: State>(&self, _state: &S, _now: Now) -> bool {
        false
    }
    /// Writes it back.
    fn store<S: State>(&self, state: &mut S, view: &Self::View);
    /// Whether `cost` fits.
    fn admits<S: State>(&self, state: &S, view: &Self::View, cost: u64) -> bool;
    /// Takes `cost`, whether it fits or not.
    fn charge<S: State>(&self, state: &mut S, view: &mut Self::View, now: Now, cost: u64);
    /// Gives `cost` back, but never more than was taken.
    fn refund<S: State>(&self, state: &mut S, view: &mut Self::View, now: Now, cost: u64);
    /// What to remember of a charge of `cost` that was just made, so that it can be undone.
    fn receipt<S: State>(&self, state: &S, view: &Self::View, now: Now, cost: u64) -> Receipt;
    /// Gives back what a charge took, as far as it still counts: never more than the state would hold less if the charge had not
    /// been made. Says whether there was anything.
    fn undo<S: State>(
        &self,
        state: &mut S,
        view: &mut Self::View,
        now: Now,
        receipt: &Receipt,
    ) -> bool;
    /// How much later the second of two charges may be, as a power of two in microseconds, for one receipt to stand for both;
    /// `None`: only if they are of the same window or instant.
    fn blur(&self) -> Option<u32> {
        None
    }
    /// The position of a receipt that also stands for a further charge of `cost`.
    fn extended(&self, receipt: &Receipt, _cost: u64) -> i128 {
        receipt.position
    }
    /// The largest cost that fits.
    fn remaining<S: State>(&self, state: &S, view: &Self::View) -> u64;
    /// How long until nothing is used any more, if `cost` were taken now.
    fn reset_after<S: State>(&self, state: &S, view: &Self::View, now: Now, cost: u64) -> Micros;
    /// How long until `cost` fits, which it does not now.
    fn wait<S: State>(&self, state: &S, view: &Self::View, now: Now, cost: u64) -> Micros;
}
