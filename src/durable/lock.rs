//! Locks on keys, for sessions that share no memory, and for who resets a key.
//!
//! Keys share a fixed number of locks: PostgreSQL's lock table has room for a few thousand and is everybody's, and a transaction may use
//! any number of keys. So transactions may wait for each other that use different keys. Whoever locks several keys at once does so in the
//! order of their digests, which is that of their locks; PostgreSQL finds who waits in a circle all the same.

use pgrx::pg_sys::{self, LOCKTAG};
use ratelimit_core::slots::Token;

use crate::backend;
use crate::catalog::Id;
use crate::compat;

/// Tells our locks from advisory locks of applications, whose last field is 1 or 2.
const KEYS: u16 = 0x524c;

/// The same of leases: each has its own.
pub const TOKENS: u16 = 0x524e;
const TOKEN_MODE: i32 = pg_sys::ExclusiveLock as i32;

/// How many locks the keys of a database share, as a power of two.
const LOCKS: u32 = 10;

/// The one lock of a database that is no key's: only one process at a time keeps house.
const HOUSE: u32 = 1 << LOCKS;

/// The same for who reads leases into shared memory.
const LEASES: u32 = HOUSE + 1;

/// The lock of a key: the highest bits of its digest.
fn of(digest: Id) -> u32 {
    let [first, second, third, fourth, ..] = digest;
    u32::from_be_bytes([first, second, third, fourth]) >> (u32::BITS - LOCKS)
}

/// A lock of one key, or of several.
fn tag(lock: u32) -> LOCKTAG {
    advisory(KEYS, lock, 0)
}

fn advisory(class: u16, first: u32, second: u32) -> LOCKTAG {
    LOCKTAG {
        locktag_field1: backend::database(),
        locktag_field2: first,
        locktag_field3: second,
        locktag_field4: class,
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

/// Waits until nobody reads leases, and keeps others from it.
pub fn lock_leases() {
    acquire(LEASES, pg_sys::ExclusiveLock, true);
}

/// Lets others read leases.
pub fn unlock_leases() {
    release(LEASES, pg_sys::ExclusiveLock);
}

fn token_tag(token: &Token) -> LOCKTAG {
    let [a, b, c, d, e, f, g, h, ..] = *token;
    advisory(TOKENS, u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

/// Locks a lease until the transaction ends, and waits for it. A slot has one lock at most, as one that is no lease has.
pub fn lock_token(token: &Token) {
    // SAFETY: a valid tag. Waiting can end in an error; then nothing is locked.
    unsafe { pg_sys::LockAcquire(&token_tag(token), TOKEN_MODE, false, false) };
}

/// The same if that needs no waiting, and the lock table has room; says whether it did.
pub fn try_lock_token(token: &Token) -> bool {
    use pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL;
    compat::try_lock_without_error(&token_tag(token), TOKEN_MODE, false) != LOCKACQUIRE_NOT_AVAIL
}

/// Takes one [`lock_token`] back.
pub fn unlock_token(token: &Token) {
    // SAFETY: this transaction has locked it.
    unsafe { pg_sys::LockRelease(&token_tag(token), TOKEN_MODE, false) };
}
