//! Bans of durable limiters: rows of `rl_durable_bans`, written as the extension's owner.

use std::ffi::{c_char, CString};

use pgrx::pg_sys::{self, Datum};
use pgrx::prelude::Spi;
use ratelimit_core::Micros;

use super::{Sentence, TABLE};
use crate::catalog::{self, Definition, Extension};
use crate::datum::EPOCHS;
use crate::error::{Error, Result};
use crate::house;
use crate::shmem::Header;

/// Bans a key, in place of an earlier ban of it. Waits for others who are at it.
pub fn write(
    header: &'static Header,
    limiter: &Definition,
    text: &[u8],
    sentence: Sentence<'_>,
) -> Result<()> {
    const COMMAND: &str = "INSERT INTO {}.rl_durable_bans (limiter, key, reason, automatic, since, expires_at) \
         VALUES ($1, $2, $3, false, $4, $5) ON CONFLICT ON CONSTRAINT rl_durable_bans_pkey DO UPDATE SET \
         reason = excluded.reason, automatic = excluded.automatic, since = excluded.since, expires_at = excluded.expires_at";
    let now = header.clock.stopped().wall - EPOCHS;
    let ends = sentence.duration.map(|duration| Datum::from(now.saturating_add(duration)));
    run(
        COMMAND,
        &[
            (Some(crate::datum::text(limiter.bytes())), pg_sys::TEXTOID),
            (Some(crate::datum::text(text)), pg_sys::TEXTOID),
            (sentence.reason.map(crate::datum::text), pg_sys::TEXTOID),
            (Some(Datum::from(now)), pg_sys::TIMESTAMPTZOID),
            (ends, pg_sys::TIMESTAMPTZOID),
        ],
    )
    .map(|_| ())
}

/// Bans a key that was refused too often, unless it is banned, or somebody else is at its ban or its limiter; says whether it did. It
/// does not fail, nor wait for more than a millisecond: that would be the answer to a call that has just been decided.
pub fn write_unless_banned(
    header: &'static Header,
    limiter: &Definition,
    text: &[u8],
    duration: Option<Micros>,
) -> Result<bool> {
    const COMMAND: &str = "SELECT WHERE {}._rl_ban_denied($1, $2, $3, $4)";
    let now = header.clock.stopped().wall - EPOCHS;
    let Some(tables) = &limiter.lists.tables else { return Ok(false) };
    // Most of those in whose way it would be are seen here.
    if catalog::coming_ban_of(tables, limiter.bytes(), text).is_some_and(|ends| ends > now) {
        return Ok(false);
    }
    let ends = duration.map(|duration| Datum::from(now.saturating_add(duration)));
    let rows = run(
        COMMAND,
        &[
            (Some(crate::datum::text(limiter.bytes())), pg_sys::TEXTOID),
            (Some(crate::datum::text(text)), pg_sys::TEXTOID),
            (Some(Datum::from(now)), pg_sys::TIMESTAMPTZOID),
            (ends, pg_sys::TIMESTAMPTZOID),
        ],
    )?;
    Ok(rows > 0)
}

/// Ends the ban of a key; says whether there was one.
pub fn delete(header: &'static Header, limiter: &Definition, text: &[u8]) -> Result<bool> {
    const COMMAND: &str = "DELETE FROM {}.rl_durable_bans WHERE limiter OPERATOR(pg_catalog.=) $1 \
         AND key OPERATOR(pg_catalog.=) $2 AND (expires_at IS NULL OR expires_at OPERATOR(pg_catalog.>) $3)";
    let rows = run(
        COMMAND,
        &[
            (Some(crate::datum::text(limiter.bytes())), pg_sys::TEXTOID),
            (Some(crate::datum::text(text)), pg_sys::TEXTOID),
            (Some(Datum::from(header.clock.stopped().wall - EPOCHS)), pg_sys::TIMESTAMPTZOID),
        ],
    )?;
    Ok(rows > 0)
}

/// Removes at most so many bans of durable limiters that have ended; says how many.
pub fn purge(header: &'static Header, extension: &Extension, most: usize) -> Result<usize> {
    const COMMAND: &str = "DELETE FROM {}.rl_durable_bans WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY(\
         SELECT ctid FROM {}.rl_durable_bans WHERE expires_at OPERATOR(pg_catalog.<=) $1 LIMIT $2 FOR UPDATE SKIP LOCKED))";
    if !extension.has_table(TABLE) {
        return Ok(0);
    }
    let rows = run(
        COMMAND,
        &[
            (Some(Datum::from(header.clock.stopped().wall - EPOCHS)), pg_sys::TIMESTAMPTZOID),
            (Some(Datum::from(i64::try_from(most).unwrap_or(i64::MAX))), pg_sys::INT8OID),
        ],
    )?;
    Ok(usize::try_from(rows).unwrap_or(usize::MAX))
}

/// Runs a command on the table, as the extension's owner; says how many rows it wrote or showed. It sees what is there by now, whatever the
/// transaction's snapshot: calls obey that.
fn run(command: &str, arguments: &[(Option<Datum>, pg_sys::Oid)]) -> Result<u64> {
    let missing = || Error::foreign_table(&TABLE.to_string_lossy());
    let extension = Extension::find().ok_or_else(missing)?;
    extension.table(TABLE)?;
    let parts: Vec<_> = command.split("{}").map(str::as_bytes).collect();
    let command = CString::new(parts.join(extension.quoted_schema())).unwrap_or_default();
    let mut types: Vec<_> = arguments.iter().map(|(_, oid)| *oid).collect();
    let mut values: Vec<_> =
        arguments.iter().map(|(datum, _)| datum.unwrap_or(Datum::null())).collect();
    let null = |(datum, _): &(Option<Datum>, _)| if datum.is_some() { b' ' } else { b'n' };
    let nulls: Vec<_> =
        arguments.iter().map(|argument| c_char::from_ne_bytes([null(argument)])).collect();
    house::as_owner(&extension, || {
        Spi::connect_mut(|_| {
            // SAFETY: connected; the callers give each argument the type that it has. The plan and the snapshot go with the connection.
            let (code, rows) = unsafe {
                let count = types.len() as i32;
                let plan = pg_sys::SPI_prepare(command.as_ptr(), count, types.as_mut_ptr());
                let latest = pg_sys::GetLatestSnapshot();
                let (values, nulls, none) =
                    (values.as_mut_ptr(), nulls.as_ptr(), std::ptr::null_mut());
                let code =
                    pg_sys::SPI_execute_snapshot(plan, values, nulls, latest, none, false, true, 0);
                (code, pg_sys::SPI_processed)
            };
            Spi::check_status(code).map(|_| rows)
        })
    })
    .map_err(|error| Error::internal(&error.to_string()))
}
