//! Bans: keys that a limiter refuses until the ban ends, by hand or because they were refused too often.
//!
//! Those of memory limiters are in shared memory: they act at once, and stay whatever becomes of the transaction. Those of durable limiters
//! are rows, and come and go with the transaction.

mod open;
mod rows;

use std::ffi::CStr;

use pgrx::pg_sys;
use ratelimit_core::table::{Ban, Key, MAX_BAN_TEXT};
use ratelimit_core::{Micros, Operation};

pub use open::{forget_denials, install};
pub use rows::purge;

use crate::backend;
use crate::catalog::{Definition, Stake};
use crate::encoding;
use crate::error::{Error, Result};
use crate::shmem::Header;

/// The bans of durable limiters.
pub const TABLE: &CStr = c"rl_durable_bans";

/// A ban that is to be.
#[derive(Clone, Copy)]
pub struct Sentence<'a> {
    /// For how long; `None` for ever.
    pub duration: Option<Micros>,
    pub reason: Option<&'a [u8]>,
}

/// Bans a key, in place of an earlier ban of it. After it counting denials starts afresh.
pub fn ban(
    header: &'static Header,
    limiter: &Definition,
    text: &[u8],
    sentence: Sentence<'_>,
) -> Result<()> {
    if limiter.stake() == Stake::Durable {
        rows::write(header, limiter, text, sentence)?;
        open::add(header, limiter.stats(), limiter.key(text));
        return Ok(());
    }
    let now = header.clock.now().steady;
    let (key, ban) = (limiter.key(text), in_memory(limiter, text, sentence, false, now));
    header.table().ban(key, &ban, now).map_err(|_| Error::full())?;
    tell(header, limiter, key);
    limiter.stats().banned();
    forget_denials(header, key);
    Ok(())
}

/// Says that a key has just been banned in shared memory.
fn tell(header: &Header, limiter: &Definition, key: Key) {
    header.ban_filter.add(key);
    header.lists.set_bans(limiter.lists.place);
}

/// Lets calls for keys whose bans have ended be as fast as before, when there have been many.
pub fn renew_filter(header: &'static Header) {
    if header.ban_filter.is_worn() {
        let now = header.clock.read().steady;
        header.ban_filter.renew(|show| header.table().banned_keys(now, show));
    }
}

fn in_memory<'a>(
    limiter: &Definition,
    text: &'a [u8],
    sentence: Sentence<'a>,
    automatic: bool,
    now: Micros,
) -> Ban<'a> {
    Ban {
        database: backend::database(),
        limiter: limiter.id(),
        tag: limiter.tag(),
        text: encoding::clip(text, MAX_BAN_TEXT),
        reason: sentence.reason.map(|reason| encoding::clip(reason, MAX_BAN_TEXT)),
        automatic,
        since: now,
        until: sentence.duration.map(|duration| now.saturating_add(duration)),
    }
}

/// Ends the ban of a key; says whether there was one.
pub fn unban(header: &'static Header, limiter: &Definition, text: &[u8]) -> Result<bool> {
    if limiter.stake() == Stake::Durable {
        return rows::delete(header, limiter, text);
    }
    Ok(header.table().unban(limiter.key(text), header.clock.now().steady))
}

/// Counts that a key was refused, and bans it when that was once too often. A ban that somebody has made meanwhile stays as it is. Where the
/// refusal `raises` an error no row is written for nothing.
#[cold]
pub fn denied(
    header: &'static Header,
    limiter: &Definition,
    text: &[u8],
    key: Key,
    raises: bool,
) -> Result<()> {
    let Some(policy) = limiter.bans() else { return Ok(()) };
    let (table, table_key, now) = (header.table(), limiter.table_key(key), header.clock.now());
    // As the call began it was not; but calls may wait.
    if table.banned(table_key, now.steady).is_some() {
        return Ok(());
    }
    open::begin_afresh(table_key);
    let request = limiter.denial(policy, key);
    // Where there is no room to count, there is none for a ban.
    let Ok(counted) = table.decide(&[request], now, Operation::Take, None) else { return Ok(()) };
    // SAFETY: reads a variable. Nothing can be written while workers run: then the next denial will be the one.
    let can_write = || !raises && !unsafe { pg_sys::IsInParallelMode() };
    if counted.allowed && counted.remaining > 0 {
        return Ok(());
    }
    if limiter.stake() == Stake::Durable {
        if can_write() && rows::write_unless_banned(header, limiter, text, policy.duration)? {
            open::add(header, limiter.stats(), table_key);
        }
        return Ok(());
    }
    let sentence = Sentence { duration: policy.duration, reason: None };
    let ban = in_memory(limiter, text, sentence, true, now.steady);
    // If somebody else was quicker it is banned, too. Where there is no room the next denial tries again.
    let banned = table.ban_anew(table_key, &ban, now.steady);
    if banned.is_ok() {
        tell(header, limiter, table_key);
    }
    if banned == Ok(true) {
        limiter.stats().banned();
        forget_denials(header, table_key);
    }
    Ok(())
}

/// Shows the bans that shared memory holds for this database.
pub fn all(header: &'static Header, mut show: impl FnMut(&Ban<'_>)) {
    let database = backend::database();
    header.table().bans(header.clock.now().steady, |ban| {
        if ban.database == database {
            show(ban);
        }
    });
}
