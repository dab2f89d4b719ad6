//! One cell: a cache line that holds what one key has used of one rule.

use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use crate::state::Words;
use crate::time::Micros;

/// The 128 bits by which a key is known.
pub type Key = [u64; 2];

const LOCKED: u32 = 1;
/// The cell stands for a key: other cells of the same key, for further rules and for logs, are not counted.
const PRIMARY: u32 = 2;
/// The cell holds further times of a log, and `open` the place of that log's first cell.
const FURTHER: u32 = 4;
/// The truth about the key is in tables: the cell holds a copy of it, and what open transactions have taken.
const DURABLE: u32 = 8;
/// Nothing can be taken now. Where the words mean nothing, the copy has not been made yet, and the first word is the ticket of those
/// who are making it; else the copy is frozen.
const UNLOADED: u32 = 16;
const KIND: u32 = 0xe0;
const KIND_SHIFT: u32 = 5;
/// Counts how often receipts of earlier takes became worthless.
const EPOCH_SHIFT: u32 = 8;
/// Of a log's further cells: to which log of its key they belong. Of a first cell: how many open transactions hold it.
const HIGH_SHIFT: u32 = 16;
const LOW: u32 = 0xffff;
/// What a cell remembers of a limiter's tag.
pub(super) const TAG: u32 = 0xff_ffff;

/// A cell, all zero when it was never used. Everything but `control` is written only under its lock; the key is also read
/// without it, to find the cell, and read again with it.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Cell {
    key: [AtomicU64; 2],
    /// The lock, whether it is primary, what the words mean, and the mark of a log's further cell.
    control: AtomicU32,
    /// Of which limiter, and above it, of which definition of it.
    tag: AtomicU32,
    /// From when on the key is as good as new, and the cell free for another.
    fresh: AtomicI64,
    /// Until when the key refuses something, and the cell must stay; of a log's further cell, the place of the first one.
    open: AtomicI64,
    words: [AtomicU64; 3],
}

const _: () = assert!(size_of::<Cell>() == 64);

impl Cell {
    /// The key as read without the lock.
    pub(super) fn key(&self) -> Key {
        [self.key[0].load(Ordering::Relaxed), self.key[1].load(Ordering::Relaxed)]
    }

    /// Whether it holds no key: a search ends here.
    pub(super) fn is_empty(&self) -> bool {
        self.key()[0] == 0
    }

    /// Whether it is worth taking the lock to see if its key has expired.
    pub(super) fn may_be_free(&self, now: Micros) -> bool {
        self.fresh.load(Ordering::Relaxed) <= now
    }

    /// Takes the lock. Most holders do a few dozen instructions; `wait` is called where one takes longer or lost its processor.
    #[inline]
    pub(super) fn lock(&self, wait: impl Fn(u32)) -> Locked<'_> {
        let mut spins = 0;
        loop {
            match self.try_lock() {
                Some(locked) => return locked,
                None => pause(&mut spins, &wait),
            }
        }
    }

    /// Takes the lock of the cell as this key's; gives up when it becomes another's.
    #[inline(always)]
    pub(super) fn lock_as(&self, key: Key, wait: impl Fn(u32)) -> Option<Locked<'_>> {
        let mut spins = 0;
        loop {
            match self.try_lock() {
                Some(locked) => return (self.key() == key).then_some(locked),
                None if self.key() != key => return None,
                None => pause(&mut spins, &wait),
            }
        }
    }

    #[inline(always)]
    fn try_lock(&self) -> Option<Locked<'_>> {
        let control = self.control.load(Ordering::Relaxed);
        if control & LOCKED != 0 {
            return None;
        }
        self.control
            .compare_exchange_weak(control, control | LOCKED, Ordering::Acquire, Ordering::Relaxed)
            .ok()
            .map(|control| Locked { cell: self, control })
    }
}

fn pause(spins: &mut u32, wait: impl Fn(u32)) {
    *spins = spins.wrapping_add(1);
    if spins.is_multiple_of(64) {
        wait(*spins / 64);
    } else {
        core::hint::spin_loop();
    }
}

/// A cell that is ours until this is dropped. Nothing that is done with it can fail or take long.
#[derive(Debug)]
pub struct Locked<'a> {
    cell: &'a Cell,
    control: u32,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.cell.control.store(self.control, Ordering::Release);
    }
}

impl Locked<'_> {
    pub(super) fn key(&self) -> Key {
        self.cell.key()
    }

    pub(super) fn tag(&self) -> u32 {
        self.cell.tag.load(Ordering::Relaxed) & TAG
    }

    /// Of which definition the last receipts are.
    pub(super) fn rule_mark(&self) -> u8 {
        (self.cell.tag.load(Ordering::Relaxed) >> TAG.count_ones()) as u8
    }

    pub(super) fn set_rule_mark(&self, mark: u8) {
        self.cell.tag.store(self.tag() | u32::from(mark) << TAG.count_ones(), Ordering::Relaxed);
    }

    pub(super) fn primary(&self) -> bool {
        self.control & PRIMARY != 0
    }

    pub(super) fn kind(&self) -> u8 {
        ((self.control & KIND) >> KIND_SHIFT) as u8
    }

    pub(super) fn set_kind(&mut self, kind: u8) {
        self.control = self.control & !KIND | u32::from(kind) << KIND_SHIFT;
    }

    /// To which log of its key a further cell belongs.
    pub(super) fn mark(&self) -> u16 {
        (self.control >> HIGH_SHIFT) as u16
    }

    pub(super) fn set_mark(&mut self, mark: u16) {
        self.control = self.control & LOW | u32::from(mark) << HIGH_SHIFT;
    }

    /// How many open transactions hold the cell: it must not be given away.
    pub(super) fn pins(&self) -> u16 {
        if self.control & FURTHER == 0 {
            (self.control >> HIGH_SHIFT) as u16
        } else {
            0
        }
    }

    pub(super) fn set_pins(&mut self, pins: u16) {
        self.set_mark(pins);
    }

    /// Changes when receipts of earlier takes are worth nothing any more.
    pub(super) fn epoch(&self) -> u8 {
        (self.control >> EPOCH_SHIFT) as u8
    }

    /// Makes all receipts so far worthless.
    pub(super) fn void(&mut self) {
        let epoch = self.epoch().wrapping_add(1);
        self.control = self.control & !(0xff << EPOCH_SHIFT) | u32::from(epoch) << EPOCH_SHIFT;
    }

    /// Whether the truth about the key is in tables.
    pub(super) fn is_durable(&self) -> bool {
        self.control & DURABLE != 0
    }

    /// Whether the cell holds a copy of what the tables say.
    pub(super) fn is_loaded(&self) -> bool {
        self.is_durable() && self.control & UNLOADED == 0
    }

    /// Whether the copy is there, but nothing can be taken.
    pub(super) fn is_frozen(&self) -> bool {
        self.is_durable() && !self.is_loaded() && self.kind() != 0
    }

    /// A copy that is there always means something: it was filled or wiped under a rule.
    pub(super) fn freeze(&mut self) {
        self.control |= UNLOADED;
    }

    pub(super) fn thaw(&mut self) {
        self.control &= !UNLOADED;
    }

    /// The ticket under which the cell is being loaded.
    pub(super) fn ticket(&self) -> Option<u64> {
        (self.is_durable() && !self.is_loaded() && !self.is_frozen()).then(|| self.word(0))
    }

    /// Says that the tables know what this cell does not yet.
    pub(super) fn set_unloaded(&mut self, ticket: u64) {
        self.clear();
        self.control |= DURABLE | UNLOADED;
        self.set_words([ticket, 0, 0]);
    }

    /// Says that what is written next is what the tables say.
    pub(super) fn set_loaded(&mut self) {
        self.control = self.control & !UNLOADED | DURABLE;
        self.set_words([0; 3]);
    }

    /// From when on the place may be given to another key.
    pub(super) fn free_from(&self) -> Micros {
        if self.pins() > 0 {
            Micros::MAX
        } else {
            self.fresh()
        }
    }

    /// From when on the key may be pushed out.
    pub(super) fn evictable_from(&self) -> Micros {
        if self.pins() > 0 {
            Micros::MAX
        } else {
            self.open()
        }
    }

    pub(super) fn fresh(&self) -> Micros {
        self.cell.fresh.load(Ordering::Relaxed)
    }

    pub(super) fn set_fresh(&self, time: Micros) {
        self.cell.fresh.store(time, Ordering::Relaxed);
    }

    pub(super) fn open(&self) -> Micros {
        self.cell.open.load(Ordering::Relaxed)
    }

    pub(super) fn set_open(&self, time: Micros) {
        self.cell.open.store(time, Ordering::Relaxed);
    }

    /// The place of the first cell of the log of which this is a further one.
    pub(super) fn owner(&self) -> Option<usize> {
        (self.control & FURTHER != 0).then(|| usize::try_from(self.open()).unwrap_or(usize::MAX))
    }

    pub(super) fn set_owner(&mut self, place: usize) {
        self.control |= FURTHER;
        self.set_open(i64::try_from(place).unwrap_or(i64::MAX));
    }

    /// Which of these cells it is.
    pub(super) fn place_in(&self, cells: &[Cell]) -> usize {
        (core::ptr::from_ref(self.cell).addr() - cells.as_ptr().addr()) / size_of::<Cell>()
    }

    pub(super) fn words(&self) -> Words {
        let word = |n: usize| self.cell.words[n].load(Ordering::Relaxed);
        [word(0), word(1), word(2)]
    }

    pub(super) fn set_words(&self, words: Words) {
        for (place, word) in self.cell.words.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
    }

    pub(super) fn word(&self, n: usize) -> u64 {
        self.cell.words.get(n).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    pub(super) fn set_word(&self, n: usize, value: u64) {
        if let Some(word) = self.cell.words.get(n) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Forgets what the cell holds; the place is free for another key, unless transactions hold it.
    pub(super) fn clear(&mut self) {
        if self.pins() > 0 {
            self.void();
            self.control &= !KIND;
        } else {
            self.control &= PRIMARY;
        }
        self.set_words([0; 3]);
        self.set_fresh(Micros::MIN);
        self.set_open(Micros::MIN);
    }

    /// Makes the cell as if it had never been used: searches end here again.
    pub(super) fn vacate(&mut self) {
        self.assign([0; 2], 0, false);
    }

    /// Gives the cell to another key.
    pub(super) fn assign(&mut self, key: Key, tag: u32, primary: bool) {
        self.clear();
        self.control = if primary { PRIMARY } else { 0 };
        self.cell.key[0].store(key[0], Ordering::Relaxed);
        self.cell.key[1].store(key[1], Ordering::Relaxed);
        self.cell.tag.store(tag & TAG, Ordering::Relaxed);
    }
}
