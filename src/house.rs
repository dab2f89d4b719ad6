//! House-keeping: removing what has expired. The worker calls this, and `rl_purge`.

use pgrx::pg_sys;

use crate::catalog::Extension;
use crate::config;
use crate::durable;
use crate::error::Result;
use crate::shmem::{self, Header};

/// Clears the keys of shared memory that are as good as new.
pub fn sweep(header: &'static Header) {
    header.table().sweep(header.clock.read().steady);
}

/// Sums up what durable limiters wrote down, and removes at most `batch` rows of counts that have expired, in the current
/// transaction; says how many rows are gone. Less than a batch says that there are no more. What was written lately is left for later, unless `all` is asked for.
pub fn pass(extension: &Extension, batch: usize, all: bool) -> Result<usize> {
    for table in [c"rl_limiters", c"rl_rules", c"rl_counts", c"rl_ledger_0", c"rl_ledger_1"] {
        extension.table(table)?;
    }
    let header = shmem::get()?.unwrap_or_else(shmem::private);
    // The ledger that is emptied stays locked until the transaction ends: so that comes last.
    let expired = durable::purge(header, extension.schema(), batch)?;
    Ok(expired + durable::fold(header, extension.schema(), all)?)
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
pub fn purge() -> Result<u64> {
    if let Some(header) = shmem::header() {
        sweep(header);
    }
    // SAFETY: a plain variable.
    let writable = unsafe { !pg_sys::XactReadOnly };
    let rows = match Extension::find() {
        Some(extension) if writable => as_owner(&extension, || all_passes(&extension))?,
        _ => 0,
    };
    report(rows);
    Ok(rows)
}

fn all_passes(extension: &Extension) -> Result<u64> {
    let batch = config::purge_batch_size();
    let mut removed = 0;
    loop {
        pgrx::check_for_interrupts!();
        let rows = pass(extension, batch, true)?;
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
