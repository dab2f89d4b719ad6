//! Statistics: what was decided, limiter by limiter, and which keys were denied.
//!
//! As PostgreSQL's own, they are counted in memory of the session and brought to shared memory when its transaction ends, so that a
//! decision writes no cache line that others need. They are no part of the transaction: what was decided was decided, also where it
//! rolls back.

mod keys;
mod saved;
mod tidy;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys::{self, Oid, XactEvent};
use ratelimit_core::stats::{Counter, Counts, Hitter, LimiterId, Place, COUNTERS};
use ratelimit_core::table::Key;
use ratelimit_core::Micros;

pub use saved::{export, install_key, install_total};
pub use tidy::{tidy, tidy_databases};

use crate::backend::{self, BackendCell};
use crate::shmem::{self, Header};

/// What this session has counted of one limiter and not brought to shared memory yet.
struct Tally {
    id: LimiterId,
    place: Cell<Place>,
    counts: [Cell<u64>; COUNTERS],
    /// Whether it is among those to be brought.
    due: Cell<bool>,
}

/// The statistics of a limiter, as a definition has them.
#[derive(Clone, Default)]
pub struct Stats(Option<Rc<Tally>>);

static TALLIES: BackendCell<Vec<Rc<Tally>>> = BackendCell::new(Vec::new());
/// Whether there is anything to bring when the transaction ends.
static DUE: AtomicBool = AtomicBool::new(false);

fn is_there(database: u32) -> bool {
    // SAFETY: a catalog look-up by oid; what does not exist is answered by null.
    unsafe { !pg_sys::get_database_name(Oid::from(database)).is_null() }
}

/// What the wall clock says.
fn now(header: &Header) -> Micros {
    header.clock.read().wall
}

impl Stats {
    /// Those of a limiter, which gets a place for them; `live` are all limiters of this database. Where no memory is shared, and where all
    /// places are taken, nothing is counted.
    pub fn of(
        header: &'static Header,
        id: LimiterId,
        live: impl FnOnce() -> Vec<LimiterId>,
    ) -> Self {
        if !shmem::is_shared(header) {
            return Stats(None);
        }
        let (database, now) = (backend::database(), now(header));
        let claim = || header.totals_alone(|totals| totals.claim(&id, database, now));
        let found = header.totals(|totals| totals.find(&id, database)).or_else(claim);
        let place = found.or_else(|| {
            if !header.may_have_gone() {
                return None;
            }
            tidy(header, database, live);
            tidy_databases(header, is_there);
            claim()
        });
        Stats(place.map(|place| {
            let place = Cell::new(place);
            Rc::new(Tally { id, place, counts: Default::default(), due: Cell::new(false) })
        }))
    }

    #[inline(always)]
    fn add(&self, counter: Counter, n: u64) {
        if let Some(tally) = &self.0 {
            let count = &tally.counts[counter as usize];
            count.set(count.get().saturating_add(n));
            if !tally.due.get() {
                tally.note();
            }
        }
    }

    /// A decision let a call pass.
    #[inline(always)]
    pub fn allowed(&self, key: Key) {
        self.add(Counter::Allowed, 1);
        if let Some(tally) = &self.0 {
            keys::allowed(tally, key);
        }
    }

    /// A decision let a call pass, and left little.
    #[inline(always)]
    pub fn near_limit(&self) {
        self.add(Counter::NearLimit, 1);
    }

    /// A decision refused a call, at this moment of the wall clock.
    #[inline(always)]
    pub fn denied(&self, key: Key, text: &[u8], at: Micros) {
        self.add(Counter::Denied, 1);
        if let Some(tally) = &self.0 {
            keys::denied(tally, key, text, at);
        }
    }

    /// The same in shadow mode, where the call passed nevertheless.
    pub fn shadow_denied(&self, key: Key, text: &[u8], at: Micros) {
        self.add(Counter::Allowed, 1);
        self.add(Counter::ShadowDenied, 1);
        if let Some(tally) = &self.0 {
            keys::denied(tally, key, text, at);
        }
    }

    /// A key was banned.
    pub fn banned(&self) {
        self.add(Counter::Bans, 1);
    }

    /// A call passed without being looked at.
    #[inline(always)]
    pub fn passed(&self) {
        self.add(Counter::Allowed, 1);
    }

    /// So much was given back.
    pub fn refunded(&self, cost: u64) {
        self.add(Counter::Refunded, cost);
    }

    /// A call waited for so long, in vain or not.
    pub fn waited(&self, time: Micros) {
        self.add(Counter::Waits, 1);
        self.add(Counter::WaitTime, u64::try_from(time).unwrap_or(0));
    }

    /// A call was refused because its turn would have come too late.
    pub fn timed_out(&self) {
        self.add(Counter::Timeouts, 1);
    }
}

impl Tally {
    /// Puts it among those to be brought.
    #[cold]
    #[inline(never)]
    fn note(self: &Rc<Self>) {
        self.due.set(true);
        TALLIES.with(|tallies| tallies.push(self.clone()));
        DUE.store(true, Ordering::Relaxed);
    }

    fn bring(&self, header: &Header) {
        self.due.set(false);
        let counts: Counts = std::array::from_fn(|n| self.counts[n].take());
        let database = backend::database();
        let add = |place| header.totals(|totals| totals.add(place, &self.id, database, &counts));
        if !add(self.place.get()) {
            // Somebody who could not see the limiter yet has given its place away.
            let now = now(header);
            let place = header.totals_alone(|totals| totals.claim(&self.id, database, now));
            if let Some(place) = place {
                self.place.set(place);
                add(place);
            }
        }
    }
}

/// Brings all that was counted here to shared memory.
pub fn bring() {
    bring_tallies();
    keys::bring();
}

fn bring_tallies() {
    let Some(header) = shmem::header() else { return };
    TALLIES.with(|tallies| {
        tallies.iter().for_each(|tally| tally.bring(header));
        tallies.clear();
    });
}

/// Registers for what PostgreSQL has to tell; the postmaster's children inherit it.
pub fn install() {
    // SAFETY: the list is made to be added to when a library is loaded, and the callback lives as long as the library.
    unsafe { pg_sys::RegisterXactCallback(Some(transaction_event), std::ptr::null_mut()) };
}

/// Not guarded: nothing in it fails, and each transaction that counted comes by.
unsafe extern "C-unwind" fn transaction_event(event: XactEvent::Type, _: *mut std::ffi::c_void) {
    let ends =
        [XactEvent::XACT_EVENT_COMMIT, XactEvent::XACT_EVENT_ABORT, XactEvent::XACT_EVENT_PREPARE];
    if !DUE.load(Ordering::Relaxed) || !ends.contains(&event) {
        return;
    }
    bring_tallies();
    DUE.store(!keys::try_bring(), Ordering::Relaxed);
}

/// What is counted of a limiter of this database, and since when; `None` where it is not counted.
pub fn total(id: &LimiterId) -> Option<(Counts, Option<Micros>)> {
    let header = shmem::header()?;
    bring();
    header.totals(|totals| match totals.find(id, backend::database()).and_then(|n| totals.get(n)) {
        Some(total) => Some((total.counts(), Some(total.since()))),
        // It was not asked yet, and will be counted.
        None => (!totals.is_full()).then(|| (Counts::default(), None)),
    })
}

/// A key that was denied.
pub struct Denied {
    pub text: Vec<u8>,
    pub allowed: u64,
    pub denied: u64,
    pub last: Micros,
}

/// The tracked keys of a limiter of this database, those denied most often first.
pub fn denied_keys(id: &LimiterId) -> Vec<Denied> {
    let Some(header) = shmem::header() else { return Vec::new() };
    bring();
    // Under the lock there is nothing to allocate.
    let mut copy = Box::<ratelimit_core::stats::HeavyHitters>::default();
    let place = header.denied_keys(|keys| {
        let place = keys.totals.find(id, backend::database())?;
        (*copy).clone_from(keys.sketch(place));
        Some(place)
    });
    let show = |Hitter { seen, .. }: Hitter<'_>| Denied {
        text: seen.text.to_vec(),
        allowed: seen.allowed,
        denied: seen.denied,
        last: seen.last,
    };
    let theirs = copy.iter().filter(|hitter| Some(hitter.seen.owner) == place);
    let mut denied: Vec<_> = theirs.map(show).collect();
    denied.sort_by_key(|key| (std::cmp::Reverse((key.denied, key.last)), key.text.clone()));
    denied
}

/// Counts all limiters of this database from 0 again, and forgets the keys that were denied.
pub fn reset() {
    let Some(header) = shmem::header() else { return };
    bring();
    let (database, now) = (backend::database(), now(header));
    header.totals_alone(|totals| {
        for (place, _, _) in totals.iter().filter(|(_, _, total)| total.database() == database) {
            totals.reset(place, now);
        }
    });
    header.denied_keys(|keys| {
        let totals = keys.totals;
        keys.forget(|place| totals.get(place).is_some_and(|total| total.database() == database));
    });
    keys::forget();
}
