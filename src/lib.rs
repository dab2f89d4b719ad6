//! `ratelimit`: rate limits decided inside PostgreSQL. `ratelimit-core` decides; this crate connects it to the server.
//!
//! CONTRIBUTING.md follows one call through these modules.

mod api;
mod backend;
mod bans;
mod catalog;
mod clock;
mod compat;
mod config;
mod datum;
mod durable;
mod encoding;
mod error;
mod function;
mod house;
mod interval;
mod lists;
mod saved;
mod schema;
mod shmem;
mod sleep;
mod slots;
mod stats;
mod store;
mod transaction;
mod trigger;
mod worker;
mod zone;

::pgrx::pg_module_magic!(name, version);

/// Called when the library is loaded: by the postmaster where it is preloaded, else by a session.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    config::define();
    shmem::install();
    catalog::install();
    lists::install();
    transaction::install();
    slots::install();
    stats::install();
    // Called before that of statistics, as the later one is: what it counts is brought at once.
    bans::install();
    worker::install();
}
