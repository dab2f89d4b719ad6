//! What differs between the versions of PostgreSQL: the only place that asks which one this is.

use pgrx::pg_sys;

/// The lock under which libraries make their shared memory. A macro in C; its number is the same in PostgreSQL 15 to 18.
///
/// # Safety
/// The postmaster has made its LWLocks: true in a shmem_startup_hook.
pub unsafe fn addin_shmem_init_lock() -> *mut pg_sys::LWLock {
    const ADDIN_SHMEM_INIT_LOCK: usize = 21;
    // SAFETY: the array has this lock, and the caller says that it has been made.
    unsafe { &raw mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT_LOCK)).lock }
}
