//! Keys that a limiter treats otherwise: rows of `rl_overrides`, and bans of durable limiters.
//!
//! Most keys have none, and shared memory knows that: see [`ratelimit_core::lists`]. For the others this process remembers what it has read
//! until shared memory says that the key's row may have changed. Triggers on the tables mark keys before their rows can be seen, and
//! the end of the transaction tells of the change, when they can.
//!
//! Nobody tells where no memory is shared, and on a standby, which has no triggers. There the relcache invalidation does which the triggers
//! send as well: it makes a process forget all rows, with the definitions, and each call asks for it.

use std::collections::HashMap;
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys::{self, Datum, XactEvent};
use ratelimit_core::lists::{generation_of, Listed, GENERATIONS};
use ratelimit_core::table::Key;
use ratelimit_core::Micros;
use rustc_hash::FxBuildHasher;

use crate::backend::BackendCell;
use crate::catalog::{self, DefinedRule, Definition, Id, Lists, Stake, Tables};
use crate::datum::EPOCHS;
use crate::error::{Error, Report, Result};
use crate::function::{pg_function, Call};
use crate::shmem::{self, Header};
use crate::trigger::Fired;

/// How a key is treated.
#[derive(Clone, Default)]
pub struct Row {
    /// What an override says.
    pub action: Option<Action>,
    /// When the override ends, on the wall; `Micros::MAX` for never.
    pub action_ends: Micros,
    /// When the ban of a durable limiter's key ends, if it has one.
    pub ban_ends: Option<Micros>,
}

/// What an override says.
#[derive(Clone)]
pub enum Action {
    Allow,
    Deny,
    /// The first rule is another one; `None` where there are no rules.
    Limit(Option<Rc<DefinedRule>>),
}

struct Known {
    row: Option<Row>,
    generation: u32,
}

/// What this process has read, by the keys that lists know.
struct Cache {
    rows: HashMap<Key, Known, FxBuildHasher>,
    /// Most limits are those of a few plans: keys share them.
    limits: HashMap<Limit, Rc<DefinedRule>, FxBuildHasher>,
    /// Whether shared memory told of changes when they were read.
    told: bool,
}

/// A limiter, a quota and a burst.
type Limit = (Id, i64, Option<i64>);

static CACHE: BackendCell<Cache> = BackendCell::new(Cache {
    rows: HashMap::with_hasher(FxBuildHasher),
    limits: HashMap::with_hasher(FxBuildHasher),
    told: false,
});
/// When there are more, all are forgotten: 16 MB.
const MOST: usize = 1 << 17;
/// The same for limits: 2 MB.
const MOST_LIMITS: usize = 1 << 13;

/// The generations of which the open transaction has changed rows, one bit each.
static CHANGED: BackendCell<[u64; GENERATIONS / 64]> = BackendCell::new([0; _]);
static ANY_CHANGED: AtomicBool = AtomicBool::new(false);

extern "C-unwind" {
    // Unguarded, for speed, and as it is called for an invalidation: reads variables.
    fn RecoveryInProgress() -> bool;
}

/// Whether shared memory tells which rows have changed.
pub fn is_told() -> bool {
    // SAFETY: no precondition.
    shmem::header().is_some() && !unsafe { RecoveryInProgress() }
}

/// Forgets all that was read.
pub fn forget() {
    CACHE.with(|cache| {
        cache.rows.clear();
        cache.limits.clear();
        if cache.rows.capacity() > MOST / 16 {
            cache.rows = HashMap::with_hasher(FxBuildHasher);
        }
    });
}

/// Where the keys of a limiter are listed.
pub fn of(header: &Header, tables: &Tables, limiter: &Definition) -> Lists {
    let mut lists =
        Lists { tables: Some(*tables), place: header.lists.place(limiter.tag()), any: false };
    let asks = !is_told();
    catalog::ask_for_invalidations(asks);
    if asks {
        catalog::listed_keys(tables, limiter.bytes(), |_| {
            lists.any = true;
            false
        });
    }
    lists
}

/// The row of a key, if it has one.
#[cold]
pub fn find(header: &Header, limiter: &Definition, text: &[u8], key: Key) -> Result<Option<Row>> {
    let Some(tables) = &limiter.lists.tables else { return Ok(None) };
    let (lists, place, told) = (&header.lists, limiter.lists.place, is_told());
    if told {
        if place.is_some() && lists.look(place, key) == Listed::Unknown {
            catalog::listed_keys(tables, limiter.bytes(), |text| {
                lists.mark(place, limiter.list_key(text));
                true
            });
            lists.set_known(place);
        }
        if matches!(lists.look(place, key), Listed::No | Listed::NoRow) {
            return Ok(None);
        }
    } else if !limiter.lists.any {
        return Ok(None);
    }
    let generation = if told { lists.generation(key) } else { 0 };
    let is_ours = ANY_CHANGED.load(Ordering::Relaxed) && has_changed(generation_of(key));
    if !is_ours {
        let known = CACHE.with(|cache| {
            if cache.told != told {
                cache.told = told;
                cache.rows.clear();
            }
            let known = cache.rows.get(&key)?;
            (known.generation == generation).then(|| known.row.clone())
        });
        if let Some(row) = known {
            return Ok(row);
        }
    }
    let row = read(tables, limiter, text)?;
    if !is_ours {
        if CACHE.with(|cache| cache.rows.len() >= MOST) {
            forget();
        }
        CACHE.with(|cache| cache.rows.insert(key, Known { row: row.clone(), generation }));
    }
    Ok(row)
}

fn read(tables: &Tables, limiter: &Definition, text: &[u8]) -> Result<Option<Row>> {
    let mut row = Row::default();
    if let Some(found) = catalog::override_of(tables, limiter.bytes(), text) {
        row.action = Some(match found.action.as_str() {
            "allow" => Action::Allow,
            "deny" => Action::Deny,
            _ => Action::Limit(limit(limiter, found.quota.unwrap_or(0), found.burst)?),
        });
        row.action_ends = end(found.expires);
    }
    if limiter.stake() == Stake::Durable {
        row.ban_ends = catalog::ban_of(tables, limiter.bytes(), text).map(end);
    }
    Ok((row.action.is_some() || row.ban_ends.is_some()).then_some(row))
}

fn limit(limiter: &Definition, quota: i64, burst: Option<i64>) -> Result<Option<Rc<DefinedRule>>> {
    let limit = (limiter.id(), quota, burst);
    if let Some(known) = CACHE.with(|cache| cache.limits.get(&limit).cloned()) {
        return Ok(Some(known));
    }
    let rule = limiter.limited(quota.unsigned_abs(), burst.map(i64::unsigned_abs))?;
    if let Some(rule) = &rule {
        CACHE.with(|cache| {
            if cache.limits.len() >= MOST_LIMITS {
                cache.limits.clear();
            }
            cache.limits.insert(limit, rule.clone())
        });
    }
    Ok(rule)
}

fn end(time: i64) -> Micros {
    if time == i64::MAX {
        Micros::MAX
    } else {
        time.saturating_add(EPOCHS)
    }
}

fn has_changed(generation: usize) -> bool {
    CHANGED.with(|changed| changed[generation / 64] >> (generation % 64) & 1 != 0)
}

/// Remembers to tell, when the transaction commits, that these rows have changed; until then it reads them itself.
fn note(generations: impl Iterator<Item = usize>) {
    ANY_CHANGED.store(true, Ordering::Relaxed);
    CHANGED.with(|changed| {
        for generation in generations {
            changed[generation / 64] |= 1 << (generation % 64);
        }
    });
}

pg_function! {
    /// Trigger on the lists, after each row: marks its key. After each statement: tells those whom shared memory does not.
    fn _rl_list_changed(call) {
        let fired = Fired::new(call, "_rl_list_changed")?;
        let header = shmem::get()?.unwrap_or_else(shmem::private);
        if !fired.is_for_row() {
            if fired.is_truncate() {
                note(0..GENERATIONS);
            }
            // SAFETY: in a transaction, with the oid of the table that the trigger is on.
            unsafe { pg_sys::CacheInvalidateRelcacheByRelid(fired.table()) };
            return Ok(Datum::null());
        }
        for row in fired.rows() {
            let (limiter, key) = (row.column(1).unwrap_or_default(), row.column(2).unwrap_or_default());
            mark(call, header, &limiter, &key);
        }
        Ok(Datum::null())
    }
}

fn mark(call: &Call, header: &'static Header, limiter: &[u8], text: &[u8]) {
    let (place, key) = match catalog::limiter(header, limiter, call.function()) {
        Ok(limiter) => (limiter.lists.place, limiter.list_key(text)),
        // What cannot be used now may be mended before the row is gone.
        Err(_) => {
            let tables = Tables::of(call.function());
            // SAFETY: in a command of a transaction, which may have written the limiter.
            unsafe { pg_sys::CommandCounterIncrement() };
            // With a limiter that is gone go its rows.
            let Some(limiter) = catalog::limiter_row(&tables, limiter) else { return };
            let hasher = catalog::hasher(&tables, &limiter.id, &header.secret);
            (header.lists.place(hasher.tag()), hasher.key(text))
        }
    };
    header.lists.mark(place, key);
    note(std::iter::once(generation_of(key)));
}

/// Registers for what PostgreSQL has to tell; the postmaster's children inherit it.
pub fn install() {
    // SAFETY: the list is made to be added to when a library is loaded, and the callback lives as long as the library.
    unsafe { pg_sys::RegisterXactCallback(Some(transaction_event), std::ptr::null_mut()) };
}

/// Not guarded: it only touches memory, but where it raises an error of ours. A commit is visible to others before this is called.
unsafe extern "C-unwind" fn transaction_event(event: XactEvent::Type, _: *mut c_void) {
    use XactEvent::{
        XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE, XACT_EVENT_PRE_PREPARE,
    };
    if !ANY_CHANGED.load(Ordering::Relaxed) {
        return;
    }
    match event {
        XACT_EVENT_PRE_PREPARE => {
            // SAFETY: a Report has nothing to drop, and no guard is open.
            unsafe { crate::error::raise(Report::from(Error::prepare_with_lists())) }
        }
        XACT_EVENT_COMMIT => {
            if let Some(header) = shmem::header() {
                (0..GENERATIONS)
                    .filter(|generation| has_changed(*generation))
                    .for_each(|generation| header.lists.changed(generation));
            }
        }
        XACT_EVENT_ABORT | XACT_EVENT_PREPARE => {}
        _ => return,
    }
    CHANGED.with(|changed| changed.fill(0));
    ANY_CHANGED.store(false, Ordering::Relaxed);
}
