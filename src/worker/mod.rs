//! The processes that keep house: a launcher that lives as long as the server, and workers that it sends into one database after
//! the other.
//!
//! A process that is connected to a database is in the way of DROP DATABASE and CREATE DATABASE ... TEMPLATE. So the launcher is connected
//! to none, and a worker leaves after a second at the latest.

mod board;
mod databases;
mod known;
mod launcher;
mod round;
mod visit;

use std::ffi::{c_int, CStr};
use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::pg_sys;

pub use board::{Board, News};

use crate::compat;
use crate::error::Result;

/// Registers the launcher, if the postmaster is loading us.
pub fn install() {
    // SAFETY: a plain variable. pg_upgrade's server must not change anything by itself.
    if !crate::config::preloading() || unsafe { pg_sys::IsBinaryUpgrade } {
        return;
    }
    // Also on a standby, where shared memory is swept.
    builder("ratelimit launcher", "ratelimit launcher", "_rl_launcher")
        .set_start_time(BgWorkerStartTime::ConsistentState)
        .set_restart_time(Some(Duration::from_secs(5)))
        .load();
}

/// A process of ours: what the log calls it, what `pg_stat_activity` calls its kind, and what it runs.
fn builder(name: &str, kind: &str, function: &str) -> BackgroundWorkerBuilder {
    BackgroundWorkerBuilder::new(name)
        .set_type(kind)
        .set_library("ratelimit")
        .set_function(function)
        .enable_spi_access()
}

extern "C-unwind" {
    // The addresses of PostgreSQL's own handlers: those in pg_sys are of Rust functions that call them.
    fn die(signal: c_int);
    fn SignalHandlerForConfigReload(signal: c_int);
}

/// Says which signals a process of ours obeys: at SIGTERM it ends at the next look for interrupts, wherever that is.
fn handle_signals() {
    // SAFETY: these are PostgreSQL's own handlers, set before it lets signals in.
    unsafe {
        compat::on_signal(libc::SIGTERM, die);
        compat::on_signal(libc::SIGHUP, SignalHandlerForConfigReload);
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// Runs `f` in a transaction. An error leaves it open: the process is going to end with it.
fn transaction<R>(f: impl FnOnce() -> Result<R>) -> Result<R> {
    // SAFETY: a process of ours is connected, and in no transaction, when it calls this.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let answer = f()?;
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
        Ok(answer)
    }
}

/// Shows in `pg_stat_activity` what this process begins to do; `None` when it is done.
fn show(activity: Option<&CStr>) {
    use pg_sys::BackendState::{STATE_IDLE, STATE_RUNNING};
    // SAFETY: copies a terminated string.
    unsafe {
        match activity {
            Some(text) => pg_sys::pgstat_report_activity(STATE_RUNNING, text.as_ptr()),
            None => pg_sys::pgstat_report_activity(STATE_IDLE, std::ptr::null()),
        }
    }
}
