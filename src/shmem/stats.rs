//! The part of shared memory that holds statistics. It has one size, so that it needs no setting: limiters that find no place in it
//! are not counted.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

use pgrx::pg_sys;
use ratelimit_core::stats::{HeavyHitters, Place, Total, Totals, Watch, WATCHED};

use super::{lwlock_acquire, Header, LWLockRelease, LOCKS};

/// How many limiters are counted, of all databases.
pub const LIMITERS: usize = 1_024;

/// How many sketches of denied keys there are. A flood of keys must not hide those of another limiter: so each has one of its own, as
/// long as there are no more limiters than sketches; then they share.
pub const SKETCHES: usize = 64;

/// All of it; valid when it is all zero.
#[repr(C)]
pub struct Statistics {
    totals: [Total; LIMITERS],
    watch: [AtomicU8; WATCHED],
    sketches: UnsafeCell<[HeavyHitters; SKETCHES]>,
}

/// Where it is in this process.
pub static STATISTICS: AtomicPtr<Statistics> = AtomicPtr::new(std::ptr::null_mut());

extern "C-unwind" {
    // Unguarded, as they are called when transactions end: neither raises an error but for more than 200 locks held at once.
    fn LWLockAcquire(lock: *mut pg_sys::LWLock, mode: pg_sys::LWLockMode::Type) -> bool;
    fn LWLockConditionalAcquire(lock: *mut pg_sys::LWLock, mode: pg_sys::LWLockMode::Type) -> bool;
}

/// The sketches of denied keys, while their lock is held.
pub struct Keys<'a> {
    sketches: &'a mut [HeavyHitters; SKETCHES],
    watch: Watch<'a>,
    pub totals: Totals<'a>,
}

impl Keys<'_> {
    /// The sketch with the keys of the limiter at this place, and what it has to keep up to date.
    pub fn sketch(&mut self, place: Place) -> (&mut HeavyHitters, &Watch<'_>) {
        (&mut self.sketches[place as usize % SKETCHES], &self.watch)
    }

    /// All sketches.
    pub fn sketches(&self) -> &[HeavyHitters] {
        self.sketches
    }

    /// Forgets the keys of the limiters at these places.
    pub fn forget(&mut self, goes: impl Fn(Place) -> bool) {
        for sketch in self.sketches.iter_mut() {
            sketch.remove(&goes, &self.watch);
        }
    }
}

/// Counts nothing yet.
///
/// # Safety
/// Nobody else uses the memory yet.
pub unsafe fn clear() {
    // SAFETY: the caller says so; the pointer is to all of it.
    unsafe { STATISTICS.load(Ordering::Relaxed).write_bytes(0, 1) };
}

/// Which keys may be tracked; `None` where this process has no shared memory yet.
#[inline(always)]
pub fn watch() -> Option<Watch<'static>> {
    // SAFETY: set once, to memory that stays mapped as long as this process lives; the part is made of atomics.
    let statistics = unsafe { STATISTICS.load(Ordering::Relaxed).as_ref() };
    statistics.map(|statistics| Watch::new(&statistics.watch))
}

/// These need memory that is shared: see [`super::is_shared`].
impl Header {
    fn statistics_lock(&self, n: usize) -> *mut pg_sys::LWLock {
        // SAFETY: the tranche has two locks after those of the partitions, the news and the slots.
        unsafe { &raw mut (*LOCKS.load(Ordering::Relaxed).add(self.shape.partitions + 2 + n)).lock }
    }

    fn statistics(&self) -> &'static Statistics {
        // SAFETY: who made the header made it, of zeros, for which all its types are valid. The part that is not made of atomics
        // is an UnsafeCell.
        unsafe { &*STATISTICS.load(Ordering::Relaxed) }
    }

    /// Runs `f` on the totals, to read them or to add: `f` must not raise, allocate or wait.
    pub fn totals<R>(&self, f: impl FnOnce(Totals<'static>) -> R) -> R {
        let lock = self.statistics_lock(0);
        // SAFETY: a lock of our tranche, which this process does not hold.
        unsafe {
            LWLockAcquire(lock, pg_sys::LWLockMode::LW_SHARED);
            let answer = f(Totals::new(&self.statistics().totals));
            LWLockRelease(lock);
            answer
        }
    }

    /// The same to give out places, or to clear them.
    pub fn totals_alone<R>(&self, f: impl FnOnce(Totals<'static>) -> R) -> R {
        let lock = self.statistics_lock(0);
        // SAFETY: as above.
        unsafe {
            lwlock_acquire(lock);
            let answer = f(Totals::new(&self.statistics().totals));
            LWLockRelease(lock);
            answer
        }
    }

    /// Runs `f` on the denied keys, under their lock: `f` must not raise, allocate or wait.
    pub fn denied_keys<R>(&self, f: impl FnOnce(&mut Keys<'_>) -> R) -> R {
        // SAFETY: as above.
        unsafe { lwlock_acquire(self.statistics_lock(1)) };
        self.with_keys(f)
    }

    /// The same, unless somebody else has the lock.
    pub fn try_denied_keys<R>(&self, f: impl FnOnce(&mut Keys<'_>) -> R) -> Option<R> {
        let mode = pg_sys::LWLockMode::LW_EXCLUSIVE;
        // SAFETY: as above.
        let locked = unsafe { LWLockConditionalAcquire(self.statistics_lock(1), mode) };
        locked.then(|| self.with_keys(f))
    }

    /// Lets go of the lock, which is held.
    fn with_keys<R>(&self, f: impl FnOnce(&mut Keys<'_>) -> R) -> R {
        let statistics = self.statistics();
        // SAFETY: the callers have taken the lock, and nobody reaches the sketches without it.
        unsafe {
            let answer = f(&mut Keys {
                sketches: &mut *statistics.sketches.get(),
                watch: Watch::new(&statistics.watch),
                totals: Totals::new(&statistics.totals),
            });
            LWLockRelease(self.statistics_lock(1));
            answer
        }
    }
}
