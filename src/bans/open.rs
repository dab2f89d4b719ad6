//! Bans of durable limiters that the open transaction has written. When it commits they are counted, and forgotten is what was refused before; where
//! it rolls back there was no ban, and the next denial is one too many.

use std::ffi::c_void;

use pgrx::pg_sys::{self, SubXactEvent, XactEvent};
use ratelimit_core::table::{Key, DENIALS};

use crate::backend::BackendCell;
use crate::shmem::Header;
use crate::stats::Stats;

struct Written {
    header: &'static Header,
    stats: Stats,
    /// The key of which denials are to be forgotten, until they are.
    key: Option<Key>,
    subtransaction: u32,
}

static OPEN: BackendCell<Vec<Written>> = BackendCell::new(Vec::new());

/// Remembers a ban that was just written; the key is the table's.
pub fn add(header: &'static Header, stats: &Stats, key: Key) {
    // SAFETY: reads a variable.
    let subtransaction = unsafe { pg_sys::GetCurrentSubTransactionId() };
    let written = Written { header, stats: stats.clone(), key: Some(key), subtransaction };
    OPEN.with(|open| open.push(written));
}

/// Forgets the denials that led to a ban of this transaction, which has ended before the transaction has.
pub fn begin_afresh(key: Key) {
    let mut ended = None;
    OPEN.with(|open| {
        for written in open.iter_mut().filter(|written| written.key == Some(key)) {
            written.key = None;
            ended = Some(written.header);
        }
    });
    if let Some(header) = ended {
        forget_denials(header, key);
    }
}

/// Forgets how often a key was refused; it is the table's.
pub fn forget_denials(header: &'static Header, key: Key) {
    header.table().reset(key, std::iter::once(DENIALS), header.clock.read().steady);
}

/// Registers for what PostgreSQL has to tell; the postmaster's children inherit it.
pub fn install() {
    // SAFETY: both lists are made to be added to when a library is loaded, and the callbacks live as long as the library.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction_event), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_event), std::ptr::null_mut());
    }
}

/// Not guarded: nothing in it fails.
unsafe extern "C-unwind" fn transaction_event(event: XactEvent::Type, _: *mut c_void) {
    let ends =
        [XactEvent::XACT_EVENT_COMMIT, XactEvent::XACT_EVENT_ABORT, XactEvent::XACT_EVENT_PREPARE];
    if !ends.contains(&event) {
        return;
    }
    let open = OPEN.with(std::mem::take);
    if event == XactEvent::XACT_EVENT_COMMIT {
        for Written { header, stats, key, .. } in open {
            stats.banned();
            if let Some(key) = key {
                forget_denials(header, key);
            }
        }
    }
}

/// Not guarded: as above.
unsafe extern "C-unwind" fn subtransaction_event(
    event: SubXactEvent::Type,
    child: u32,
    parent: u32,
    _: *mut c_void,
) {
    OPEN.with(|open| match event {
        SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => {
            let theirs = |written: &&mut Written| written.subtransaction == child;
            open.iter_mut().filter(theirs).for_each(|written| written.subtransaction = parent);
        }
        SubXactEvent::SUBXACT_EVENT_ABORT_SUB => {
            open.retain(|written| written.subtransaction != child);
        }
        _ => {}
    });
}
