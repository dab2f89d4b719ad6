//! House-keeping: ledgers summed up, and counts dropped that matter no more.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::time::Duration;

use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::Spi;
use ratelimit_core::{Micros, Now, Stored, MINUTE, SECOND};

use super::lock::{try_lock, try_lock_house};
use super::tables::{CountsRow, LedgerRow, Name, Scratch, Table};
use super::turn::{self, Turn};
use crate::catalog::{self, DefinedRule, DurableRules, Id};
use crate::error::{Error, Result};
use crate::shmem::{self, Header};

/// How long to wait for transactions that chose the ledger which is to be folded.
const PATIENCE: u32 = 50;

/// What was written for less than so long, and is less than so many blocks, is not worth a new file for its ledger.
const SOON: Micros = MINUTE;
const FEW_BLOCKS: u32 = 64;

/// Sums up a ledger, and empties it; turns to the other one before, if need be. Says how many rows are gone. What was written lately
/// is left for later, unless `all` is asked for.
pub fn fold(header: &'static Header, schema: Oid, all: bool) -> Result<usize> {
    // Turning twice in one transaction, a rollback would leave later rows summed up and earlier ones not.
    if turn::has_folded() || !try_lock_house() {
        return Ok(0);
    }
    if !shmem::is_shared(header) {
        return fold_keys(header, schema);
    }
    let turn = turn::turn(header)?;
    let side = turn.side(schema)?;
    let mut old = 1 - side;
    if blocks(schema, Name::Ledger(old))? == 0 {
        let blocks = blocks(schema, Name::Ledger(side))?;
        let now = header.clock.now().wall;
        let lately = now.saturating_sub(turn.since()) < SOON && blocks < FEW_BLOCKS;
        if blocks == 0 || turn.writers(old) > 0 || lately && !all {
            return Ok(0);
        }
        turn.turn(side, now);
        old = side;
    }
    for _ in 0..PATIENCE {
        if turn.writers(old) == 0 {
            return fold_ledger(header, schema, turn, old);
        }
        std::thread::sleep(Duration::from_millis(2));
        pgrx::check_for_interrupts!();
    }
    Ok(0)
}

/// How long the file of a table is.
pub fn blocks(schema: Oid, name: Name) -> Result<u32> {
    let lock = pg_sys::AccessShareLock;
    Ok(Table::open(schema, name, lock)?.map_or(0, |table| {
        let blocks = table.blocks();
        table.close(lock);
        blocks
    }))
}

/// Whether the tables have no room for rows: whoever writes the first one makes some, before anybody can see the row.
pub fn is_empty(schema: Oid) -> Result<bool> {
    for name in [Name::Counts, Name::Ledger(0), Name::Ledger(1), Name::Leases] {
        if blocks(schema, name)? > 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Sums up a whole ledger, of which all rows are final, and empties it.
fn fold_ledger(header: &'static Header, schema: Oid, turn: &Turn, side: usize) -> Result<usize> {
    let lock = pg_sys::RowExclusiveLock;
    let open = |name| Table::open(schema, name, lock);
    let (Some(old), Some(new), Some(counts)) =
        (open(Name::Ledger(side))?, open(Name::Ledger(1 - side))?, open(Name::Counts)?)
    else {
        return Ok(0);
    };
    if old.has_triggers() {
        return Err(Error::ledger_with_triggers());
    }
    // Who reads the ledger for long would make all the work void.
    if !old.is_alone() {
        [old, new, counts].into_iter().for_each(Table::keep_locked);
        return Ok(0);
    }
    turn::fold();
    // Whoever wrote these rows has committed: so their limiters are known by now.
    let rules = &catalog::durable_rules(schema, header);
    let scratch = Scratch::new();
    // What a long transaction took after the turn comes after what others wrote to the new ledger: it is moved there, and so is
    // what cannot be summed up now.
    let before = match turn.since() {
        0 => earliest(&new),
        since => since,
    };
    let (mut rows, mut group) = (0, Vec::<LedgerRow>::new());
    old.ledger(None, true, |row| {
        pgrx::check_for_interrupts!();
        rows += 1;
        if group.last().is_some_and(|last| last.key != row.key) {
            scratch.run(|| fold_group(&counts, &mut group, rules));
        }
        if row.at < before && !rules.is_broken(&row.limiter) {
            group.push(row);
        } else {
            scratch.run(|| new.add(&row));
        }
        true
    });
    scratch.run(|| fold_group(&counts, &mut group, rules));
    new.keep_locked();
    counts.keep_locked();
    truncate(schema, old, side)?;
    Ok(rows)
}

fn earliest(ledger: &Table) -> Micros {
    let mut earliest = Micros::MAX;
    ledger.ledger(None, false, |row| {
        earliest = earliest.min(row.at);
        true
    });
    earliest
}

/// Sums up what happened to one key.
fn fold_group(counts: &Table, group: &mut Vec<LedgerRow>, rules: &DurableRules) {
    group.sort_by_key(|row| row.at);
    if let Some(first) = group.first() {
        // Of a limiter that was dropped nothing is kept.
        if let Some(rule) = rules.get(&first.limiter, first.rule, &first.key) {
            add_to_counts(counts, rule, group);
        }
    }
    group.clear();
}

fn add_to_counts(counts: &Table, rule: &DefinedRule, events: &[LedgerRow]) {
    let Some(first) = events.first() else { return };
    let (mut place, mut stored) = (None, None);
    counts.counts(Some(&first.key), |row| {
        place = Some(row.place);
        stored = Stored::decode(&rule.rule, &row.state);
        false
    });
    let mut stored = stored.unwrap_or_else(|| Stored::new(&rule.rule));
    for row in events {
        // In tables both time lines are the wall's.
        let now = Now::at(row.at.max(stored.at()));
        stored.apply(&rule.rule, now, row.event);
    }
    let fresh_from = stored.fresh_from(&rule.rule);
    counts.set_counts(place, &first.key, rule, fresh_from, &stored.encode());
}

/// Empties a ledger at once, which leaves nothing behind for vacuum, whatever old snapshots are about.
fn truncate(schema: Oid, ledger: Table, side: usize) -> Result<()> {
    // Sessions read ledgers for moments only, and writers of this one have ended but may not have released their locks.
    let mut tries = 0;
    while !ledger.try_lock() {
        tries += 1;
        if tries > 4 * PATIENCE {
            return Err(Error::busy_ledger());
        }
        std::thread::sleep(Duration::from_millis(5));
        pgrx::check_for_interrupts!();
    }
    ledger.keep_locked();
    // SAFETY: the schema exists: the table in it is locked.
    let schema =
        unsafe { CStr::from_ptr(pg_sys::quote_identifier(pg_sys::get_namespace_name(schema))) };
    let table = format!(".rl_ledger_{side}");
    let command = CString::new([b"TRUNCATE ", schema.to_bytes(), table.as_bytes()].concat());
    let truncated = Spi::connect_mut(|client| {
        client.update(&*command.unwrap_or_default(), None, &[]).map(|_| ())
    });
    truncated.map_err(|error| Error::internal(&error.to_string()))
}

/// The same without shared memory: key by key, as far as nobody is at it.
fn fold_keys(header: &'static Header, schema: Oid) -> Result<usize> {
    let mut keys: HashMap<Id, (Id, i32)> = HashMap::new();
    for name in [Name::Ledger(0), Name::Ledger(1)] {
        if let Some(ledger) = Table::open(schema, name, pg_sys::AccessShareLock)? {
            ledger.ledger(None, false, |row| {
                keys.insert(row.key, (row.limiter, row.rule));
                keys.len() < MANY_KEYS
            });
            ledger.close(pg_sys::AccessShareLock);
        }
    }
    let rules = catalog::durable_rules(schema, header);
    let mut removed = 0;
    for (key, (limiter, rule)) in keys {
        pgrx::check_for_interrupts!();
        if !rules.is_broken(&limiter) && try_lock(key) {
            let rule = rules.get(&limiter, rule, &key).map(|rule| &**rule);
            removed += fold_key(schema, &key, rule, Vec::new())?;
        }
    }
    Ok(removed)
}

/// So many keys are locked at most at a time: others wait for them.
const MANY_KEYS: usize = 1_000;

/// Sums up what the ledgers have of a key that this transaction has locked, and what it did itself; says how many rows are gone.
pub fn fold_key(
    schema: Oid,
    key: &Id,
    rule: Option<&DefinedRule>,
    mut events: Vec<LedgerRow>,
) -> Result<usize> {
    let lock = pg_sys::RowExclusiveLock;
    let Some(counts) = Table::open(schema, Name::Counts, lock)? else { return Ok(0) };
    let own = events.len();
    for side in [0, 1] {
        let Some(ledger) = Table::open(schema, Name::Ledger(side), lock)? else { continue };
        let first = events.len();
        ledger.ledger(Some(key), false, |row| {
            events.push(row);
            true
        });
        for row in &events[first..] {
            ledger.delete(row.place);
        }
        ledger.keep_locked();
    }
    let removed = events.len() - own;
    events.sort_by_key(|row| row.at);
    if let Some(rule) = rule {
        add_to_counts(&counts, rule, &events);
    }
    counts.keep_locked();
    Ok(removed)
}

/// Drops counts of keys that are as good as new, and of limiters that are gone; at most so many. Says how many.
pub fn purge(header: &'static Header, schema: Oid, most: usize) -> Result<usize> {
    if !try_lock_house() {
        return Ok(0);
    }
    // SAFETY: we are in a command of a transaction, which may have written what is to be dropped here.
    unsafe { pg_sys::CommandCounterIncrement() };
    let shared = shmem::is_shared(header);
    let most = if shared { most } else { most.min(MANY_KEYS) };
    // A clock that is set a little must not bring anything back.
    let until = header.clock.now().wall.saturating_sub(SECOND);
    let Some(counts) = Table::open(schema, Name::Counts, pg_sys::RowExclusiveLock)? else {
        return Ok(0);
    };
    let rules = catalog::durable_rules(schema, header);
    let is_over = |row: &CountsRow| row.fresh_from <= until || !rules.knows(&row.limiter);
    let mut over = Vec::new();
    counts.counts(None, |row| {
        pgrx::check_for_interrupts!();
        if is_over(&row) {
            over.push((row.key, row.place));
        }
        over.len() < most
    });
    let mut removed = 0;
    for (key, mut place) in over {
        // Without shared memory sessions change counts, too: then the row is looked for again under the key's lock.
        if !shared {
            let mut again = None;
            if try_lock(key) {
                counts.counts(Some(&key), |row| {
                    again = is_over(&row).then_some(row.place);
                    false
                });
            }
            let Some(found) = again else { continue };
            place = found;
        }
        counts.delete(place);
        removed += 1;
    }
    counts.keep_locked();
    Ok(removed)
}
