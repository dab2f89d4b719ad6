//! The part of shared memory that holds concurrency slots: all of it under one LWLock, and sized by `ratelimit.max_slots`.

use std::ffi::c_int;
use std::sync::atomic::{AtomicPtr, Ordering};

use pgrx::pg_sys;
use ratelimit_core::slots::{Bucket, Head, Holder, Memory, Semaphore, Shape, Slots, Waiter};

use super::{lwlock_acquire, Header, LWLockRelease, LOCKS};
use crate::config;

/// So many slots are looked at in one go by who looks at all: then the lock is let go for others.
pub const STEPS: u32 = 256;

/// Where it is in this process.
pub static SLOTS: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());

extern "C" {
    // Bound by no version of pgrx.
    static max_prepared_xacts: c_int;
}

/// How many locks the server's lock table is made for.
fn lock_table() -> usize {
    // SAFETY: plain variables of the server, written before shared memory is asked for, and not changed later.
    let (each, sessions, prepared) =
        unsafe { (pg_sys::max_locks_per_xact, pg_sys::MaxBackends, max_prepared_xacts) };
    let count = |n: c_int| usize::try_from(n).unwrap_or(0);
    count(each).saturating_mul(count(sessions) + count(prepared))
}

/// How many slots the server can hold. Each is a lock: others need most of the lock table, whatever the setting says.
pub fn max_slots() -> usize {
    let most = lock_table() / 2;
    config::max_slots().map_or(lock_table() / 4, |slots| slots.min(most))
}

pub fn shape() -> Shape {
    // SAFETY: as above. Sessions and background workers have the numbers below it.
    let processes = usize::try_from(unsafe { pg_sys::MaxBackends }).unwrap_or(0);
    Shape::new(max_slots(), processes)
}

/// Where each part begins, and where the last one ends.
fn offsets(shape: &Shape) -> [usize; 5] {
    let sizes = [
        size_of::<Head>(),
        size_of::<Bucket>() * shape.buckets,
        size_of::<Semaphore>() * shape.semaphores,
        size_of::<Holder>() * shape.holders,
        size_of::<Waiter>() * shape.waiters,
    ];
    let mut end = 0_usize;
    sizes.map(|size| {
        end = (end + size).next_multiple_of(64);
        end
    })
}

pub fn size(shape: &Shape) -> usize {
    offsets(shape)[4]
}

/// Frees all slots.
///
/// # Safety
/// The memory is there, and nobody else uses it.
pub unsafe fn clear() {
    // SAFETY: the caller says so; zeros are how it begins.
    unsafe { SLOTS.load(Ordering::Relaxed).write_bytes(0, size(&shape())) };
}

/// This process's number among the waiters.
pub fn process() -> u32 {
    // SAFETY: a session has an entry in the array, both set before it runs any SQL.
    let place = unsafe { pg_sys::MyProc.offset_from((*pg_sys::ProcGlobal).allProcs) };
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// The number of another process, if it is still there.
pub fn process_of(pid: i32) -> Option<u32> {
    // SAFETY: looks up a process; those that are found are in the array.
    unsafe {
        let process = pg_sys::BackendPidGetProc(pid);
        let place = process.offset_from((*pg_sys::ProcGlobal).allProcs);
        (!process.is_null()).then(|| u32::try_from(place).ok())?
    }
}

extern "C-unwind" {
    // Unguarded, as it is called under the lock: raises nothing.
    fn SetLatch(latch: *mut pg_sys::Latch);
}

fn wake(process: u32) {
    // SAFETY: the number of a process that has asked to be woken, and so a place in the array, which is never freed.
    unsafe { SetLatch(&raw mut (*(*pg_sys::ProcGlobal).allProcs.add(process as usize)).procLatch) };
}

impl Header {
    /// Runs `f` on the slots, under their lock: `f` must not raise, allocate or wait.
    pub fn with_slots<R>(&self, f: impl FnOnce(&mut Slots<'_>) -> R) -> R {
        let base = SLOTS.load(Ordering::Relaxed);
        let [buckets, semaphores, holders, waiters, _] = offsets(&self.slots);
        // SAFETY: the lock after that of the news, which this process does not hold; nobody reaches the slots without it. Whoever made the
        // memory made it of this shape, and of zeros at first, for which all these types are valid.
        unsafe {
            let lock =
                &raw mut (*LOCKS.load(Ordering::Relaxed).add(self.shape.partitions + 1)).lock;
            lwlock_acquire(lock);
            let memory = Memory {
                head: &mut *base.cast(),
                buckets: slice(base.add(buckets), self.slots.buckets),
                semaphores: slice(base.add(semaphores), self.slots.semaphores),
                holders: slice(base.add(holders), self.slots.holders),
                waiters: slice(base.add(waiters), self.slots.waiters),
            };
            let answer = f(&mut Slots::new(memory, &mut wake));
            LWLockRelease(lock);
            answer
        }
    }

    /// Drops the leases that have expired, of all keys.
    pub fn sweep_slots(&self) {
        let now = self.clock.read().steady;
        let mut from = Some(0);
        while let Some(start) = from {
            from = self.with_slots(|slots| slots.sweep(start, STEPS, now));
        }
    }

    /// How many slots the server can hold.
    pub fn max_slots(&self) -> usize {
        self.slots.holders
    }
}

/// # Safety
/// So many `T` are there, and nobody else uses them for as long as `'a`.
unsafe fn slice<'a, T>(base: *mut u8, length: usize) -> &'a mut [T] {
    // SAFETY: the caller says so.
    unsafe { std::slice::from_raw_parts_mut(base.cast(), length) }
}
