//! What a transaction took, written down as it commits.

use std::rc::Rc;

use pgrx::pg_sys::{self, ItemPointerData};
use ratelimit_core::{Event, Micros};

use super::fold::fold_key;
use super::tables::{LedgerRow, Name, Scratch, Table};
use super::turn;
use crate::backend;
use crate::catalog::{DefinedRule, Stake};
use crate::error::Result;
use crate::shmem::{self, Header};
use crate::transaction::Held;

/// What one subtransaction did to one key.
pub struct Entry {
    rule: Rc<DefinedRule>,
    rows: Vec<LedgerRow>,
}

/// What is to be written of what a transaction did.
pub fn entries(header: &'static Header, held: &[Held]) -> Vec<Entry> {
    let is_durable = |held: &&Held| held.rule.stake == Stake::Durable;
    if !held.iter().any(|held| is_durable(&held)) {
        return Vec::new();
    }
    // Where order matters, what others take afterwards must be later.
    let ordered = held.iter().any(|held| held.reset || held.refund > 0);
    let now = if ordered { header.clock.reset() } else { header.clock.read() }.wall;
    held.iter()
        .filter(is_durable)
        .map(|held| Entry { rule: held.rule.clone(), rows: events(held, now).collect() })
        .collect()
}

/// Adds it to a ledger. Where no memory is shared, each key is locked, and what it has used is written anew.
pub fn write(header: &'static Header, entries: Vec<Entry>) -> Result<()> {
    let Some(schema) = entries.first().map(|entry| entry.rule.schema) else {
        return Ok(());
    };
    if !shmem::is_shared(header) {
        for Entry { rule, rows } in entries {
            if let Some(key) = rows.first().map(|row| row.key) {
                fold_key(schema, &key, Some(&rule), rows)?;
            }
            // Savepoints that did more to the same key come later in the list.
            // SAFETY: the transaction is about to commit, and what it wrote may become visible to it.
            unsafe { pg_sys::CommandCounterIncrement() };
        }
        return Ok(());
    }
    // The extension may have been dropped meanwhile: then there is nothing to count any more.
    let ledger = Table::open(schema, Name::Ledger(turn::current()), pg_sys::RowExclusiveLock)?;
    let Some(ledger) = ledger else {
        return Ok(());
    };
    let scratch = Scratch::new();
    for row in entries.iter().flat_map(|entry| &entry.rows) {
        scratch.run(|| ledger.add(row));
    }
    ledger.keep_locked();
    // From now on there is something to fold, and house-keeping sees that there is.
    header.board.note(pg_sys::Oid::from(backend::database()));
    Ok(())
}

/// What was done to a key, in order. A key forgets when the transaction commits, which is now: also what others took meanwhile. It is
/// frozen, so nothing is taken of it between this moment and the one at which its copy forgets. A key that gets something back is not, as
/// nobody is to wait for that: if more comes back than was used, tables may know a little more as used than the copy does, never less.
fn events(held: &Held, now: Micros) -> impl Iterator<Item = LedgerRow> + '_ {
    let row = move |at, event| LedgerRow {
        place: ItemPointerData::default(),
        key: held.digest,
        limiter: held.rule.id,
        rule: held.rule.position.cast_signed(),
        at,
        event,
    };
    let earliest = if held.reset { now + 1 } else { Micros::MIN };
    let taken = held.taken.iter().map(move |taken| {
        let event = match taken.at.wall.saturating_sub(now) {
            wait @ 1.. => Event::Book(taken.cost, wait),
            _ => Event::Take(taken.cost),
        };
        row(taken.at.wall.min(now).max(earliest), event)
    });
    let last = if held.taken.is_empty() { now } else { now + 1 };
    let reset = held.reset.then(|| row(now, Event::Reset));
    let refund = (held.refund > 0).then(|| row(last, Event::Refund(held.refund)));
    reset.into_iter().chain(taken).chain(refund)
}
