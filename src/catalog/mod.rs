//! Definitions as this process knows them: read once, and again after somebody changed one.
//!
//! A trigger on the definition tables sends a relcache invalidation for `rl_limiters`, which PostgreSQL delivers with the commit (to
//! this process at the next command, and again at a rollback). In the middle of a transaction other processes would not look for
//! it; they see the commit counter in shared memory instead.

mod check;
mod definition;
mod extension;
mod scan;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use pgrx::pg_sys::{self, Datum, Oid};
use ratelimit_core::Secret;
use rustc_hash::FxBuildHasher;

pub use definition::{DefinedRule, Definition, Stake};
pub use extension::Extension;
pub use scan::{enum_label, Id};

use crate::backend::BackendCell;
use crate::error::{Error, Result};
use crate::function::pg_function;
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
/// `rl_limiters` in this database, once known.
static LIMITERS: AtomicU32 = AtomicU32::new(0);
/// Whether the current transaction changed definitions.
static CHANGED: AtomicBool = AtomicBool::new(false);

/// The definition of a limiter; `function` is one of the extension's, and tells its schema.
#[inline(always)]
pub fn limiter(header: &Header, name: &[u8], function: Oid) -> Result<Rc<Definition>> {
    let commits = header.definitions.load(Ordering::Relaxed);
    let known = CACHE.with(|cache| {
        if STALE.load(Ordering::Relaxed) || cache.commits != commits {
            STALE.store(false, Ordering::Relaxed);
            cache.commits = commits;
            cache.limiters.clear();
            cache.last = None;
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
fn load(header: &Header, name: &[u8], function: Oid) -> Result<Rc<Definition>> {
    let tables = scan::Tables::of(function);
    LIMITERS.store(tables.limiters.to_u32(), Ordering::Relaxed);
    // An invalidation that arrives from here on may concern what is being read: the next call will read again.
    let rows = scan::limiter(&tables, name).ok_or_else(|| Error::unknown_limiter(name))?;
    let id = rows.id;
    let definition = Definition::new(&tables, name, rows, &header.secret)?;
    let stats = Stats::of(header, id, || scan::ids(&tables));
    let definition = Rc::new(definition.counted(stats));
    CACHE.with(|cache| {
        cache.limiters.insert(name.into(), definition.clone());
        cache.last = Some(definition.clone());
    });
    Ok(definition)
}

/// The rules of all durable limiters.
pub struct DurableRules {
    rules: HashMap<(Id, i32), Rc<DefinedRule>>,
    /// Limiters of which the rules are known, and those whose definitions do not make sense any more.
    limiters: HashMap<Id, bool>,
}

impl DurableRules {
    /// The rule of a limiter at a position.
    pub fn get(&self, limiter: &Id, position: i32) -> Option<&DefinedRule> {
        self.rules.get(&(*limiter, position)).map(|rule| &**rule)
    }

    /// Whether there is such a limiter.
    pub fn knows(&self, limiter: &Id) -> bool {
        self.limiters.contains_key(limiter)
    }

    /// Whether the limiter cannot be used, as when its time zone was renamed.
    pub fn is_broken(&self, limiter: &Id) -> bool {
        self.limiters.get(limiter) == Some(&false)
    }
}

/// The rules of all durable limiters in the extension's schema.
pub fn durable_rules(schema: Oid, secret: &Secret) -> DurableRules {
    let tables = scan::Tables::in_schema(schema);
    let mut durable = DurableRules { rules: HashMap::new(), limiters: HashMap::new() };
    for name in scan::names(&tables) {
        let Some(row) = scan::limiter(&tables, &name) else { continue };
        let id = row.id;
        match Definition::new(&tables, &name, row, secret) {
            Ok(definition) if definition.stake() == Stake::Durable => {
                let rules = definition.rules().iter();
                durable.limiters.insert(id, true);
                durable
                    .rules
                    .extend(rules.map(|rule| ((id, rule.position.cast_signed()), rule.clone())));
            }
            Ok(_) => {}
            Err(_) => {
                durable.limiters.insert(id, false);
            }
        }
    }
    durable
}

/// The limiters in the extension's schema.
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
    if relation == Oid::INVALID || relation.to_u32() == LIMITERS.load(Ordering::Relaxed) {
        STALE.store(true, Ordering::Relaxed);
    }
}

/// Not guarded: it only touches atomics. A commit is visible to others before this is called.
unsafe extern "C-unwind" fn transaction_ended(
    event: pg_sys::XactEvent::Type,
    _: *mut std::ffi::c_void,
) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE};
    match event {
        XACT_EVENT_COMMIT if CHANGED.swap(false, Ordering::Relaxed) => {
            if let Some(header) = shmem::header() {
                header.definitions.fetch_add(1, Ordering::Release);
                header.with_slots(|slots| slots.wake_all());
                // A worker sees to what is left of dropped limiters.
                // SAFETY: a plain variable, set when the process connected to its database.
                header.board.note(unsafe { pg_sys::MyDatabaseId });
            }
        }
        XACT_EVENT_ABORT | XACT_EVENT_PREPARE => CHANGED.store(false, Ordering::Relaxed),
        _ => {}
    }
}

pg_function! {
    /// Trigger on the definition tables, after each statement: tells everybody, at commit, that what they know is old.
    fn _rl_definitions_changed(call) {
        let tables = scan::Tables::of(call.function());
        LIMITERS.store(tables.limiters.to_u32(), Ordering::Relaxed);
        // The commit is counted in shared memory, and is no time to join it.
        shmem::get()?;
        CHANGED.store(true, Ordering::Relaxed);
        // SAFETY: called in a transaction, with the oid of a table; harmless if it has just been dropped.
        unsafe { pg_sys::CacheInvalidateRelcacheByRelid(tables.limiters) };
        Ok(Datum::null())
    }
}
