//! The settings: section 1.8 of the contract. None that changes a verdict can be set by an ordinary user.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use pgrx::pg_sys;
use ratelimit_core::table::OnFull;
use ratelimit_core::{Micros, MILLISECOND};

static MAX_KEYS: GucSetting<i32> = GucSetting::<i32>::new(131_072);
static PARTITIONS: GucSetting<i32> = GucSetting::<i32>::new(16);
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

/// Defines the settings. What sizes shared memory can only be defined while the postmaster starts: later it would end the session.
pub fn define() {
    let flags = GucFlags::default();
    GucRegistry::define_bool_guc(
        c"ratelimit.enabled",
        c"Enforces limits.",
        c"When off, every call is allowed and nothing is counted.",
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
        return;
    }
    GucRegistry::define_int_guc(
        c"ratelimit.max_keys",
        c"Sets the number of keys that shared memory has room for.",
        c"Each takes 128 bytes.",
        &MAX_KEYS,
        100,
        100_000_000,
        GucContext::Postmaster,
        flags,
    );
    GucRegistry::define_int_guc(
        c"ratelimit.partitions",
        c"Sets the number of locks under which new keys are added.",
        c"Calls for keys that are already there take none of them.",
        &PARTITIONS,
        1,
        1_024,
        GucContext::Postmaster,
        flags,
    );
    // SAFETY: a C string that lives for ever; the call is allowed in _PG_init, which is where we are.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"ratelimit".as_ptr()) };
}

/// Whether the postmaster is loading this library for everybody.
pub fn preloading() -> bool {
    // SAFETY: a plain variable of the server, written before any library is loaded.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// `ratelimit.max_keys`
pub fn max_keys() -> usize {
    MAX_KEYS.get().try_into().unwrap_or(0)
}

/// `ratelimit.partitions`
pub fn partitions() -> usize {
    PARTITIONS.get().try_into().unwrap_or(1)
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
