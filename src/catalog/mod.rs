//! Definitions as this process knows them: read once, and again after somebody changed one.
//!
//! A trigger on the definition tables sends a relcache invalidation for `rl_limiters`, which PostgreSQL delivers with the commit (to
//! this process at the next command, and again at a rollback). In the middle of a transaction other processes would not look for
//! it; they see the commit counter in shared memory instead.

mod check;
mod definition;
mod durable;
mod extension;
mod scan;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use pgrx::pg_sys::{self, Datum, Oid};
use ratelimit_core::table::Key;
use ratelimit_core::Secret;
use rustc_hash::FxBuildHasher;

pub use check::name_flaw;
pub use definition::{hasher, DefinedRule, Definition, Lists, Mode, Stake};
pub use durable::{durable_rules, DurableRules};
pub use extension::Extension;
pub use scan::{
    ban_of, coming_ban_of, enum_label, limiter as limiter_row, listed_keys, override_of, Id, Tables,
};

use crate::backend::{self, BackendCell};
use crate::error::{Error, Result};
use crate::function::pg_function;
use crate::lists;
use crate::shmem::{self, Header};
use crate::stats::Stats;

struct Cache {
    limiters: HashMap<Box<[u8]>, Rc<Definition>, FxBuildHasher>,
    /// Most calls name the limiter of the call before.
    last: Option<Rc<Definition>>,
    /// The commit counter when this was read.
    commits: u64,
}

static CACHE: BackendCell<Cache> = BackendCell::new(Cache {
    limiters: HashMap::with_hasher(FxBuildHasher),
    last: None,
    commits: 0,
});

/// Set when an invalidation came, which can be at almost any call into PostgreSQL.
static STALE: AtomicBool = AtomicBool::new(false);
/// Set where this process hears of nothing but invalidations, and has to ask for them: see [`lists`].
static ASKS: AtomicBool = AtomicBool::new(false);
/// `rl_limiters` in this database, once known, and the lists of keys.
static LIMITERS: AtomicU32 = AtomicU32::new(0);
static LISTS: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
/// Whether the current transaction changed definitions.
static CHANGED: AtomicBool = AtomicBool::new(false);

/// Says whether this process hears of nothing but invalidations. A statement in a transaction block need not accept any.
pub fn ask_for_invalidations(asks: bool) {
    ASKS.store(asks, Ordering::Relaxed);
}

/// The definition of a limiter; `function` is one of the extension's, and tells its schema.
#[inline(always)]
pub fn limiter(header: &'static Header, name: &[u8], function: Oid) -> Result<Rc<Definition>> {
    if ASKS.load(Ordering::Relaxed) {
        // SAFETY: we are inside a function call of a transaction, and hold no lock.
        unsafe { pg_sys::AcceptInvalidationMessages() };
    }
    let commits = header.definitions.load(Ordering::Relaxed);
    let known = CACHE.with(|cache| {
        if STALE.load(Ordering::Relaxed) || cache.commits != commits {
            STALE.store(false, Ordering::Relaxed);
            cache.commits = commits;
            cache.limiters.clear();
            cache.last = None;
            lists::forget();
        }
        match &cache.last {
            Some(last) if last.is_named(name) => Some(last.clone()),
            _ => {
                cache.last = cache.limiters.get(name).cloned();
                cache.last.clone()
            }
        }
    });
    match known {
        Some(definition) => Ok(definition),
        None => load(header, name, function),
    }
}

#[cold]
fn load(header: &'static Header, name: &[u8], function: Oid) -> Result<Rc<Definition>> {
    // An update of the extension may have made tables; in the middle of a transaction PostgreSQL looks for that as it locks something.
    // SAFETY: we are in a transaction, and hold nothing that a callback would change.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    let tables = scan::Tables::of(function);
    watch(&tables);
    // An invalidation that arrives from here on may concern what is being read: the next call will read again.
    let rows = scan::limiter(&tables, name).ok_or_else(|| Error::unknown_limiter(name))?;
    let mut definition = Definition::new(&tables, name, rows, &header.secret)?;
    definition.lists = lists::of(header, &tables, &definition);
    let stats = Stats::of(header, definition.id(), || scan::ids(&tables));
    let definition = Rc::new(definition.counted(stats));
    CACHE.with(|cache| {
        cache.limiters.insert(name.into(), definition.clone());
        cache.last = Some(definition.clone());
    });
    Ok(definition)
}

/// The schema with the extension's tables; `function` is one of the extension's.
pub fn schema_of(function: Oid) -> Oid {
    // SAFETY: a catalog look-up by oid; what does not exist is answered by 0.
    unsafe { pg_sys::get_func_namespace(function) }
}

/// How shared memory knows the slots of durable limiters in this schema, of which tables have the limiter's id and a digest.
pub fn slot_keys<'s>(schema: Oid, secret: &'s Secret) -> impl Fn(&Id, &Id) -> Key + use<'s> {
    let tables = scan::Tables::in_schema(schema);
    move |limiter, digest| hasher(&tables, limiter, secret).key(digest)
}

/// Whether the open transaction has changed definitions.
pub fn has_changed() -> bool {
    CHANGED.load(Ordering::Relaxed)
}

/// The limiters in the extension's schema, also those that open transactions have created.
pub fn ids(schema: Oid) -> Vec<Id> {
    scan::ids(&scan::Tables::in_schema(schema))
}

/// Registers for what the server has to tell; the postmaster's children inherit it.
pub fn install() {
    // SAFETY: both lists are made to be added to when a library is loaded, and the callbacks live as long as the library.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(invalidated), Datum::null());
        pg_sys::RegisterXactCallback(Some(transaction_ended), std::ptr::null_mut());
    }
}

/// Not guarded: it only touches atomics.
unsafe extern "C-unwind" fn invalidated(_: Datum, relation: Oid) {
    // Relation 0 means all.
    let is = |known: &AtomicU32| relation.to_u32() == known.load(Ordering::Relaxed);
    // Where shared memory says which keys have changed, no others are read again.
    if relation == Oid::INVALID || is(&LIMITERS) || LISTS.iter().any(is) && !lists::is_told() {
        STALE.store(true, Ordering::Relaxed);
    }
}

fn watch(tables: &Tables) {
    LIMITERS.store(tables.limiters.to_u32(), Ordering::Relaxed);
    LISTS[0].store(tables.overrides.to_u32(), Ordering::Relaxed);
    LISTS[1].store(tables.bans.to_u32(), Ordering::Relaxed);
}

/// Not guarded: it only touches atomics. A commit is visible to others before this is called.
unsafe extern "C-unwind" fn transaction_ended(
    event: pg_sys::XactEvent::Type,
    _: *mut std::ffi::c_void,
) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE};
    let ends = [XACT_EVENT_COMMIT, XACT_EVENT_ABORT, XACT_EVENT_PREPARE].contains(&event);
    if !ends || !CHANGED.swap(false, Ordering::Relaxed) {
        return;
    }
    if let Some(header) = shmem::header() {
        // Also where it is rolled back: those who wait for slots may have heard of a limit that was the transaction's alone.
        header.definitions.fetch_add(1, Ordering::Release);
        header.with_slots(|slots| slots.wake_all());
        // A worker sees to what is left of dropped limiters.
        header.board.note(Oid::from(backend::database()));
    }
}

pg_function! {
    /// Trigger on the definition tables, after each statement: tells everybody, at commit, that what they know is old.
    fn _rl_definitions_changed(call) {
        let tables = scan::Tables::of(call.function());
        watch(&tables);
        // The commit is counted in shared memory, and is no time to join it.
        shmem::get()?;
        CHANGED.store(true, Ordering::Relaxed);
        // SAFETY: called in a transaction, with the oid of a table; harmless if it has just been dropped.
        unsafe { pg_sys::CacheInvalidateRelcacheByRelid(tables.limiters) };
        Ok(Datum::null())
    }
}
