//! What differs between the versions of PostgreSQL: the only place that asks which one this is.

use std::ffi::{c_int, c_void, CStr};

use pgrx::pg_sys::{self, Oid};

/// Whether sessions can make shared memory that others find by its name.
pub const HAS_SEGMENTS: bool = cfg!(any(feature = "pg17", feature = "pg18"));

/// Whether an interval can be infinite.
pub const HAS_INFINITE_INTERVALS: bool = cfg!(any(feature = "pg17", feature = "pg18"));

/// Shared memory of that name and size, which `clear` gets when it is new. Null where [`HAS_SEGMENTS`] is false.
///
/// # Safety
/// The process may raise errors, and `clear` raises none.
pub unsafe fn segment(
    name: &CStr,
    size: usize,
    clear: unsafe extern "C-unwind" fn(*mut c_void),
) -> *mut c_void {
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    // SAFETY: the caller says so; the name is terminated.
    unsafe {
        let mut found = false;
        pg_sys::GetNamedDSMSegment(name.as_ptr(), size, Some(clear), &mut found)
    }
    #[cfg(not(any(feature = "pg17", feature = "pg18")))]
    {
        let _ = (name, size, clear);
        std::ptr::null_mut()
    }
}

/// Whether the value of a setting comes from nearer than the configuration file and the server's command line: from a role, a
/// database or a connection. Known where [`HAS_SEGMENTS`] is true.
pub fn is_set_for_session(name: &CStr) -> bool {
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    // SAFETY: the name is terminated, and nothing is raised where it is unknown. What is found lives on.
    unsafe {
        let setting = pg_sys::find_option(name.as_ptr(), false, true, pg_sys::DEBUG5 as i32);
        setting.as_ref().is_some_and(|s| s.reset_source > pg_sys::GucSource::PGC_S_ARGV)
    }
    #[cfg(not(any(feature = "pg17", feature = "pg18")))]
    {
        let _ = name;
        false
    }
}

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

/// Locks an object of a database, or with database 0 a shared one, until the transaction ends; says no where that would have to wait.
/// Not all minor versions have ConditionalLockDatabaseObject, and only PostgreSQL 18 ConditionalLockSharedObject.
pub fn try_lock(database: Oid, class: Oid, object: Oid, mode: u32) -> bool {
    let tag = pg_sys::LOCKTAG {
        locktag_field1: database.to_u32(),
        locktag_field2: class.to_u32(),
        locktag_field3: object.to_u32(),
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    // SAFETY: the tag is copied; what others did before they released the lock becomes visible here.
    unsafe {
        let result = pg_sys::LockAcquire(&tag, mode as pg_sys::LOCKMODE, false, true);
        pg_sys::AcceptInvalidationMessages();
        result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }
}

/// Takes a lock if that needs no waiting. A full lock table is no error, but an answer.
pub fn try_lock_without_error(
    tag: &pg_sys::LOCKTAG,
    mode: pg_sys::LOCKMODE,
    for_session: bool,
) -> pg_sys::LockAcquireResult::Type {
    let nothing = std::ptr::null_mut();
    // SAFETY: the tag is copied, and the lock is not asked for in return.
    unsafe {
        #[cfg(feature = "pg18")]
        return pg_sys::LockAcquireExtended(tag, mode, for_session, true, false, nothing, false);
        #[cfg(not(feature = "pg18"))]
        return pg_sys::LockAcquireExtended(tag, mode, for_session, true, false, nothing);
    }
}

/// Whether this process has this lock.
pub fn is_locked_here(tag: &pg_sys::LOCKTAG, mode: pg_sys::LOCKMODE) -> bool {
    // SAFETY: looks into a table of this process.
    unsafe {
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        return pg_sys::LockHeldByMe(tag, mode, false);
        #[cfg(not(any(feature = "pg17", feature = "pg18")))]
        return pg_sys::LockHeldByMe(tag, mode);
    }
}

/// What pg_stat_activity shows of a process that waits for this: its own name from PostgreSQL 17 on, else `Extension`.
pub fn wait_event(name: &CStr) -> u32 {
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    // SAFETY: the name is terminated, short and copied; one that is known gets the same number again.
    return unsafe { pg_sys::WaitEventExtensionNew(name.as_ptr()) };
    #[cfg(not(any(feature = "pg17", feature = "pg18")))]
    {
        let _ = name;
        pg_sys::PG_WAIT_EXTENSION
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
