//! Locks on keys, for sessions that share no memory.

use pgrx::pg_sys::{self, LOCKTAG};

use crate::catalog::Id;

/// Tells our locks from advisory locks of applications, whose last field is 1 or 2.
const KEYS: u16 = 0x524c;

fn tag(digest: Id) -> LOCKTAG {
    let word =
        |n: usize| u32::from_be_bytes([digest[n], digest[n + 1], digest[n + 2], digest[n + 3]]);
    LOCKTAG {
        // SAFETY: a plain variable, set when the process connected to its database.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: word(0),
        locktag_field3: word(8),
        locktag_field4: KEYS,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    }
}

/// Locks a key until the transaction ends. Where the lock is taken already, says whether to wait for it.
pub fn lock(digest: Id, wait: bool) -> bool {
    // SAFETY: a valid tag. Waiting can end in an error; then nothing is locked.
    let result =
        unsafe { pg_sys::LockAcquire(&tag(digest), pg_sys::ExclusiveLock as i32, false, !wait) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// Takes one [`lock`] back.
pub fn unlock(digest: Id) {
    // SAFETY: this transaction has locked it.
    unsafe { pg_sys::LockRelease(&tag(digest), pg_sys::ExclusiveLock as i32, false) };
}
