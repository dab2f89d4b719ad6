//! What this session holds: the list by which slots go back.
//!
//! A slot is handed on only when the lock manager has let its lock go. So what a transaction held is marked when it ends, and given
//! back when PostgreSQL says that it has released the transaction's locks.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys::{self, Datum, ResourceReleasePhase, SubXactEvent, XactEvent, LOCKTAG};
use ratelimit_core::table::Key;

use super::lock;
use crate::backend::BackendCell;
use crate::error::{Error, Report};
use crate::shmem::{self, Header};

/// How long a slot is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    Transaction,
    Session,
}

/// One slot of this session.
struct Hold {
    header: &'static Header,
    key: Key,
    number: u32,
    tag: LOCKTAG,
    /// Of a transaction's: which part of it took it.
    subtransaction: Option<u32>,
    /// Its lock is about to be released.
    ends: bool,
}

impl Hold {
    fn for_session(&self) -> bool {
        self.subtransaction.is_none()
    }

    /// Gives the slot back whose lock is gone.
    fn hand_on(&self) {
        // Where nothing is shared the lock was all there was.
        if shmem::is_shared(self.header) {
            self.header.with_slots(|slots| slots.release(self.number, shmem::process()));
        }
    }
}

extern "C-unwind" {
    // Unguarded: it only reads a variable.
    fn GetCurrentSubTransactionId() -> u32;
}

static HELD: BackendCell<Vec<Hold>> = BackendCell::new(Vec::new());
/// Whether the list has anything, and whether some of it ends.
static BUSY: AtomicBool = AtomicBool::new(false);
static ENDING: AtomicBool = AtomicBool::new(false);
/// Whether this process waits for a slot, in what header.
static WAITING: BackendCell<Option<&'static Header>> = BackendCell::new(None);

/// Makes room to remember one more, so that nothing can fail once it is taken.
pub fn reserve() {
    HELD.with(|held| held.reserve(1));
    BUSY.store(true, Ordering::Relaxed);
}

/// Remembers a slot that shared memory has given, and locks it; says whether the lock manager has room for that.
pub fn add(header: &'static Header, key: Key, number: u32, term: Term) -> bool {
    let tag = lock::tag(key, number);
    remember(header, key, number, term);
    let locked = lock::acquire(&tag, term == Term::Session);
    if !locked {
        let held = HELD.with(Vec::pop);
        held.iter().for_each(Hold::hand_on);
    }
    locked
}

/// Remembers a slot that is locked already.
pub fn remember(header: &'static Header, key: Key, number: u32, term: Term) {
    let tag = lock::tag(key, number);
    BUSY.store(true, Ordering::Relaxed);
    // SAFETY: reads a variable.
    let part = || unsafe { GetCurrentSubTransactionId() };
    let subtransaction = (term == Term::Transaction).then(part);
    HELD.with(|held| held.push(Hold { header, key, number, tag, subtransaction, ends: false }));
}

/// Gives one back before its time: the last of this key that was taken for so long. Says whether there was one.
pub fn release(key: Key, term: Term) -> bool {
    let wanted = |hold: &Hold| hold.key == key && hold.for_session() == (term == Term::Session);
    let found = HELD.with(|held| {
        let place = held.iter().rposition(|hold| wanted(hold) && lock::is_held(&hold.tag))?;
        Some(held.remove(place))
    });
    let Some(hold) = found else { return false };
    lock::release(&hold.tag, hold.for_session());
    hold.hand_on();
    true
}

/// The process is about to wait: whatever ends the wait, it leaves the queue.
pub fn wait(header: &'static Header) {
    BUSY.store(true, Ordering::Relaxed);
    WAITING.with(|waiting| *waiting = Some(header));
}

/// It does not wait any more.
pub fn waited() {
    WAITING.with(|waiting| *waiting = None);
}

/// Leaves the queue, if it is in one.
pub fn leave_queue() {
    if let Some(header) = WAITING.with(Option::take) {
        header.with_slots(|slots| slots.cancel(shmem::process()));
    }
}

/// Registers for what PostgreSQL has to tell; the postmaster's children inherit it.
pub fn install() {
    // SAFETY: the lists are made to be added to when a library is loaded, and the callbacks live as long as the library.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction_event), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_event), std::ptr::null_mut());
        pg_sys::RegisterResourceReleaseCallback(Some(released), std::ptr::null_mut());
    }
}

/// Sees to it that what the session holds goes back when it ends, while shared memory is still there.
pub fn give_back_at_exit() {
    static ASKED: AtomicBool = AtomicBool::new(false);
    if !ASKED.swap(true, Ordering::Relaxed) {
        // SAFETY: a function that lives as long as the process.
        unsafe { pg_sys::before_shmem_exit(Some(exiting), Datum::null()) };
    }
}

unsafe extern "C-unwind" fn exiting(_code: i32, _unused: Datum) {
    // SAFETY: nothing in it fails. An open transaction is ended after this, and gives back what it held.
    unsafe {
        pg_sys::submodules::panic::pgrx_extern_c_guard(|| {
            let session = HELD
                .with(|held| held.extract_if(.., |hold| hold.for_session()).collect::<Vec<_>>());
            for hold in session {
                if lock::is_held(&hold.tag) {
                    lock::release(&hold.tag, true);
                }
                hold.hand_on();
            }
        });
    }
}

/// Not guarded, and no more are the next two: nothing in them fails, and guards would be a tenth of what a slot costs.
unsafe extern "C-unwind" fn transaction_event(event: XactEvent::Type, _: *mut c_void) {
    if !BUSY.load(Ordering::Relaxed) {
        return;
    }
    if event == XactEvent::XACT_EVENT_PRE_PREPARE {
        let holds = HELD.with(|held| held.iter().any(|hold| !hold.for_session()));
        if holds {
            // SAFETY: a Report has nothing to drop, and no guard is open.
            unsafe { crate::error::raise(Report::from(Error::prepare_with_slots())) }
        }
    }
    let ends =
        [XactEvent::XACT_EVENT_COMMIT, XactEvent::XACT_EVENT_ABORT, XactEvent::XACT_EVENT_PREPARE];
    if !ends.contains(&event) {
        return;
    }
    leave_queue();
    // DISCARD ALL and pg_advisory_unlock_all take the locks of a session's slots without a word.
    mark(|hold| !hold.for_session() || !lock::is_held(&hold.tag));
    BUSY.store(HELD.with(|held| !held.is_empty()), Ordering::Relaxed);
}

unsafe extern "C-unwind" fn subtransaction_event(
    event: SubXactEvent::Type,
    child: u32,
    parent: u32,
    _: *mut c_void,
) {
    if !BUSY.load(Ordering::Relaxed) {
        return;
    }
    match event {
        SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => HELD.with(|held| {
            for hold in held.iter_mut().filter(|hold| hold.subtransaction == Some(child)) {
                hold.subtransaction = Some(parent);
            }
        }),
        SubXactEvent::SUBXACT_EVENT_ABORT_SUB => {
            leave_queue();
            mark(|hold| hold.subtransaction == Some(child));
        }
        _ => {}
    }
}

fn mark(ends: impl Fn(&Hold) -> bool) {
    HELD.with(|held| {
        for hold in held.iter_mut().filter(|hold| ends(hold)) {
            hold.ends = true;
            ENDING.store(true, Ordering::Relaxed);
        }
    });
}

/// PostgreSQL has released the locks of whatever ended.
unsafe extern "C-unwind" fn released(
    phase: ResourceReleasePhase::Type,
    _commits: bool,
    _is_top_level: bool,
    _: *mut c_void,
) {
    let last = ResourceReleasePhase::RESOURCE_RELEASE_AFTER_LOCKS;
    if phase != last || !ENDING.swap(false, Ordering::Relaxed) {
        return;
    }
    HELD.with(|held| {
        held.iter().filter(|hold| hold.ends).for_each(Hold::hand_on);
        held.retain(|hold| !hold.ends);
        BUSY.store(!held.is_empty(), Ordering::Relaxed);
    });
}
