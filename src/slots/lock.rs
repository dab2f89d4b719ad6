//! A slot in the lock manager: seen in pg_locks, gone with its owner, and nobody ever waits for it.

use pgrx::pg_sys::{self, LOCKTAG};
use ratelimit_core::table::Key;

use crate::compat;

/// Tells slots from advisory locks of applications, whose last field is 1 or 2, and from our own locks on keys.
const SLOTS: u16 = 0x524d;

/// The lock of one slot of a key, which no other slot has at the same time.
pub fn tag(key: Key, number: u32) -> LOCKTAG {
    let hash = key[0].wrapping_add(number.into());
    LOCKTAG {
        // SAFETY: a plain variable, set when the process connected to its database.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: (hash >> 32) as u32,
        locktag_field3: hash as u32,
        locktag_field4: SLOTS,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    }
}

const MODE: i32 = pg_sys::ExclusiveLock as i32;

/// Takes the lock, for the session or for the transaction. No: another has it, or the lock table is full.
pub fn acquire(tag: &LOCKTAG, for_session: bool) -> bool {
    use pg_sys::LockAcquireResult::{LOCKACQUIRE_ALREADY_HELD, LOCKACQUIRE_NOT_AVAIL};
    match compat::try_lock_without_error(tag, MODE, for_session) {
        LOCKACQUIRE_NOT_AVAIL => false,
        LOCKACQUIRE_ALREADY_HELD => {
            // By this session itself, which wants another slot.
            release(tag, for_session);
            false
        }
        _ => true,
    }
}

/// Lets it go.
pub fn release(tag: &LOCKTAG, for_session: bool) {
    // SAFETY: this session has it, which is all that the lock manager asks.
    unsafe { pg_sys::LockRelease(tag, MODE, for_session) };
}

/// Whether this session has it.
pub fn is_held(tag: &LOCKTAG) -> bool {
    compat::is_locked_here(tag, MODE)
}
