//! Shared memory of a server that did not load the library when it started: the first session that needs it makes it, and the others
//! join. It lives as long as the server, and is not saved. PostgreSQL 17 brought the registry by which sessions find it.

use std::ffi::{c_void, CStr};
use std::sync::atomic::Ordering;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::PgTryBuilder;
use ratelimit_core::table::Cell;

use super::{initialise, locks, shape, slots, stats, Header, HEADER, LOCKS, TRANCHE};
use crate::compat;
use crate::config;
use crate::error::{Error, Result};

/// The registry's entry: where the memory is, as soon as somebody made it. The registry itself would remember a segment that could
/// not be allocated, and would refuse one of another size.
#[repr(C)]
struct Entry {
    memory: pg_sys::dsm_handle,
    tranche: i32,
}

/// Another version of the library may see other things in the same memory.
const NAME: &CStr = {
    let name = concat!("ratelimit ", env!("CARGO_PKG_VERSION"), "\0");
    match CStr::from_bytes_with_nul(name.as_bytes()) {
        Ok(name) => name,
        Err(_) => c"ratelimit",
    }
};

/// Makes the memory or joins it; `None` where PostgreSQL has no registry.
#[cold]
pub fn attach() -> Result<Option<&'static Header>> {
    if !compat::HAS_SEGMENTS {
        return Ok(None);
    }
    // What PostgreSQL had locked when it failed, it unlocks with the error that follows.
    let joined = PgTryBuilder::new(|| {
        // SAFETY: we are in a function that a session called, and hold no lock.
        unsafe { join() }
    });
    let joined = joined.catch_others(|error| match error {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. } => {
            Err(Error::no_shared_memory(report.message()))
        }
    });
    joined.execute()?;
    Ok(super::header())
}

/// # Safety
/// The process may raise errors, and holds no LWLock.
unsafe fn join() -> Result<()> {
    // SAFETY: the entry is only read and written under the lock, and so made once. What a handle of it names is pinned, and
    // whole: `make` writes the handle last.
    unsafe {
        let entry = compat::segment(NAME, size_of::<Entry>(), clear).cast::<Entry>();
        let lock = compat::addin_shmem_init_lock();
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let segment = match (*entry).memory {
            0 if config::sizes_of_session() => None,
            0 => Some(make(entry)),
            memory => Some(enter(memory)),
        };
        pg_sys::LWLockRelease(lock);
        let segment = segment.ok_or_else(Error::sizes_of_session)?;
        pg_sys::dsm_pin_mapping(segment);
        pg_sys::LWLockRegisterTranche((*entry).tranche, TRANCHE.as_ptr());
        let header = pg_sys::dsm_segment_address(segment).cast::<Header>();
        let locks_end = locks_of(header).add(locks((*header).shape));
        let slots = locks_end.cast::<u8>();
        slots::SLOTS.store(slots, Ordering::Relaxed);
        // Both sizes are multiples of a cache line.
        let stats = slots.add(slots::size(&(*header).slots)).cast::<stats::Statistics>();
        stats::STATISTICS.store(stats, Ordering::Relaxed);
        LOCKS.store(locks_of(header), Ordering::Relaxed);
        HEADER.store(header, Ordering::Relaxed);
    }
    Ok(())
}

/// Called by PostgreSQL for a new entry; not guarded, as it only writes memory.
unsafe extern "C-unwind" fn clear(entry: *mut c_void) {
    // SAFETY: PostgreSQL calls it with memory of the size that was asked for.
    unsafe { entry.cast::<Entry>().write_bytes(0, 1) };
}

/// # Safety
/// The entry is locked, and names no memory.
unsafe fn make(entry: *mut Entry) -> *mut pg_sys::dsm_segment {
    let shape = shape();
    let size = size_of::<Header>()
        + shape.cells() * size_of::<Cell>()
        + locks(shape) * size_of::<pg_sys::LWLockPadded>()
        + slots::size(&slots::shape())
        + size_of::<stats::Statistics>();
    // SAFETY: memory of that size which nobody else knows. It may have been used before. What fails frees it again.
    unsafe {
        let segment = pg_sys::dsm_create(size, 0);
        let header = pg_sys::dsm_segment_address(segment).cast::<Header>();
        header.cast::<u8>().write_bytes(0, size);
        initialise(header, shape, None);
        (*entry).tranche = pg_sys::LWLockNewTrancheId();
        for n in 0..locks(shape) {
            let lock = locks_of(header).add(n);
            pg_sys::LWLockInitialize(&raw mut (*lock).lock, (*entry).tranche);
        }
        pg_sys::dsm_pin_segment(segment);
        (*entry).memory = pg_sys::dsm_segment_handle(segment);
        segment
    }
}

/// # Safety
/// The handle is that of a pinned segment.
unsafe fn enter(memory: pg_sys::dsm_handle) -> *mut pg_sys::dsm_segment {
    // SAFETY: the caller says so. A segment can be attached once, so what an error left behind is found first.
    unsafe {
        let mapped = pg_sys::dsm_find_mapping(memory);
        let segment = if mapped.is_null() { pg_sys::dsm_attach(memory) } else { mapped };
        if segment.is_null() {
            pgrx::error!("it is not there any more");
        }
        segment
    }
}

/// The locks follow the cells, which follow the header. The slots and the statistics come last.
///
/// # Safety
/// The header is initialised.
unsafe fn locks_of(header: *mut Header) -> *mut pg_sys::LWLockPadded {
    // SAFETY: `make` made room for all of them.
    unsafe { header.add(1).cast::<Cell>().add((*header).shape.cells()).cast() }
}
