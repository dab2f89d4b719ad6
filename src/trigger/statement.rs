//! `rl_limit_statement`: a limit on the rows of a table, taken once for each statement and key.

use std::collections::HashMap;

use pgrx::pg_sys::{self, Datum};
use rustc_hash::FxBuildHasher;

use super::row::{argument_count, key, parse};
use super::{Fired, Row, FOR_EACH_ROW, TIMING};
use crate::error::{Error, Result};
use crate::function::pg_function;
use crate::store::Store;

pg_function! {
    /// `AFTER ... REFERENCING NEW TABLE AS ... FOR EACH STATEMENT`: takes as much for each key as the statement has rows of it. If
    /// one key may not, the statement fails, and what was taken for the others is given back.
    fn rl_limit_statement(call) {
        let fired = Fired::new(call, "rl_limit_statement")?;
        if !fired.is(FOR_EACH_ROW | TIMING, 0) {
            return Err(Error::trigger_kind(&fired.name(), "rl_limit_statement", "AFTER and FOR EACH STATEMENT"));
        }
        let arguments = fired.arguments();
        let (limiter, template) = match arguments[..] {
            [limiter, template] | [limiter, template, b"raise"] => (limiter, template),
            [_, _, _] => {
                let detail = "After the statement it is too late to skip rows.";
                return Err(Error::trigger_argument(&fired.name(), "3", detail));
            }
            _ => return Err(argument_count(&fired, arguments.len())),
        };
        let keys = rows_per_key(&fired, template)?;

        let store = Store::new(call)?;
        let limiter = store.limiter(limiter)?;
        for (n, (key, rows)) in keys.iter().enumerate() {
            let Some(decision) = store.raising().refusal(&limiter, key, *rows)? else { continue };
            for (key, rows) in &keys[..n] {
                store.refund(&limiter, key, *rows)?;
            }
            return Err(Error::denied(&limiter.name, Some(&decision)));
        }
        Ok(Datum::null())
    }
}

/// How many rows of the statement each key has, in the order in which the keys come first.
fn rows_per_key(fired: &Fired, template: &[u8]) -> Result<Vec<(Vec<u8>, u64)>> {
    let (store, which) = if fired.is_delete() {
        (fired.data.tg_oldtable, "OLD")
    } else {
        (fired.data.tg_newtable, "NEW")
    };
    if store.is_null() {
        let kind = format!("with REFERENCING {which} TABLE AS ...");
        return Err(Error::trigger_kind(&fired.name(), "rl_limit_statement", &kind));
    }
    let template = parse(fired, template)?;
    let mut counts: Vec<(Vec<u8>, u64)> = Vec::new();
    let mut places: HashMap<Vec<u8>, usize, FxBuildHasher> = HashMap::default();
    let descriptor = fired.descriptor();
    // SAFETY: the trigger manager's tuplestore holds rows of this descriptor. It is read through a pointer of our own, so
    // that others find theirs where it was. What each row needs is freed with it. Should something below raise an error, slot and
    // context go with the context of the call.
    unsafe {
        let pointer = pg_sys::tuplestore_alloc_read_pointer(store, pg_sys::EXEC_FLAG_REWIND as i32);
        pg_sys::tuplestore_select_read_pointer(store, pointer);
        pg_sys::tuplestore_rescan(store);
        let slot =
            pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsMinimalTuple);
        let context = pg_sys::AllocSetContextCreateInternal(
            pg_sys::CurrentMemoryContext,
            c"rl_limit_statement".as_ptr(),
            0,
            8 * 1024,
            8 * 1024 * 1024,
        );
        while pg_sys::tuplestore_gettupleslot(store, true, false, slot) {
            pgrx::check_for_interrupts!();
            let mut copied = false;
            let outer = pg_sys::MemoryContextSwitchTo(context);
            let tuple = pg_sys::ExecFetchSlotHeapTuple(slot, false, &mut copied);
            let key = key(fired, &template, &Row { tuple, descriptor, complete: true });
            pg_sys::MemoryContextSwitchTo(outer);
            let key = key?;
            pg_sys::MemoryContextReset(context);
            match places.get(&key) {
                Some(place) => counts[*place].1 += 1,
                None => {
                    places.insert(key.clone(), counts.len());
                    counts.push((key, 1));
                }
            }
        }
        pg_sys::MemoryContextDelete(context);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::tuplestore_select_read_pointer(store, 0);
    }
    Ok(counts)
}
