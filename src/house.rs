//! House-keeping: removing what has expired. The worker calls this, and `rl_purge`.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::backend;
use crate::bans;
use crate::catalog::{self, Extension};
use crate::config;
use crate::durable;
use crate::error::Result;
use crate::shmem::{self, Header};
use crate::stats;

/// Clears the keys of shared memory that are as good as new, drops the leases that have expired, and forgets that keys were banned.
pub fn sweep(header: &'static Header) {
    header.table().sweep(header.clock.read().steady);
    header.sweep_slots();
    bans::renew_filter(header);
}

/// What of a ledger is to be summed up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    /// Nothing.
    Nothing,
    /// What was not written just now.
    Older,
    /// Everything.
    All,
}

/// The tables that it reads or writes.
const TABLES: [&CStr; 6] =
    [c"rl_limiters", c"rl_rules", c"rl_counts", c"rl_ledger_0", c"rl_ledger_1", c"rl_leases"];
/// The same, but that version 0.1.0 did not have them.
const LISTS: [&CStr; 2] = [c"rl_overrides", bans::TABLE];

/// Removes at most `batch` counts and as many leases and bans that have expired, and sums up what durable limiters wrote down, in the current
/// transaction; says how many rows are gone. Less than a batch says that there are no more.
pub fn pass(extension: &Extension, batch: usize, fold: Fold) -> Result<usize> {
    let lists = LISTS.into_iter().filter(|table| extension.has_table(table));
    for table in TABLES.into_iter().chain(lists) {
        extension.table(table)?;
    }
    let header = shmem::get()?.unwrap_or_else(shmem::private);
    // What this transaction has dropped may come back.
    if !catalog::has_changed() {
        stats::tidy(header, backend::database(), || catalog::ids(extension.schema()));
    }
    // The ledger that is emptied stays locked until the transaction ends: so that comes last.
    let expired = durable::purge(header, extension.schema(), batch)?
        + durable::purge_leases(header, extension.schema(), batch)?
        + bans::purge(header, extension, batch)?;
    let folded = match fold {
        Fold::Nothing => 0,
        _ => durable::fold(header, extension.schema(), fold == Fold::All)?,
    };
    Ok(expired + folded)
}

/// Runs `f` with the rights of the extension's owner: not with more, as a worker has, nor with less, as an administrator may have.
pub fn as_owner<R>(extension: &Extension, f: impl FnOnce() -> R) -> R {
    let (mut user, mut context) = (pg_sys::Oid::INVALID, 0);
    // SAFETY: what is read here is put back below, or by the abort of the transaction.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let restricted = context | pg_sys::SECURITY_RESTRICTED_OPERATION as i32;
        pg_sys::SetUserIdAndSecContext(extension.owner(), restricted);
    }
    let answer = f();
    // SAFETY: as above.
    unsafe { pg_sys::SetUserIdAndSecContext(user, context) };
    answer
}

/// All of it, once, in the current transaction: says how many rows were removed. Where nothing can be written, only memory is swept.
///
/// A transaction block may be left open. The ledger that was emptied in it, or without shared memory each key, would stay locked
/// as long: who uses a durable key for the first time would have to wait. So a block does only what makes nobody wait.
pub fn purge() -> Result<u64> {
    let header = shmem::get()?;
    if let Some(header) = header {
        sweep(header);
    }
    // SAFETY: a plain variable, and one that is looked at.
    let (read_only, block) = unsafe { (pg_sys::XactReadOnly, pg_sys::IsTransactionBlock()) };
    let fold = if block { Fold::Nothing } else { Fold::All };
    let rows = match Extension::find() {
        Some(extension) if !read_only && (header.is_some() || !block) => {
            as_owner(&extension, || all_passes(&extension, fold))?
        }
        _ => 0,
    };
    report(rows);
    Ok(rows)
}

fn all_passes(extension: &Extension, fold: Fold) -> Result<u64> {
    let batch = config::purge_batch_size();
    let mut removed = 0;
    loop {
        pgrx::check_for_interrupts!();
        let rows = pass(extension, batch, fold)?;
        removed += rows as u64;
        // Without shared memory each row needs a lock, which the transaction keeps: the next call goes on.
        if rows < batch || shmem::header().is_none() {
            return Ok(removed);
        }
    }
}

/// Tells `rl_info` that house was kept just now, and how many rows that removed.
pub fn report(rows: u64) {
    // SAFETY: reads the clock.
    let time = unsafe { pg_sys::GetCurrentTimestamp() };
    if let Some(header) = shmem::header() {
        header.news(|news| news.purged(time, rows));
    }
}
