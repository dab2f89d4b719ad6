//! The states of many keys, in one slice of cells that many processes share.
//!
//! * A cell is found by looking from its key's home onwards, at most [`WINDOW`] cells of its partition, up to the first empty one. A cell
//!   that was used becomes empty again only where no search passes it: see `sweep.rs`.
//! * A decision locks the cells it needs, in the order of their keys, and nothing else. The locks spin: under them run only
//!   the functions of this crate, which cannot fail, wait or call out.
//! * A cell is given to a key under the lock of its partition, which the host brings, so a key never gets two. No cell is locked by
//!   who waits for a partition.
//! * A cell whose key is as good as new is free. When none is, [`Full`] says what happens, but a key that refuses something is never
//!   pushed out: that would give it a fresh start.

mod ban;
mod cell;
mod durable;
mod key_state;
mod record;
mod sweep;
mod transaction;
mod undo;

use core::sync::atomic::{AtomicU64, Ordering};

pub use ban::{Ban, MAX_BAN_TEXT};
pub use cell::{Cell, Key, Locked};
pub use durable::Claim;
pub use key_state::KeyState;
pub use record::Record;
pub use transaction::{Request, Taken};

use crate::time::{Micros, Now, SECOND};

/// How many cells are looked at before a key is said not to be there. At the load that two cells a key allow, a key lands
/// further than this from its home less than once in 10^12.
pub const WINDOW: usize = 128;

/// How long a cell that was just assigned is kept before its first use, and one that expired before it is cleared.
const GRACE: Micros = SECOND;

/// How soon to look again for a cell that a transaction holds.
const HOLD: Micros = SECOND;

/// What the host brings: the partition locks, which may sleep, and a way to let others run.
pub trait Host {
    /// Takes the lock under which cells of this partition are assigned.
    fn lock(&self, partition: usize);
    /// Releases it.
    fn unlock(&self, partition: usize);
    /// Gives the processor away for a moment; the longer, the more often it was given away in vain.
    fn yield_now(&self, times: u32);
    /// A later moment than any that was read before. Called while cells are locked.
    fn now(&self) -> Now;
    /// As of when the latest reset or refund of a durable key was written down.
    fn last_reset(&self) -> Micros;
    /// Called in long work, while nothing is locked. May end it by not coming back.
    fn interrupts(&self);
}

/// What to do with a new key when nothing is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// Push out the key that would be as good as new soonest, if it refuses nothing.
    #[default]
    Evict,
    /// Refuse the new key.
    Deny,
    /// Let the new key pass, uncounted.
    Allow,
}

/// A cell that is needed.
struct Wanted {
    key: Key,
    /// The first cell of the same key and rule: it must not be pushed out for this one.
    owner: Key,
    tag: u32,
    primary: bool,
}

/// What may become the cell that is needed.
enum Choice<'t> {
    /// It is there.
    Present,
    /// Nothing is kept in this one.
    Free(&'t Cell),
    /// This one's key refuses nothing.
    Victim(&'t Cell),
    /// There are only keys that refuse something, and further cells of logs.
    Logs,
}

/// Nothing is free for a new key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// When the first of the cells in its way will be.
    pub until: Micros,
}

/// Why a table cannot decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unable {
    /// Nothing is free for a new key.
    Full(Full),
    /// A durable key has to be loaded first.
    Unloaded,
}

impl From<Full> for Unable {
    fn from(full: Full) -> Self {
        Unable::Full(full)
    }
}

/// How many cells a table has, and how they are divided among the partition locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How many partitions there are.
    pub partitions: usize,
    /// How many cells each has.
    pub partition_size: usize,
}

impl Shape {
    /// For so many keys: two cells for each, in at most so many partitions, none of them small.
    pub fn new(keys: usize, partitions: usize) -> Self {
        let cells = keys.saturating_mul(2).max(2);
        let partitions = partitions.clamp(1, (cells / (4 * WINDOW)).max(1));
        Shape { partitions, partition_size: cells / partitions }
    }

    /// All cells.
    pub fn cells(self) -> usize {
        self.partitions * self.partition_size
    }
}

/// The cells, and the host's part.
#[derive(Debug)]
pub struct Table<'t, H> {
    cells: &'t [Cell],
    shape: Shape,
    evictions: &'t AtomicU64,
    on_full: OnFull,
    host: H,
}

impl<'t, H: Host> Table<'t, H> {
    /// A table over `cells`, which are all zero or were used by tables of the same shape.
    pub fn new(cells: &'t [Cell], shape: Shape, evictions: &'t AtomicU64, host: H) -> Self {
        Table { cells, shape, evictions, on_full: OnFull::Evict, host }
    }

    /// Says what happens to a new key when nothing is free.
    pub fn set_on_full(&mut self, on_full: OnFull) {
        self.on_full = on_full;
    }

    fn partition(&self, key: Key) -> usize {
        scale(key[1], self.shape.partitions)
    }

    /// The cells of the key's partition, divided at the key's home.
    #[inline(always)]
    fn around_home(&self, key: Key) -> (&'t [Cell], &'t [Cell]) {
        let size = self.shape.partition_size;
        let start = self.partition(key) * size;
        let cells = self.cells.get(start..start + size).unwrap_or(&[]);
        cells.split_at_checked(scale(key[0], size)).unwrap_or((cells, &[]))
    }

    /// Where the search for a key begins.
    #[inline(always)]
    pub fn home(&self, key: Key) -> Option<&'t Cell> {
        self.around_home(key).1.first()
    }

    /// The cells in which a key may be, from its home on.
    fn places(&self, key: Key) -> impl Iterator<Item = &'t Cell> {
        let (before, from) = self.around_home(key);
        from.iter().chain(before).take(WINDOW)
    }

    /// The key's cell, locked, if it has one.
    #[inline(always)]
    fn find(&self, key: Key) -> Option<Locked<'t>> {
        // Two keys of three are at home.
        let home = self.home(key).filter(|cell| cell.key() == key);
        let cell = match home {
            Some(cell) => cell,
            None => self.search(key)?,
        };
        // It may be given away before we have the lock.
        cell.lock_as(key, |times| self.host.yield_now(times))
    }

    fn search(&self, key: Key) -> Option<&'t Cell> {
        for cell in self.places(key) {
            let found = cell.key();
            if found == key {
                return Some(cell);
            }
            if found[0] == 0 {
                return None;
            }
        }
        None
    }

    /// Sees to it that a cell is there. Must not be called with a cell locked.
    fn assign(&self, wanted: &Wanted, now: Micros) -> Result<(), Full> {
        self.host.interrupts();
        let partition = self.partition(wanted.key);
        self.host.lock(partition);
        let assigned = self.assign_locked(wanted, now);
        self.host.unlock(partition);
        assigned
    }

    fn assign_locked(&self, wanted: &Wanted, now: Micros) -> Result<(), Full> {
        loop {
            let choice = match self.choose(wanted, now) {
                Choice::Present => return Ok(()),
                Choice::Free(cell) => Some((cell, false)),
                Choice::Victim(cell) if self.on_full == OnFull::Evict => Some((cell, true)),
                Choice::Logs if self.on_full == OnFull::Evict && self.push_out_log(wanted, now) => {
                    None
                }
                Choice::Victim(_) | Choice::Logs => return Err(self.full(wanted, now)),
            };
            let Some((cell, evict)) = choice else { continue };
            let mut locked = cell.lock(|times| self.host.yield_now(times));
            // Its key may have been busy since we looked.
            let until = if evict { locked.evictable_from() } else { locked.free_from() };
            if until > now || evict && locked.owner().is_some() {
                continue;
            }
            if evict {
                self.push_out(&mut locked);
            }
            locked.assign(wanted.key, wanted.tag, wanted.primary);
            locked.set_fresh(now.saturating_add(GRACE));
            if wanted.key == wanted.owner {
                locked.set_open(now.saturating_add(GRACE));
            } else {
                locked.set_owner(usize::MAX);
            }
            return Ok(());
        }
    }

    /// Which cell to give to a key that has none.
    fn choose(&self, wanted: &Wanted, now: Micros) -> Choice<'t> {
        let mut free = None;
        let mut victim: Option<(Micros, &Cell)> = None;
        for cell in self.places(wanted.key) {
            let found = cell.key();
            if found == wanted.key {
                return Choice::Present;
            }
            if found[0] == 0 {
                free = free.or(Some(cell));
                break;
            }
            if free.is_some() {
                continue;
            }
            let locked = cell.lock(|times| self.host.yield_now(times));
            let fresh = locked.free_from();
            if fresh <= now {
                free = Some(cell);
            } else if locked.owner().is_none()
                && locked.evictable_from() <= now
                && found != wanted.owner
                && victim.is_none_or(|(soonest, _)| fresh < soonest)
            {
                victim = Some((fresh, cell));
            }
        }
        match (free, victim) {
            (Some(cell), _) => Choice::Free(cell),
            (None, Some((_, cell))) => Choice::Victim(cell),
            (None, None) => Choice::Logs,
        }
    }

    /// Forgets a key, with the further cells of its log. Those are locked one at a time, and who holds one waits for nothing.
    fn push_out(&self, first: &mut Locked<'_>) {
        self.evictions.fetch_add(1, Ordering::Relaxed);
        self.forget(first);
    }

    fn forget(&self, first: &mut Locked<'_>) {
        for key in key_state::further_keys(first) {
            if let Some(mut further) = self.find(key) {
                further.clear();
            }
        }
        first.clear();
    }

    /// Frees one of the places of a key by pushing out a log that has further cells there; says whether it did.
    fn push_out_log(&self, wanted: &Wanted, now: Micros) -> bool {
        for cell in self.places(wanted.key) {
            let (key, owner) = {
                let locked = cell.lock(|times| self.host.yield_now(times));
                (locked.key(), locked.owner().and_then(|place| self.cells.get(place)))
            };
            let Some(owner) = owner else { continue };
            let mut first = owner.lock(|times| self.host.yield_now(times));
            if first.key() == wanted.owner {
                continue;
            }
            if !key_state::further_keys(&first).any(|further| further == key) {
                // Its log is gone. The lock of what took its place keeps it so.
                return self.find(key).map(|mut cell| cell.clear()).is_some();
            }
            if first.evictable_from() <= now {
                self.push_out(&mut first);
                return true;
            }
        }
        false
    }

    /// When one of the places of a key will be free. How long transactions hold theirs nobody knows: [`HOLD`] at least.
    fn full(&self, wanted: &Wanted, now: Micros) -> Full {
        let free_at = |cell: &Cell| {
            let locked = cell.lock(|times| self.host.yield_now(times));
            let free = match self.on_full {
                OnFull::Evict if locked.owner().is_none() => locked.fresh().min(locked.open()),
                _ => locked.fresh(),
            };
            if locked.pins() > 0 {
                free.max(now.saturating_add(HOLD))
            } else {
                free
            }
        };
        Full { until: self.places(wanted.key).map(free_at).min().unwrap_or(Micros::MAX) }
    }

    /// Forgets one key of a limiter; says whether there was anything to forget.
    pub fn reset(&self, key: Key, rules: impl Iterator<Item = u32>, now: Micros) -> bool {
        let mut existed = false;
        for position in rules {
            if let Some(mut cell) = self.find(rule_key(key, position)) {
                existed |= cell.fresh() > now && cell.kind() != 0;
                self.forget(&mut cell);
            }
        }
        existed
    }

    /// Forgets all keys of a limiter; says how many there were.
    pub fn reset_all(&self, tag: u32, now: Micros) -> u64 {
        let mut count = 0;
        for cell in self.used() {
            let mut locked = cell.lock(|times| self.host.yield_now(times));
            if locked.tag() == tag & cell::TAG && !locked.is_durable() {
                count += u64::from(locked.primary() && locked.kind() != 0 && locked.fresh() > now);
                locked.clear();
            }
        }
        count
    }

    /// How many keys have used something, and how many are banned.
    pub fn keys(&self, now: Micros) -> u64 {
        let live = |cell: &&Cell| {
            let locked = cell.lock(|times| self.host.yield_now(times));
            locked.primary() && locked.kind() != 0 && locked.fresh() > now
        };
        self.used().filter(live).count() as u64
    }

    /// All cells that hold a key.
    fn used(&self) -> impl Iterator<Item = &'t Cell> + '_ {
        let parts = self.cells.chunks(4_096).inspect(|_| self.host.interrupts());
        parts.flatten().filter(|cell| cell.key()[0] != 0)
    }
}

/// `hash` as a number below `size`, evenly: Lemire, "Fast random integer generation in an interval", 2019.
#[inline(always)]
pub(crate) fn scale(hash: u64, size: usize) -> usize {
    ((u128::from(hash) * size as u128) >> 64) as usize
}

/// Rules have positions up to 100. What else is known of a key has others: whether it is banned, ...
const BAN: u32 = 254;
/// ... and how often it was refused lately.
pub const DENIALS: u32 = 255;

/// The key of a further rule of the same key: its cell lies near the first.
pub fn rule_key(key: Key, position: u32) -> Key {
    [key[0], key[1] ^ u64::from(position)]
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_hold;
