//! The shared memory: a header, the cells, and the locks under which cells are assigned.
//!
//! Lock rules. Decisions lock cells of the table, with locks that spin; under them runs `ratelimit-core`, which may read the clock and
//! ask a calendar of `zone.rs`. A partition lock (an LWLock) is taken to give a new key a cell, never while a cell is locked. So
//! nothing under a lock can raise an error, allocate, or be interrupted. If a process dies in between, the postmaster makes all
//! shared memory anew.

mod dynamic;
mod slots;
mod stats;

pub use slots::{process, process_of, STEPS};
pub use stats::{may_be_tracked, Keys, LIMITERS, SKETCHES};

use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use pgrx::pg_sys;
use ratelimit_core::ban_filter::BanFilter;
use ratelimit_core::lists::Lists;
use ratelimit_core::table::{Cell, Host, Shape, Table};
use ratelimit_core::{Micros, Now, Secret};
use ratelimit_saved::Head;

use crate::clock::Clock;
use crate::config;
use crate::durable::Turns;
use crate::error::Result;
use crate::saved::{self, Saved};
use crate::worker::{Board, News};

/// What all processes know. The cells follow it.
#[repr(C, align(64))]
pub struct Header {
    /// Drawn when shared memory is made for the first time, and saved with it.
    pub secret: Secret,
    pub clock: Clock,
    shape: Shape,
    slots: ratelimit_core::slots::Shape,
    /// For how many keys it was made.
    pub max_keys: usize,
    /// Counts committed changes to definitions.
    pub definitions: AtomicU64,
    tickets: AtomicU64,
    /// Which ledgers durable limiters write.
    pub turns: Turns,
    evictions: Apart<AtomicU64>,
    pub board: Board,
    /// Which keys are treated otherwise.
    pub lists: Lists,
    /// Which keys are banned.
    pub ban_filter: BanFilter,
}

/// On a cache line of its own: what is written often must not slow down what is read often.
#[repr(align(64))]
struct Apart<T>(T);

/// What the table needs of the server: the locks of the partitions, as PostgreSQL lays them out, and the clock.
struct Server {
    locks: *mut pg_sys::LWLockPadded,
    clock: &'static Clock,
}

/// Where the header is in this process, and the locks: set in the postmaster and by fork in all its children, or in each process that
/// joins.
static HEADER: AtomicPtr<Header> = AtomicPtr::new(std::ptr::null_mut());
static LOCKS: AtomicPtr<pg_sys::LWLockPadded> = AtomicPtr::new(std::ptr::null_mut());
/// What a process has for itself alone, where nothing is shared.
static PRIVATE: AtomicPtr<Header> = AtomicPtr::new(std::ptr::null_mut());
/// Set by the postmaster.
static SIZE: AtomicUsize = AtomicUsize::new(0);

const TRANCHE: &std::ffi::CStr = c"ratelimit";

/// The shared memory, if this process has it: not where the library was not preloaded, and nobody asked for it.
#[inline(always)]
pub fn header() -> Option<&'static Header> {
    // SAFETY: set once, to memory that stays mapped as long as this process lives, and fully written by then.
    unsafe { HEADER.load(Ordering::Relaxed).as_ref() }
}

/// Whether others see what is counted here.
#[inline(always)]
pub fn is_shared(header: &Header) -> bool {
    std::ptr::eq(header, HEADER.load(Ordering::Relaxed))
}

/// Memory of this process alone, for durable limits where nothing is shared. It becomes resident as far as it is used.
#[cold]
pub fn private() -> &'static Header {
    if PRIVATE.load(Ordering::Relaxed).is_null() {
        let shape = Shape::new(config::max_keys(), 1);
        let size = size_of::<Header>() + shape.cells() * size_of::<Cell>();
        let layout = std::alloc::Layout::from_size_align(size, align_of::<Header>());
        // SAFETY: the size is not zero, and the memory is written before it is shown to anybody; it is never freed.
        unsafe {
            let memory =
                layout.map_or(std::ptr::null_mut(), |layout| std::alloc::alloc_zeroed(layout));
            if memory.is_null() {
                pgrx::error!("out of memory");
            }
            initialise(memory.cast(), shape, None);
            PRIVATE.store(memory.cast(), Ordering::Relaxed);
        }
    }
    // SAFETY: set above, or by an earlier call.
    unsafe { &*PRIVATE.load(Ordering::Relaxed) }
}

/// The shared memory, which a session may have to make or to join; `None` where it can do neither.
#[inline(always)]
pub fn get() -> Result<Option<&'static Header>> {
    match header() {
        Some(header) => Ok(Some(header)),
        None => dynamic::attach(),
    }
}

/// Whether the postmaster made it.
pub fn is_preloaded() -> bool {
    SIZE.load(Ordering::Relaxed) > 0
}

/// Whether there is shared memory for who asks.
pub fn is_possible() -> bool {
    header().is_some() || crate::compat::HAS_SEGMENTS
}

impl Header {
    /// A number that nobody else gets.
    pub fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::Relaxed)
    }

    /// The table, with `ratelimit.on_full` as it is set now.
    #[inline(always)]
    pub fn table(&'static self) -> Table<'static, impl Host> {
        let shared = HEADER.load(Ordering::Relaxed);
        let header = if is_shared(self) { shared } else { PRIVATE.load(Ordering::Relaxed) };
        // SAFETY: whoever made the header made room for so many cells right after it. They consist of atomics, for which zeroed
        // memory is valid, and are only ever reached through shared references.
        let cells =
            unsafe { std::slice::from_raw_parts(header.add(1).cast::<Cell>(), self.shape.cells()) };
        let server = Server { locks: LOCKS.load(Ordering::Relaxed), clock: &self.clock };
        let mut table = Table::new(cells, self.shape, &self.evictions.0, server);
        table.set_on_full(config::on_full());
        table
    }

    /// Runs `f` on the news of house-keeping, under a lock: `f` must not raise, allocate or wait.
    pub fn news<R>(&self, f: impl FnOnce(&mut News) -> R) -> R {
        // SAFETY: the lock after those of the partitions, which this process does not hold; nobody reaches the news without it.
        unsafe {
            let lock = &raw mut (*LOCKS.load(Ordering::Relaxed).add(self.shape.partitions)).lock;
            lwlock_acquire(lock);
            let answer = f(&mut *self.board.news());
            LWLockRelease(lock);
            answer
        }
    }

    /// Counts committed changes to definitions.
    pub fn definition_changes(&self) -> u64 {
        self.definitions.load(Ordering::Acquire)
    }

    /// How many keys were pushed out to make room.
    pub fn evictions(&self) -> u64 {
        self.evictions.0.load(Ordering::Relaxed)
    }
}

extern "C-unwind" {
    // Unguarded, for speed: neither raises an error but for more than 200 locks held at once.
    fn LWLockAcquire(lock: *mut pg_sys::LWLock, mode: pg_sys::LWLockMode::Type) -> bool;
    fn LWLockRelease(lock: *mut pg_sys::LWLock);
}

/// # Safety
/// A lock of our tranche, which this process does not hold.
unsafe fn lwlock_acquire(lock: *mut pg_sys::LWLock) {
    // SAFETY: the caller says so.
    unsafe { LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE) };
}

impl Server {
    fn get(&self, partition: usize) -> *mut pg_sys::LWLock {
        // SAFETY: the tranche has a lock for each partition, and the table asks for no others.
        unsafe { &raw mut (*self.locks.add(partition)).lock }
    }
}

impl Host for Server {
    fn lock(&self, partition: usize) {
        if self.locks.is_null() {
            return;
        }
        // SAFETY: a lock of our tranche, which this process does not hold.
        unsafe { lwlock_acquire(self.get(partition)) };
    }

    fn unlock(&self, partition: usize) {
        if self.locks.is_null() {
            return;
        }
        // SAFETY: taken by `lock` before.
        unsafe { LWLockRelease(self.get(partition)) };
    }

    fn yield_now(&self, times: u32) {
        // Who holds the lock may be stopped: then burning the processor does not help.
        if times < 64 {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn now(&self) -> Now {
        self.clock.read()
    }

    fn last_reset(&self) -> Micros {
        self.clock.last_reset()
    }

    fn interrupts(&self) {
        pgrx::check_for_interrupts!();
    }
}

/// Asks the postmaster for memory, if it is loading us.
pub fn install() {
    if !config::preloading() {
        return;
    }
    // SAFETY: the hooks are plain variables that the postmaster reads after it has loaded all libraries.
    unsafe {
        PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(request);
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// One for each partition, one for the news, one for the slots, and two for statistics.
fn locks(shape: Shape) -> usize {
    shape.partitions + 4
}

/// The header and the locks are paid for by a few cells less: 128 bytes a key are meant to be all. A small table pays a sixteenth.
fn shape() -> Shape {
    let shape = Shape::new(config::max_keys(), config::partitions());
    let others = size_of::<Header>() + locks(shape) * size_of::<pg_sys::LWLockPadded>();
    let spent = others.div_ceil(size_of::<Cell>()).div_ceil(shape.partitions);
    let spent = spent.min(shape.partition_size / 16);
    Shape { partition_size: shape.partition_size - spent, ..shape }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn request() {
    // SAFETY: called by the postmaster, once, when extensions may ask; a previous hook is to be called first.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            pg_sys::ffi::pg_guard_ffi_boundary(|| previous());
        }
        let shape = shape();
        // The settings are bounded so that this cannot overflow.
        let size = size_of::<Header>() + shape.cells() * size_of::<Cell>();
        SIZE.store(size, Ordering::Relaxed);
        pg_sys::RequestAddinShmemSpace(size);
        pg_sys::RequestAddinShmemSpace(slots::size(&slots::shape()));
        pg_sys::RequestAddinShmemSpace(size_of::<stats::Statistics>());
        pg_sys::RequestNamedLWLockTranche(TRANCHE.as_ptr(), locks(shape) as i32);
    }
}

/// Runs when the server starts, and again in the same postmaster after each crash of a process.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn startup() {
    // SAFETY: called by the postmaster before it has children; a previous hook is to be called first.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            pg_sys::ffi::pg_guard_ffi_boundary(|| previous());
        }
        let lock = crate::compat::addin_shmem_init_lock();
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let mut found = false;
        let size = SIZE.load(Ordering::Relaxed);
        let header = pg_sys::ShmemInitStruct(TRANCHE.as_ptr(), size, &mut found).cast::<Header>();
        LOCKS.store(pg_sys::GetNamedLWLockTranche(TRANCHE.as_ptr()), Ordering::Relaxed);
        HEADER.store(header, Ordering::Relaxed);
        let slots_size = slots::size(&slots::shape());
        let slots = pg_sys::ShmemInitStruct(c"ratelimit slots".as_ptr(), slots_size, &mut found);
        slots::SLOTS.store(slots.cast(), Ordering::Relaxed);
        let stats_size = size_of::<stats::Statistics>();
        let name = c"ratelimit statistics".as_ptr();
        let stats = pg_sys::ShmemInitStruct(name, stats_size, &mut found);
        stats::STATISTICS.store(stats.cast(), Ordering::Relaxed);
        if !found {
            stats::clear();
            slots::clear();
            begin(header);
        }
        pg_sys::LWLockRelease(lock);
    }
}

/// Fills new shared memory: with what was saved, or with nothing.
///
/// # Safety
/// As of [`initialise`]; it is the memory of this process, too.
unsafe fn begin(header: *mut Header) {
    // SAFETY: the caller says so. References to the header are made only when it is whole, and are gone when it is made anew.
    unsafe {
        let saved = Saved::open();
        initialise(header, shape(), saved.as_ref().map(Saved::head));
        if let Some(saved) = saved {
            if !saved.load(&*header) {
                header.add(1).cast::<Cell>().write_bytes(0, (*header).shape.cells());
                slots::clear();
                stats::clear();
                initialise(header, shape(), None);
            }
        }
        saved::at_shutdown();
    }
}

/// # Safety
/// `header` points to new memory, of a header and so many cells, that nobody else uses yet.
unsafe fn initialise(header: *mut Header, shape: Shape, saved: Option<&Head>) {
    // SAFETY: the memory is ours alone. The cells need no writing: new shared memory comes from the kernel as zeros, and touching
    // it all would make it resident. ShmemInitStruct aligns to a cache line.
    unsafe {
        header.write_bytes(0, 1);
        (*header).shape = shape;
        (*header).slots = slots::shape();
        (*header).max_keys = config::max_keys();
        (*header).clock.start(saved.map(|saved| saved.clock));
        let secret = &raw mut (*header).secret;
        if let Some(saved) = saved {
            secret.write(saved.secret);
        } else if !pg_sys::pg_strong_random(secret.cast(), size_of::<Secret>()) {
            pgrx::error!("could not generate a random secret");
        }
    }
}
