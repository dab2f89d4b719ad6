//! What the open transaction has taken: given back where it rolls back, written down where it commits.
//!
//! A key's cell is pinned from the first take on until the transaction ends. Rust's destructors do not run when a session is
//! terminated, so all this hangs on PostgreSQL's transaction callbacks, which do.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys::{self, SubXactEvent, XactEvent};
use ratelimit_core::table::{Key, Request};
use ratelimit_core::{Receipt, Receipts, Rule};
use rustc_hash::FxBuildHasher;

use crate::backend::BackendCell;
use crate::catalog::{DefinedRule, Id};
use crate::durable;
use crate::error::{Error, Report};
use crate::shmem::{self, Header};

/// What one subtransaction has done to one key under one rule.
pub struct Held {
    pub key: Key,
    pub rule: Rc<DefinedRule>,
    /// The key as the tables know it.
    pub digest: Id,
    pub taken: Receipts,
    /// To be given back when the transaction commits: before, others could take it, and a rollback could not get it back.
    pub refund: u64,
    /// Whether the key was told to forget; it will, when the transaction commits.
    pub reset: bool,
    /// Whether others wait for that already.
    frozen: bool,
    /// What was taken before that: of no account where the transaction commits.
    forgotten: Receipts,
    subtransaction: u32,
    /// What an outer subtransaction has done to the same key.
    below: Option<usize>,
    pinned: bool,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.forgotten.is_empty() && self.refund == 0 && !self.reset
    }

    /// The key is going to forget all that was done so far.
    fn forget(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        self.forgotten.append(&self.rule.rule, taken);
        self.refund = 0;
        self.reset = true;
    }
}

/// All that the open transaction holds: the inner a subtransaction, the later in the list.
struct Open {
    held: Vec<Held>,
    places: HashMap<Key, usize, FxBuildHasher>,
    header: Option<&'static Header>,
    /// Loops take of one key again and again.
    last: usize,
}

static OPEN: BackendCell<Open> = BackendCell::new(Open {
    held: Vec::new(),
    places: HashMap::with_hasher(FxBuildHasher),
    header: None,
    last: 0,
});

/// Whether there is anything to do when the transaction ends.
static BUSY: AtomicBool = AtomicBool::new(false);

extern "C-unwind" {
    // Unguarded, for speed: reads a variable.
    fn GetCurrentSubTransactionId() -> u32;
}

impl Open {
    fn place(&self, key: Key) -> Option<usize> {
        match self.held.get(self.last) {
            Some(held) if held.key == key => Some(self.last),
            _ => self.places.get(&key).copied(),
        }
    }

    #[inline(always)]
    fn pins(&self, key: Key) -> bool {
        let mut place = self.place(key);
        while let Some(held) = place.and_then(|place| self.held.get(place)) {
            if held.pinned {
                return true;
            }
            place = held.below;
        }
        false
    }

    /// What the current subtransaction has done to the key.
    fn current(&mut self, key: Key) -> Option<&mut Held> {
        // SAFETY: no precondition.
        let subtransaction = unsafe { GetCurrentSubTransactionId() };
        let place = self.place(key)?;
        self.held.get_mut(place).filter(|held| held.subtransaction == subtransaction)
    }

    /// The same; a new entry where there is none.
    #[inline(always)]
    fn entry(
        &mut self,
        header: &'static Header,
        request: &Request<'_>,
        new: impl FnOnce() -> (Rc<DefinedRule>, Id),
    ) -> &mut Held {
        // SAFETY: no precondition.
        let subtransaction = unsafe { GetCurrentSubTransactionId() };
        let Request { key, pin: pinned, .. } = *request;
        let below = self.place(key);
        let place = match below.filter(|place| self.held[*place].subtransaction == subtransaction) {
            Some(place) => {
                // What was taken under another definition is only written down: its receipts are void.
                if self.held[place].rule.mark != request.mark {
                    self.held[place].rule = new().0;
                }
                place
            }
            None => {
                BUSY.store(true, Ordering::Relaxed);
                self.header = Some(header);
                let (rule, digest) = new();
                self.held.push(Held {
                    key,
                    rule,
                    digest,
                    taken: Receipts::default(),
                    refund: 0,
                    reset: false,
                    frozen: false,
                    forgotten: Receipts::default(),
                    subtransaction,
                    below,
                    pinned,
                });
                self.places.insert(key, self.held.len() - 1);
                self.held.len() - 1
            }
        };
        self.last = place;
        let held = &mut self.held[place];
        held.pinned |= pinned;
        held
    }

    /// What is to forget its key when the transaction commits.
    fn resets(&mut self) -> impl Iterator<Item = &mut Held> {
        self.held.iter_mut().filter(|held| held.reset)
    }

    /// Makes what a subtransaction did its parent's.
    fn release(&mut self, child: u32, parent: u32) {
        for held in self.split_off(child) {
            match held
                .below
                .and_then(|below| self.held.get_mut(below))
                .filter(|below| below.subtransaction == parent)
            {
                Some(below) => {
                    if held.reset {
                        below.forget();
                    }
                    let rule = &below.rule.rule;
                    below.forgotten.append(rule, held.forgotten);
                    below.taken.append(rule, held.taken);
                    below.refund = below.refund.saturating_add(held.refund);
                    below.pinned |= held.pinned;
                    self.places.insert(held.key, held.below.unwrap_or_default());
                }
                None => {
                    self.places.insert(held.key, self.held.len());
                    self.held.push(Held { subtransaction: parent, ..held });
                }
            }
        }
    }

    /// Takes what a subtransaction did from the list.
    fn split_off(&mut self, subtransaction: u32) -> Vec<Held> {
        let outer = |held: &Held| held.subtransaction != subtransaction;
        let first = self.held.iter().rposition(outer).map_or(0, |n| n + 1);
        let inner = self.held.split_off(first);
        for held in &inner {
            match held.below {
                Some(below) => self.places.insert(held.key, below),
                None => self.places.remove(&held.key),
            };
        }
        self.last = 0;
        inner
    }
}

/// Whether the transaction has pinned the key's cell.
#[inline(always)]
pub fn pins(key: Key) -> bool {
    BUSY.load(Ordering::Relaxed) && OPEN.with(|open| open.pins(key))
}

/// Remembers what was taken. The key's cell was pinned if the request said so.
#[inline]
pub fn record(
    header: &'static Header,
    request: &Request<'_>,
    receipt: Receipt,
    new: impl FnOnce() -> (Rc<DefinedRule>, Id),
) {
    OPEN.with(|open| {
        let held = open.entry(header, request, new);
        held.taken.add(&held.rule.rule, receipt);
    });
}

/// Takes back from what the current subtransaction took of the key, the latest first, by `undo`, which says what
/// [`Receipts::moved_up`] wants to know. The answer is how much that was.
pub fn take_back(key: Key, cost: u64, undo: impl FnOnce(&Rule, &Receipts) -> u32) -> u64 {
    OPEN.with(|open| {
        let place = open.place(key);
        let Some(held) = open.current(key) else { return 0 };
        let taken = held.taken.take_back(&held.rule.rule, cost);
        let steps = undo(&held.rule.rule, &taken);
        moved_up(&mut open.held, place, steps);
        taken.iter().map(|receipt| receipt.cost).sum()
    })
}

/// What was taken of the key while somebody waited stays taken, whatever becomes of the transaction.
pub fn keep(key: Key, cost: u64) {
    let released = OPEN.with(|open| {
        let held = open.current(key)?;
        held.taken.take_back(&held.rule.rule, cost);
        // It was the last to be remembered, unless the key has been there before.
        let is_last = open.held.last().is_some_and(|held| held.key == key && held.is_empty());
        let last = is_last.then(|| open.held.pop()).flatten()?;
        match last.below {
            Some(below) => open.places.insert(key, below),
            None => open.places.remove(&key),
        };
        open.last = 0;
        Some((open.header?, last))
    });
    if let Some((header, held)) = released {
        let_go(header, &held);
    }
}

/// Remembers to give back when the transaction commits. The key's cell was pinned if the request said so.
pub fn refund_later(
    header: &'static Header,
    request: &Request<'_>,
    cost: u64,
    new: impl FnOnce() -> (Rc<DefinedRule>, Id),
) {
    OPEN.with(|open| {
        let held = open.entry(header, request, new);
        held.refund = held.refund.saturating_add(cost);
    });
}

/// Remembers to forget the key when the transaction commits.
pub fn reset_later(
    header: &'static Header,
    request: &Request<'_>,
    new: impl FnOnce() -> (Rc<DefinedRule>, Id),
) {
    OPEN.with(|open| open.entry(header, request, new).forget());
}

/// Asks to be called when the transaction ends.
pub fn watch() {
    BUSY.store(true, Ordering::Relaxed);
}

/// Registers for what PostgreSQL has to tell; the postmaster's children inherit it.
pub fn install() {
    // SAFETY: both lists are made to be added to when a library is loaded, and the callbacks live as long as the library.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction_event), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_event), std::ptr::null_mut());
    }
}

unsafe extern "C-unwind" fn transaction_event(event: XactEvent::Type, _: *mut std::ffi::c_void) {
    if !BUSY.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: the closure leaves nothing behind to drop; errors of PostgreSQL and our own are raised before anything is final.
    let report = unsafe {
        pg_sys::submodules::panic::pgrx_extern_c_guard(|| match ended(event) {
            Ok(()) => None,
            Err(error) => Some(Report::from(error)),
        })
    };
    if let Some(report) = report {
        // SAFETY: a Report has nothing to drop, and the guard has been left.
        unsafe { crate::error::raise(report) }
    }
}

fn ended(event: XactEvent::Type) -> Result<(), Error> {
    match event {
        XactEvent::XACT_EVENT_PRE_COMMIT => write_down(),
        XactEvent::XACT_EVENT_PRE_PREPARE if !OPEN.with(|open| open.held.is_empty()) => {
            Err(Error::prepare())
        }
        XactEvent::XACT_EVENT_COMMIT => {
            finish(commit);
            Ok(())
        }
        // A prepared transaction holds nothing, but it has ended here.
        XactEvent::XACT_EVENT_ABORT | XactEvent::XACT_EVENT_PREPARE => {
            finish(abort);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Writes down what the transaction did. The list stays where it is: waiting and writing may end the session, and then all is given back.
fn write_down() -> Result<(), Error> {
    let Some(header) = OPEN.with(|open| open.header) else { return Ok(()) };
    // Without shared memory the keys are locked already, and nobody else has a copy.
    if shmem::is_shared(header) {
        let mut resets =
            OPEN.with(|open| open.resets().map(|held| held.digest).collect::<Vec<_>>());
        resets.sort_unstable();
        resets.into_iter().for_each(durable::lock);
        OPEN.with(|open| {
            for held in open.resets() {
                header.table().freeze(held.key);
                held.frozen = true;
            }
        });
    }
    let entries = OPEN.with(|open| durable::entries(header, &open.held));
    durable::write(header, entries)
}

/// Ends what the transaction holds: the latest first, and cells are let go when all is done. Nothing here can fail.
fn finish(end: fn(&'static Header, &Held) -> u32) {
    let (mut held, header) = OPEN.with(|open| {
        open.places.clear();
        open.last = 0;
        (std::mem::take(&mut open.held), open.header)
    });
    if let Some(header) = header {
        for n in (0..held.len()).rev() {
            let steps = end(header, &held[n]);
            let outer = held[n].below;
            moved_up(&mut held, outer, steps);
        }
        held.iter().for_each(|held| let_go(header, held));
    }
    durable::leave();
    OPEN.with(|open| {
        // One large transaction must not leave its memory behind.
        if held.capacity() <= MANY {
            open.held = held;
            open.held.clear();
        } else {
            open.places = HashMap::with_hasher(FxBuildHasher);
        }
    });
    BUSY.store(false, Ordering::Relaxed);
}

/// For so many keys the lists are kept for the next transaction.
const MANY: usize = 1_024;

/// Gives back all that was taken, the latest first. The answer is what [`Receipts::moved_up`] wants to know.
fn abort(header: &'static Header, held: &Held) -> u32 {
    let (table, now) = (header.table(), header.clock.read());
    if held.frozen {
        table.thaw(held.key);
    }
    let undo = |taken| table.undo(&held.rule.rule, held.key, taken, now, false);
    let steps = undo(&held.taken);
    if held.forgotten.is_empty() {
        return steps;
    }
    let mut forgotten = held.forgotten.clone();
    forgotten.moved_up(steps);
    steps.wrapping_add(undo(&forgotten))
}

/// What is remembered of a key at this place, and further out, was not moved up by what has just been undone.
fn moved_up(held: &mut [Held], mut place: Option<usize>, steps: u32) {
    while let Some(outer) = place.and_then(|place| held.get_mut(place)) {
        outer.forgotten.moved_up(steps);
        outer.taken.moved_up(steps);
        place = outer.below;
    }
}

/// Lets the key's cell go, if this is what it was pinned for.
fn let_go(header: &'static Header, held: &Held) {
    if held.pinned {
        header.table().unpin(held.key);
    }
}

/// Gives back what a subtransaction took that rolls back.
fn roll_back(subtransaction: u32) {
    let (inner, header) = OPEN.with(|open| (open.split_off(subtransaction), open.header));
    let Some(header) = header else { return };
    for held in inner {
        let steps = abort(header, &held);
        OPEN.with(|open| moved_up(&mut open.held, held.below, steps));
        let_go(header, &held);
    }
}

/// Does what had to wait. Nothing moves up that is still to be undone.
fn commit(header: &'static Header, held: &Held) -> u32 {
    // Most have nothing, and reading the clock takes longer than all else here.
    if !held.reset && held.refund == 0 {
        return 0;
    }
    let (table, now) = (header.table(), header.clock.read());
    let request = |cost| Request {
        rule: &held.rule.rule,
        key: held.key,
        tag: 0,
        primary: false,
        cost,
        // The cell is held, and so the copy is there; also where somebody else is resetting the key.
        durable: false,
        pin: false,
        mark: held.rule.mark,
    };
    if held.reset {
        table.wipe(&held.rule.rule, held.key, now);
        // What this transaction took afterwards is not forgotten.
        let after = held.taken.iter().map(|receipt| receipt.cost).sum();
        let _ = table.charge(&[request(after)], now, None);
    }
    if held.refund > 0 {
        // A key without a cell has nothing to get back.
        let _ = table.refund(&[request(held.refund)], now);
    }
    0
}

unsafe extern "C-unwind" fn subtransaction_event(
    event: SubXactEvent::Type,
    child: u32,
    parent: u32,
    _: *mut std::ffi::c_void,
) {
    if !BUSY.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: nothing in it can fail.
    unsafe {
        pg_sys::submodules::panic::pgrx_extern_c_guard(|| match event {
            SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => OPEN.with(|open| open.release(child, parent)),
            SubXactEvent::SUBXACT_EVENT_ABORT_SUB => roll_back(child),
            _ => {}
        });
    }
}
