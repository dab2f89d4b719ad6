//! A slot in the lock manager: seen in pg_locks, gone with its owner, and nobody ever waits for it.

use pgrx::pg_sys::{self, LOCKTAG};
use ratelimit_core::table::Key;

use crate::backend;
use crate::compat;
use crate::durable;

/// Tells slots from advisory locks of applications, whose last field is 1 or 2, and from our own locks on keys.
const SLOTS: u16 = 0x524d;
/// The mark of a session that waits for a slot of a key, where no memory is shared.
const WAITERS: u16 = 0x524f;
/// One process at a time looks for deadlocks.
const DETECTOR: u16 = 0x5250;

/// The lock of one slot of a key, which no other slot has at the same time.
pub fn tag(key: Key, number: u32) -> LOCKTAG {
    let database = backend::database();
    advisory(SLOTS, database, key[0].wrapping_add(number.into()))
}

fn advisory(class: u16, database: u32, hash: u64) -> LOCKTAG {
    LOCKTAG {
        locktag_field1: database,
        locktag_field2: (hash >> 32) as u32,
        locktag_field3: hash as u32,
        locktag_field4: class,
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

/// Runs `f` unless another process does so at the moment. It must not wait for others.
pub fn alone<R>(f: impl FnOnce() -> R) -> Option<R> {
    let tag = advisory(DETECTOR, 0, 0);
    if !acquire(&tag, false) {
        return None;
    }
    let answer = f();
    release(&tag, false);
    Some(answer)
}

/// Many sessions may wait for one key.
const SHARED: i32 = pg_sys::ShareLock as i32;

fn mark(key: Key) -> LOCKTAG {
    LOCKTAG { locktag_field4: WAITERS, ..tag(key, 0) }
}

/// Lets all see that this session waits for a slot of the key, if the lock table has room for that; until the transaction ends, or
/// [`unmark_waiter`].
pub fn mark_waiter(key: Key) {
    let mark = mark(key);
    if !compat::is_locked_here(&mark, SHARED) {
        compat::try_lock_without_error(&mark, SHARED, false);
    }
}

/// It does not wait any more.
pub fn unmark_waiter(key: Key) {
    let mark = mark(key);
    if compat::is_locked_here(&mark, SHARED) {
        // SAFETY: this session has it.
        unsafe { pg_sys::LockRelease(&mark, SHARED, false) };
    }
}

/// A lock of these that a process has.
pub struct Locked {
    class: u16,
    database: u32,
    hash: u64,
    pub pid: i32,
}

impl Locked {
    /// The mark of a waiter.
    pub fn is_mark(&self) -> bool {
        self.class == WAITERS
    }

    /// Which of a key's slots it is, if it is one of this key. Only locks with numbers below `most` are made.
    pub fn number(&self, key: Key, most: u32) -> Option<u32> {
        self.distance(&mark(key), most)
    }

    /// Whether it is a slot for which that session waits.
    pub fn is_awaited(&self, waiter: &Locked, most: u32) -> bool {
        let mark = advisory(WAITERS, waiter.database, waiter.hash);
        self.distance(&mark, most).is_some()
    }

    fn distance(&self, mark: &LOCKTAG, most: u32) -> Option<u32> {
        let distance = u32::try_from(self.hash.wrapping_sub(hash(mark))).ok()?;
        let theirs = self.class == SLOTS && self.database == mark.locktag_field1;
        Some(distance).filter(|distance| theirs && *distance < most)
    }
}

fn hash(tag: &LOCKTAG) -> u64 {
    u64::from(tag.locktag_field2) << 32 | u64::from(tag.locktag_field3)
}

/// All of these locks in the server at one moment. It takes longer the more locks there are, of whatever kind.
pub fn all() -> Vec<Locked> {
    // SAFETY: the lock manager copies its table into memory of ours, and says how much that is.
    unsafe {
        let data = pg_sys::GetLockStatusData();
        let count = usize::try_from((*data).nelements).unwrap_or(0);
        let locks = std::slice::from_raw_parts((*data).locks, count);
        let ours = locks.iter().filter(|lock| {
            let advisory = pg_sys::LockTagType::LOCKTAG_ADVISORY as u8;
            let tag = &lock.locktag;
            let class = [SLOTS, WAITERS, durable::TOKENS].contains(&tag.locktag_field4);
            tag.locktag_type == advisory && class && lock.holdMask != 0
        });
        let locked = ours
            .map(|lock| Locked {
                class: lock.locktag.locktag_field4,
                database: lock.locktag.locktag_field1,
                hash: hash(&lock.locktag),
                pid: lock.pid,
            })
            .collect();
        // Who waits comes here again and again.
        pg_sys::pfree((*data).locks.cast());
        pg_sys::pfree(data.cast());
        locked
    }
}
