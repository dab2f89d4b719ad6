//! Locks on keys, for sessions that share no memory, and for who resets a key.
//!
//! Keys share a fixed number of locks: PostgreSQL's lock table has room for a few thousand and is everybody's, and a transaction may use
//! any number of keys. So transactions may wait for each other that use different keys. Whoever locks several keys at once does so in the
//! order of their digests, which is that of their locks; PostgreSQL finds who waits in a circle all the same.

use pgrx::pg_sys::{self, LOCKTAG};

use crate::catalog::Id;

/// Tells our locks from advisory locks of applications, whose last field is 1 or 2.
const KEYS: u16 = 0x524c;

/// How many locks the keys of a database share, as a power of two.
const LOCKS: u32 = 10;

/// The one lock of a database that is no key's: only one process at a time keeps house.
const HOUSE: u32 = 1 << LOCKS;

/// The lock of a key: the highest bits of its digest.
fn of(digest: Id) -> u32 {
    let [first, second, third, fourth, ..] = digest;
    u32::from_be_bytes([first, second, third, fourth]) >> (u32::BITS - LOCKS)
}

fn tag(lock: u32) -> LOCKTAG {
    LOCKTAG {
        // SAFETY: a plain variable, set when the process connected to its database.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: lock,
        locktag_field3: 0,
        locktag_field4: KEYS,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    }
}

fn acquire(lock: u32, mode: u32, wait: bool) -> bool {
    // SAFETY: a valid tag. Waiting can end in an error; then nothing is locked.
    let result = unsafe { pg_sys::LockAcquire(&tag(lock), mode as i32, false, !wait) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

fn release(lock: u32, mode: u32) {
    // SAFETY: this transaction has locked it.
    unsafe { pg_sys::LockRelease(&tag(lock), mode as i32, false) };
}

/// Locks a key until the transaction ends, and waits for it.
pub fn lock(digest: Id) {
    acquire(of(digest), pg_sys::ExclusiveLock, true);
}

/// Locks a key until the transaction ends, if that needs no waiting; says whether it did.
pub fn try_lock(digest: Id) -> bool {
    acquire(of(digest), pg_sys::ExclusiveLock, false)
}

/// Takes one [`lock`] back.
pub fn unlock(digest: Id) {
    release(of(digest), pg_sys::ExclusiveLock);
}

/// Waits until nobody has locked the key.
pub fn wait_for(digest: Id) {
    acquire(of(digest), pg_sys::ShareLock, true);
    release(of(digest), pg_sys::ShareLock);
}

/// Makes this transaction the only one that keeps house in the database, if there is none; says whether it is.
pub fn try_lock_house() -> bool {
    acquire(HOUSE, pg_sys::ExclusiveLock, false)
}
