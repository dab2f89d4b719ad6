//! What a transaction took, written down as it commits.

use std::collections::HashMap;

use pgrx::pg_sys::{self, ItemPointerData};
use ratelimit_core::Event;

use super::fold::fold_key;
use super::load::long_ledgers;
use super::tables::{LedgerRow, Name, Table};
use super::turn;
use crate::catalog::{Id, Stake};
use crate::transaction::Held;

/// Adds to the ledger whatever the transaction did to durable keys.
pub fn write(held: &[Held]) {
    let mut durable = held.iter().filter(|held| held.rule.stake == Stake::Durable).peekable();
    if durable.peek().is_none() {
        return;
    }
    let lock = pg_sys::RowExclusiveLock;
    // The extension may have been dropped meanwhile: then there is nothing to count any more.
    let Some(ledger) = Table::open(Name::Ledger(turn::current()), lock) else {
        return;
    };
    let mut fold = HashMap::new();
    for held in durable {
        let row = |at, event| LedgerRow {
            place: ItemPointerData::default(),
            key: held.digest,
            limiter: held.rule.id,
            rule: held.rule.position.cast_signed(),
            at,
            event,
        };
        let mut last = 0;
        for receipt in held.taken.iter() {
            ledger.add(&row(receipt.at.wall, Event::Take(receipt.cost)));
            last = receipt.at.wall;
        }
        if let Some(reset) = held.reset {
            ledger.add(&row(reset, Event::Reset));
        }
        if held.refund > 0 {
            ledger.add(&row(last.max(crate::clock::wall()), Event::Refund(held.refund)));
        }
        if long_ledgers(|long| long.contains(&held.digest)) {
            fold.insert(held.digest, held.rule.clone());
        }
    }
    ledger.keep_locked();
    for (key, rule) in &fold {
        let key: &Id = key;
        fold_key(key, rule);
    }
}
