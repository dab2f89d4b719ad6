//! The part of shared memory that holds statistics. It has one size, so that it needs no setting: limiters that find no place in it
//! are not counted.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicU8, Ordering};

use pgrx::pg_sys;
use ratelimit_core::stats::{HeavyHitters, Hitter, Place, Sighting, Total, Totals, Watch, WATCHED};
use ratelimit_core::table::Key;

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
    /// Whether there is a tracked key of the limiter at each place: most have none, and need not look further.
    tracked: [AtomicBool; LIMITERS],
    watch: [AtomicU8; WATCHED],
    sketches: UnsafeCell<[HeavyHitters; SKETCHES]>,
    /// Up to which change of definitions limiters that are gone have been looked for: one more than their number.
    searched: AtomicU64,
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
    tracked: &'a [AtomicBool; LIMITERS],
    watch: Watch<'a>,
    pub totals: Totals<'a>,
}

impl Keys<'_> {
    /// The sketch with the keys of the limiter at this place.
    pub fn sketch(&mut self, place: Place) -> &mut HeavyHitters {
        &mut self.sketches[place as usize % SKETCHES]
    }

    /// Counts a key.
    pub fn add(&mut self, seen: &Sighting<'_>) {
        self.set_tracked(seen);
        self.sketches[seen.owner as usize % SKETCHES].add(seen, &self.watch);
    }

    /// Puts a key back that was tracked before, if there is room.
    pub fn restore(&mut self, hitter: &Hitter<'_>) {
        self.set_tracked(&hitter.seen);
        self.sketches[hitter.seen.owner as usize % SKETCHES].restore(hitter, &self.watch);
    }

    fn set_tracked(&self, seen: &Sighting<'_>) {
        if let Some(tracked) = self.tracked.get(seen.owner as usize).filter(|_| seen.denied > 0) {
            // What many look at is written only where that changes it.
            if !tracked.load(Ordering::Relaxed) {
                tracked.store(true, Ordering::Relaxed);
            }
        }
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
        for (place, tracked) in (0..).zip(self.tracked) {
            if goes(place) {
                tracked.store(false, Ordering::Relaxed);
            }
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

/// Whether a key of the limiter at this place may be tracked: one look without a lock, or two.
#[inline(always)]
pub fn may_be_tracked(place: Place, key: Key) -> bool {
    // SAFETY: set once, to memory that stays mapped as long as this process lives; what is looked at is made of atomics.
    let statistics = unsafe { STATISTICS.load(Ordering::Relaxed).as_ref() };
    statistics.is_some_and(|statistics| {
        let tracked = statistics.tracked.get(place as usize);
        tracked.is_some_and(|tracked| tracked.load(Ordering::Relaxed))
            && Watch::new(&statistics.watch).may_have(key)
    })
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

    /// Whether limiters may have gone since the last look for them, which takes a while. Who is told so is to look.
    pub fn may_have_gone(&self) -> bool {
        let changes = self.definitions.load(Ordering::Acquire).wrapping_add(1);
        self.statistics().searched.swap(changes, Ordering::Relaxed) != changes
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
                tracked: &statistics.tracked,
                watch: Watch::new(&statistics.watch),
                totals: Totals::new(&statistics.totals),
            });
            LWLockRelease(self.statistics_lock(1));
            answer
        }
    }
}
