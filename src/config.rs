//! The settings: section 1.8 of the contract. None that changes a verdict can be set by an ordinary user.

use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use pgrx::pg_sys;
use ratelimit_core::table::OnFull;
use ratelimit_core::{Micros, MILLISECOND, SECOND};

use crate::compat;

static MAX_KEYS: GucSetting<i32> = GucSetting::<i32>::new(131_072);
static PARTITIONS: GucSetting<i32> = GucSetting::<i32>::new(16);
static MAX_SLOTS: GucSetting<i32> = GucSetting::<i32>::new(-1);
static SAVE_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(300);
static SIZES_OF_SESSION: AtomicBool = AtomicBool::new(false);
static PURGE_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(10_000);
static PURGE_BATCH_SIZE: GucSetting<i32> = GucSetting::<i32>::new(1_000);
static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
static ON_FULL: GucSetting<WhenFull> = GucSetting::<WhenFull>::new(WhenFull::Evict);

#[derive(Clone, Copy, Debug, PostgresGucEnum)]
enum WhenFull {
    #[name = c"evict"]
    Evict,
    #[name = c"deny"]
    Deny,
    #[name = c"allow"]
    Allow,
}

/// Defines the settings. What sizes shared memory is the server's choice, or the configuration file's where a session makes it: never
/// a role's.
pub fn define() {
    let flags = GucFlags::default();
    GucRegistry::define_bool_guc(
        c"ratelimit.enabled",
        c"Enforces limits.",
        c"When off, every call is allowed and takes nothing.",
        &ENABLED,
        GucContext::Suset,
        flags,
    );
    GucRegistry::define_enum_guc(
        c"ratelimit.on_full",
        c"Sets what happens to a new key when shared memory holds ratelimit.max_keys live keys.",
        c"A key that is being denied is never evicted.",
        &ON_FULL,
        GucContext::Suset,
        flags,
    );
    GucRegistry::define_int_guc(
        c"ratelimit.purge_interval",
        c"Sets the time between two rounds in which expired state is removed.",
        c"0 turns them off. Else it is at least 100 ms.",
        &PURGE_INTERVAL,
        0,
        i32::MAX,
        GucContext::Sighup,
        flags | GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"ratelimit.purge_batch_size",
        c"Sets how many rows are removed in one transaction.",
        c"Smaller ones hold locks for a shorter time.",
        &PURGE_BATCH_SIZE,
        1,
        1_000_000,
        GucContext::Sighup,
        flags,
    );
    if !preloading() {
        let sizes = [c"ratelimit.max_keys", c"ratelimit.partitions", c"ratelimit.max_slots"];
        SIZES_OF_SESSION
            .store(sizes.into_iter().any(compat::is_set_for_session), Ordering::Relaxed);
    }
    let server = || if preloading() { GucContext::Postmaster } else { GucContext::Sighup };
    GucRegistry::define_int_guc(
        c"ratelimit.max_keys",
        c"Sets the number of keys that shared memory has room for.",
        c"Each takes 128 bytes.",
        &MAX_KEYS,
        100,
        100_000_000,
        server(),
        flags,
    );
    GucRegistry::define_int_guc(
        c"ratelimit.partitions",
        c"Sets the number of locks under which new keys are added.",
        c"Calls for keys that are already there take none of them.",
        &PARTITIONS,
        1,
        1_024,
        server(),
        flags,
    );
    GucRegistry::define_int_guc(
        c"ratelimit.max_slots",
        c"Sets how many concurrency slots can be held on the server.",
        c"-1 is a quarter of the server's lock table; more than half of it is never used.",
        &MAX_SLOTS,
        -1,
        1_000_000,
        server(),
        flags,
    );
    GucRegistry::define_int_guc(
        c"ratelimit.save_interval",
        c"Sets the time between saves of what shared memory holds.",
        c"It is what a crash can lose. 0 saves only when the server is shut down.",
        &SAVE_INTERVAL,
        0,
        86_400,
        GucContext::Sighup,
        flags | GucFlags::UNIT_S,
    );
    // SAFETY: a C string that lives for ever; the call is allowed in _PG_init, which is where we are.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"ratelimit".as_ptr()) };
}

/// Whether the postmaster is loading this library for everybody.
pub fn preloading() -> bool {
    // SAFETY: a plain variable of the server, written before any library is loaded.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Whether somebody tried to set the sizes of shared memory for this session. What the configuration file says is not known then.
pub fn sizes_of_session() -> bool {
    SIZES_OF_SESSION.load(Ordering::Relaxed)
}

/// `ratelimit.max_keys`
pub fn max_keys() -> usize {
    MAX_KEYS.get().try_into().unwrap_or(0)
}

/// `ratelimit.partitions`
pub fn partitions() -> usize {
    PARTITIONS.get().try_into().unwrap_or(1)
}

/// `ratelimit.max_slots`, if it is set.
pub fn max_slots() -> Option<usize> {
    MAX_SLOTS.get().try_into().ok()
}

/// `ratelimit.save_interval`, if there is one.
pub fn save_interval() -> Option<Micros> {
    match Micros::from(SAVE_INTERVAL.get()) {
        0 => None,
        seconds => Some(seconds * SECOND),
    }
}

/// `ratelimit.purge_interval`, if there are to be rounds.
pub fn purge_interval() -> Option<Micros> {
    const SHORTEST: Micros = 100 * MILLISECOND;
    match Micros::from(PURGE_INTERVAL.get()) {
        0 => None,
        milliseconds => Some((milliseconds * MILLISECOND).max(SHORTEST)),
    }
}

/// `ratelimit.purge_batch_size`
pub fn purge_batch_size() -> usize {
    PURGE_BATCH_SIZE.get().try_into().unwrap_or(1)
}

/// `ratelimit.enabled`
pub fn enabled() -> bool {
    ENABLED.get()
}

/// `ratelimit.on_full`
pub fn on_full() -> OnFull {
    match ON_FULL.get() {
        WhenFull::Evict => OnFull::Evict,
        WhenFull::Deny => OnFull::Deny,
        WhenFull::Allow => OnFull::Allow,
    }
}
