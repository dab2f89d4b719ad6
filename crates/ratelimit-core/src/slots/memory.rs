//! Where slots live.

use alloc::boxed::Box;
use alloc::vec;

use super::list::Pool;
use super::{Bucket, Holder, Semaphore, Slots, Waiter};

/// Which places are in use.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Head {
    pub(super) holders: Pool,
    pub(super) semaphores: Pool,
    /// The leases whose token does not say where they are.
    pub(super) displaced: u32,
}

/// How long the slices are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How many [`Bucket`]s there are.
    pub buckets: usize,
    /// How many [`Semaphore`]s.
    pub semaphores: usize,
    /// How many [`Holder`]s.
    pub holders: usize,
    /// How many [`Waiter`]s.
    pub waiters: usize,
}

impl Shape {
    /// For so many slots in all, and processes with numbers below `processes`: each may be the only one of its key.
    pub fn new(slots: usize, processes: usize) -> Self {
        let semaphores = slots.saturating_add(processes);
        Shape { buckets: semaphores, semaphores, holders: slots, waiters: processes }
    }
}

/// The parts, which hold integers only. All zero is the beginning; they may be mapped at a different address in each process.
#[derive(Debug)]
pub struct Memory<'a> {
    /// Which places are in use.
    pub head: &'a mut Head,
    /// As many as [`Shape`] says, like the others.
    pub buckets: &'a mut [Bucket],
    /// The keys in use.
    pub semaphores: &'a mut [Semaphore],
    /// The slots.
    pub holders: &'a mut [Holder],
    /// The processes.
    pub waiters: &'a mut [Waiter],
}

/// The same in ordinary memory: for examples and tests.
#[derive(Debug)]
pub struct OwnedMemory {
    pub(super) head: Head,
    buckets: Box<[Bucket]>,
    pub(super) semaphores: Box<[Semaphore]>,
    holders: Box<[Holder]>,
    waiters: Box<[Waiter]>,
}

impl OwnedMemory {
    /// With no slot taken.
    pub fn new(shape: Shape) -> Self {
        OwnedMemory {
            head: Head::default(),
            buckets: vec![Bucket::default(); shape.buckets].into(),
            semaphores: vec![Semaphore::default(); shape.semaphores].into(),
            holders: vec![Holder::default(); shape.holders].into(),
            waiters: vec![Waiter::default(); shape.waiters].into(),
        }
    }

    /// See [`Slots::new`].
    pub fn slots<'a>(&'a mut self, wake: &'a mut dyn FnMut(u32)) -> Slots<'a> {
        let OwnedMemory { head, buckets, semaphores, holders, waiters } = self;
        Slots::new(Memory { head, buckets, semaphores, holders, waiters }, wake)
    }
}
