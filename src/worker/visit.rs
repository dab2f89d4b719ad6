//! A worker: one visit to one database.

use std::ffi::CStr;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, Datum, Oid, PgTryBuilder};

use super::board::Progress;
use super::{handle_signals, show, transaction};
use crate::catalog::Extension;
use crate::config;
use crate::durable;
use crate::encoding;
use crate::error::{Report, Result};
use crate::house::{self, Fold};
use crate::shmem::{self, Header};
use crate::stats;

/// How long a visit takes at most, but for the batch that was begun.
const LONGEST: Duration = Duration::from_secs(1);

/// What the settings of the server or of the database could spoil. A commit must not wait for a standby: a shutdown would wait with it.
const SETTINGS: &[(&CStr, &CStr)] = &[
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"synchronous_commit", c"off"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_deferrable", c"off"),
    (c"transaction_timeout", c"0"),
];

/// How long to wait for a table that somebody has locked. They may want what we have locked: so less than they wait before they look
/// for a deadlock.
const PATIENCE: (&CStr, &CStr) = (c"lock_timeout", c"500ms");

/// The process of a worker.
#[no_mangle]
pub unsafe extern "C-unwind" fn _rl_visit(database: Datum) {
    let database = Oid::from(database.value() as u32);
    let mut report = None;
    // SAFETY: PostgreSQL calls this in a new process, and catches what is raised here.
    unsafe {
        pg_sys::submodules::panic::pgrx_extern_c_guard(|| {
            report = run(database).err().map(Report::from);
        });
        if let Some(report) = report {
            crate::error::raise(report);
        }
    }
}

fn run(database: Oid) -> Result<()> {
    handle_signals();
    SETTINGS.iter().for_each(set);
    // SAFETY: called once in a background worker. Where the database has just been dropped, this ends the process.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(database, Oid::INVALID, 0) };
    set(&PATIENCE);
    let Some(header) = shmem::header() else { return Ok(()) };
    let name = transaction(|| Ok(name(database)))?;
    let visited = PgTryBuilder::new(AssertUnwindSafe(|| visit(header, database)))
        .catch_others(|cause| {
            record(database, &name, message(&cause));
            cause.rethrow()
        })
        .execute();
    visited.inspect_err(|error| record(database, &name, error.message()))
}

/// Keeps an error for `rl_info`. PostgreSQL writes it to the log.
fn record(database: Oid, name: &str, error: &str) {
    let error = format!("database \"{name}\": {error}");
    if let Some(header) = shmem::header() {
        header.board.progress(Progress::Failed);
        let error = encoding::portable(&error);
        header.news(|news| news.fail(database, &error));
    }
}

/// Sets what is there in this version, above what the database's and the server's settings say.
fn set((name, value): &(&CStr, &CStr)) {
    use pg_sys::{GucContext::PGC_SUSET, GucSource::PGC_S_OVERRIDE};
    // SAFETY: terminated strings that live for ever.
    unsafe {
        if !pg_sys::GetConfigOption(name.as_ptr(), true, false).is_null() {
            pg_sys::SetConfigOption(name.as_ptr(), value.as_ptr(), PGC_SUSET, PGC_S_OVERRIDE);
        }
    }
}

fn name(database: Oid) -> String {
    // SAFETY: a catalog look-up; what it answers is terminated and stays until the transaction ends.
    unsafe {
        let name = pg_sys::get_database_name(database);
        if name.is_null() {
            return database.to_u32().to_string();
        }
        encoding::decode(CStr::from_ptr(name).to_bytes()).into_owned()
    }
}

fn message(cause: &CaughtError) -> &str {
    match cause {
        CaughtError::PostgresError(error)
        | CaughtError::ErrorReport(error)
        | CaughtError::RustPanic { ereport: error, .. } => error.message(),
    }
}

/// Does a pass after the other, each in a transaction of its own, until there is nothing more to do or it is time to leave.
fn visit(header: &'static Header, database: Oid) -> Result<()> {
    let board = &header.board;
    let batch = config::purge_batch_size();
    let start = Instant::now();
    show(Some(c"removing expired state"));
    loop {
        pgrx::check_for_interrupts!();
        let rows = transaction(|| {
            let Some(extension) = Extension::find() else {
                board.progress(Progress::Absent);
                stats::tidy(header, database.to_u32(), Vec::new);
                return Ok(Some(0));
            };
            board.progress(Progress::Present);
            if !extension.hold() {
                return Ok(None);
            }
            let rows = house::as_owner(&extension, || house::pass(&extension, batch, Fold::Older))?;
            if durable::is_empty(extension.schema())? {
                board.progress(Progress::Idle);
            }
            Ok(Some(rows))
        })?;
        // Who is dropping the extension is not to wait for us. There will be another round.
        let Some(rows) = rows else { return Ok(()) };
        board.add_rows(rows);
        header.news(|news| news.succeed(database));
        if rows < batch {
            return Ok(());
        }
        if start.elapsed() > LONGEST {
            board.progress(Progress::More);
            return Ok(());
        }
    }
}
