//! What differs between the versions of PostgreSQL: the only place that asks which one this is.

use std::ffi::c_int;

use pgrx::pg_sys;

/// Sets what a signal does to this process. The backend's function got another name in PostgreSQL 18.
///
/// # Safety
/// `handler` does nothing but what is safe in a signal handler.
pub unsafe fn on_signal(signal: c_int, handler: unsafe extern "C-unwind" fn(c_int)) {
    // SAFETY: the caller says so of the handler.
    unsafe {
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(signal, Some(handler));
        #[cfg(not(feature = "pg18"))]
        pg_sys::pqsignal(signal, Some(handler));
    }
}

/// The lock under which libraries make their shared memory. A macro in C; its number is the same in PostgreSQL 15 to 18.
///
/// # Safety
/// The postmaster has made its LWLocks: true in a shmem_startup_hook.
pub unsafe fn addin_shmem_init_lock() -> *mut pg_sys::LWLock {
    const ADDIN_SHMEM_INIT_LOCK: usize = 21;
    // SAFETY: the array has this lock, and the caller says that it has been made.
    unsafe { &raw mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT_LOCK)).lock }
}
