//! Bans: keys that a limiter refuses until the ban ends, by hand or because they were refused too often.
//!
//! Those of memory limiters are in shared memory: they act at once, and stay whatever becomes of the transaction. Those of durable limiters
//! are rows, and come and go with the transaction.

use std::ffi::CString;

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::{self, Datum};
use pgrx::prelude::Spi;
use ratelimit_core::table::{Ban, Key, DENIALS, MAX_BAN_TEXT};
use ratelimit_core::{Micros, Operation};

use crate::catalog::{Definition, Extension, Stake};
use crate::datum::EPOCHS;
use crate::encoding;
use crate::error::{Error, Result};
use crate::house;
use crate::shmem::Header;

/// A ban that is to be.
#[derive(Clone, Copy, Default)]
pub struct Sentence<'a> {
    /// For how long; `None` for ever.
    pub duration: Option<Micros>,
    pub reason: Option<&'a [u8]>,
    /// Whether nobody decided it.
    pub automatic: bool,
}

/// Bans a key, in place of an earlier ban of it.
pub fn ban(
    header: &'static Header,
    limiter: &Definition,
    text: &[u8],
    sentence: Sentence<'_>,
) -> Result<()> {
    limiter.stats().banned();
    if limiter.stake() == Stake::Durable {
        return write(header, limiter, text, sentence);
    }
    let now = header.clock.now().steady;
    header.lists.mark(limiter.lists.place, limiter.list_key(text));
    let ban = in_memory(limiter, text, sentence, now);
    header.table().ban(limiter.key(text), &ban, now).map_err(|_| Error::full())
}

fn in_memory<'a>(
    limiter: &Definition,
    text: &'a [u8],
    sentence: Sentence<'a>,
    now: Micros,
) -> Ban<'a> {
    Ban {
        // SAFETY: a plain variable, set when the process connected to its database.
        database: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        limiter: limiter.id(),
        tag: limiter.tag(),
        text: encoding::clip(text, MAX_BAN_TEXT),
        reason: sentence.reason.map(|reason| encoding::clip(reason, MAX_BAN_TEXT)),
        automatic: sentence.automatic,
        since: now,
        until: sentence.duration.map(|duration| now.saturating_add(duration)),
    }
}

/// Ends the ban of a key; says whether there was one.
pub fn unban(header: &'static Header, limiter: &Definition, text: &[u8]) -> Result<bool> {
    if limiter.stake() == Stake::Durable {
        return delete(header, limiter, text);
    }
    Ok(header.table().unban(limiter.key(text), header.clock.now().steady))
}

/// Counts that a key was refused, and bans it when that was once too often. A ban that somebody has made meanwhile stays as it is.
#[cold]
pub fn denied(header: &'static Header, limiter: &Definition, text: &[u8], key: Key) -> Result<()> {
    let Some(policy) = limiter.bans() else { return Ok(()) };
    let (table, table_key, now) = (header.table(), limiter.table_key(key), header.clock.now());
    // As the call began it was not; but calls may wait.
    if table.banned(table_key, now.steady).is_some() {
        return Ok(());
    }
    let request = limiter.denial(policy, key);
    // Where there is no room to count, there is none for a ban.
    let Ok(counted) = table.decide(&[request], now, Operation::Take, None) else { return Ok(()) };
    // SAFETY: reads a variable. Nothing can be written while workers run: then the next denial will be the one.
    let can_write = || limiter.stake() != Stake::Durable || !unsafe { pg_sys::IsInParallelMode() };
    if counted.allowed && counted.remaining > 0 || !can_write() {
        return Ok(());
    }
    let sentence = Sentence { duration: policy.duration, automatic: true, ..Sentence::default() };
    if limiter.stake() == Stake::Durable {
        ban(header, limiter, text, sentence)?;
    } else {
        header.lists.mark(limiter.lists.place, key);
        let ban = in_memory(limiter, text, sentence, now.steady);
        match table.ban_anew(table_key, &ban, now.steady) {
            Ok(true) => limiter.stats().banned(),
            Ok(false) => {}
            // The next denial tries again.
            Err(_) => return Ok(()),
        }
    }
    table.reset(table_key, std::iter::once(DENIALS), now.steady);
    Ok(())
}

/// Shows the bans that shared memory holds for this database.
pub fn all(header: &'static Header, mut show: impl FnMut(&Ban<'_>)) {
    // SAFETY: a plain variable, set when the process connected to its database.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    header.table().bans(header.clock.now().steady, |ban| {
        if ban.database == database {
            show(ban);
        }
    });
}

fn write(
    header: &'static Header,
    limiter: &Definition,
    text: &[u8],
    sentence: Sentence<'_>,
) -> Result<()> {
    const COMMAND: &str = "INSERT INTO {}.rl_durable_bans (limiter, key, reason, automatic, since, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT ON CONSTRAINT rl_durable_bans_pkey DO UPDATE SET \
         reason = excluded.reason, automatic = excluded.automatic, since = excluded.since, expires_at = excluded.expires_at";
    let now = header.clock.stopped().wall - EPOCHS;
    let ends = sentence.duration.map(|duration| Datum::from(now.saturating_add(duration)));
    run(
        COMMAND,
        &[
            (Some(crate::datum::text(limiter.bytes())), pg_sys::TEXTOID),
            (Some(crate::datum::text(text)), pg_sys::TEXTOID),
            (sentence.reason.map(crate::datum::text), pg_sys::TEXTOID),
            (Some(Datum::from(sentence.automatic)), pg_sys::BOOLOID),
            (Some(Datum::from(now)), pg_sys::TIMESTAMPTZOID),
            (ends, pg_sys::TIMESTAMPTZOID),
        ],
    )
    .map(|_| ())
}

fn delete(header: &'static Header, limiter: &Definition, text: &[u8]) -> Result<bool> {
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
pub fn purge(header: &'static Header, most: usize) -> Result<usize> {
    const COMMAND: &str = "DELETE FROM {}.rl_durable_bans WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY(\
         SELECT ctid FROM {}.rl_durable_bans WHERE expires_at OPERATOR(pg_catalog.<=) $1 LIMIT $2 FOR UPDATE SKIP LOCKED))";
    let rows = run(
        COMMAND,
        &[
            (Some(Datum::from(header.clock.stopped().wall - EPOCHS)), pg_sys::TIMESTAMPTZOID),
            (Some(Datum::from(i64::try_from(most).unwrap_or(i64::MAX))), pg_sys::INT8OID),
        ],
    )?;
    Ok(usize::try_from(rows).unwrap_or(usize::MAX))
}

/// Runs a command on the table, as the extension's owner; says how many rows it wrote.
fn run(command: &str, arguments: &[(Option<Datum>, pg_sys::Oid)]) -> Result<u64> {
    let missing = || Error::foreign_table("rl_durable_bans");
    let extension = Extension::find().ok_or_else(missing)?;
    extension.table(c"rl_durable_bans")?;
    let parts: Vec<_> = command.split("{}").map(str::as_bytes).collect();
    let command = CString::new(parts.join(extension.quoted_schema())).unwrap_or_default();
    // SAFETY: the callers give each argument the type that it has.
    let argument = |(datum, oid): &(Option<Datum>, pg_sys::Oid)| unsafe {
        datum.map_or_else(|| DatumWithOid::null_oid(*oid), |datum| DatumWithOid::new(datum, *oid))
    };
    let arguments: Vec<_> = arguments.iter().map(argument).collect();
    house::as_owner(&extension, || {
        Spi::connect_mut(|client| {
            let written = client.update(&*command, None, &arguments)?;
            Ok::<_, pgrx::spi::Error>(written.len() as u64)
        })
    })
    .map_err(|error| Error::internal(&error.to_string()))
}
