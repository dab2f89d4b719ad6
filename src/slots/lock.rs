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

/// A slot's lock that a process has.
pub struct Locked {
    database: u32,
    hash: u64,
}

impl Locked {
    /// Which of a key's slots it is, if it is one of this key. Only locks with numbers below `most` are made.
    pub fn number(&self, key: Key, most: u32) -> Option<u32> {
        // SAFETY: a plain variable, set when the process connected to its database.
        let here = self.database == unsafe { pg_sys::MyDatabaseId }.to_u32();
        let distance = u32::try_from(self.hash.wrapping_sub(key[0])).ok()?;
        Some(distance).filter(|number| here && *number < most)
    }
}

/// All slots' locks of the server at one moment. It takes longer the more locks there are, of whatever kind.
pub fn all() -> Vec<Locked> {
    // SAFETY: the lock manager copies its table into memory of ours, and says how much that is.
    unsafe {
        let data = pg_sys::GetLockStatusData();
        let count = usize::try_from((*data).nelements).unwrap_or(0);
        let locks = std::slice::from_raw_parts((*data).locks, count);
        let slots = locks.iter().filter(|lock| {
            let advisory = pg_sys::LockTagType::LOCKTAG_ADVISORY as u8;
            let tag = &lock.locktag;
            tag.locktag_type == advisory && tag.locktag_field4 == SLOTS && lock.holdMask != 0
        });
        let locked = slots
            .map(|lock| Locked {
                database: lock.locktag.locktag_field1,
                hash: u64::from(lock.locktag.locktag_field2) << 32
                    | u64::from(lock.locktag.locktag_field3),
            })
            .collect();
        // Who waits comes here again and again.
        pg_sys::pfree((*data).locks.cast());
        pg_sys::pfree(data.cast());
        locked
    }
}
