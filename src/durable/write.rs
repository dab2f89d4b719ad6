//! What a transaction took, written down as it commits.

use pgrx::pg_sys::{self, ItemPointerData};
use ratelimit_core::{Event, Micros};

use super::fold::fold_key;
use super::tables::{LedgerRow, Name, Table};
use super::turn;
use crate::catalog::Stake;
use crate::shmem::{self, Header};
use crate::transaction::Held;

/// Adds to a ledger whatever the transaction did to durable keys. Where no memory is shared, each key is locked, and what it has
/// used is written anew.
pub fn write(header: &'static Header, held: &[Held]) {
    let mut durable = held.iter().filter(|held| held.rule.stake == Stake::Durable).peekable();
    let Some(schema) = durable.peek().map(|held| held.rule.schema) else {
        return;
    };
    let now = header.clock.read().wall;
    if !shmem::is_shared(header) {
        for held in durable {
            fold_key(schema, &held.digest, Some(&held.rule), events(held, now).collect());
            // Savepoints that did more to the same key come later in the list.
            // SAFETY: the transaction is about to commit, and what it wrote may become visible to it.
            unsafe { pg_sys::CommandCounterIncrement() };
        }
        return;
    }
    // The extension may have been dropped meanwhile: then there is nothing to count any more.
    let Some(ledger) = Table::open(schema, Name::Ledger(turn::current()), pg_sys::RowExclusiveLock)
    else {
        return;
    };
    for event in durable.flat_map(|held| events(held, now)) {
        ledger.add(&event);
    }
    ledger.keep_locked();
}

/// What was done to a key, in order. A key forgets when the transaction commits, which is now: also what others took meanwhile.
fn events(held: &Held, now: Micros) -> impl Iterator<Item = LedgerRow> + '_ {
    let row = move |at, event| LedgerRow {
        place: ItemPointerData::default(),
        key: held.digest,
        limiter: held.rule.id,
        rule: held.rule.position.cast_signed(),
        at,
        event,
    };
    let earliest = if held.reset { now } else { Micros::MIN };
    let taken = held.taken.iter();
    let taken = taken.map(move |taken| row(taken.at.wall.max(earliest), Event::Take(taken.cost)));
    let last = held.taken.iter().next_back().map_or(now, |taken| taken.at.wall.max(now));
    let reset = held.reset.then(|| row(now, Event::Reset));
    let refund = (held.refund > 0).then(|| row(last, Event::Refund(held.refund)));
    reset.into_iter().chain(taken).chain(refund)
}
