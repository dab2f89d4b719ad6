//! PostgreSQL's time zones as calendars.

use std::ffi::CString;
use std::rc::Rc;

use pgrx::pg_sys;
use ratelimit_core::calendar::Utc;
use ratelimit_core::{Calendar, Micros, DAY, SECOND};

use crate::error::{Error, Result};

/// A time zone of the server's database; the server keeps it for the life of the process.
struct Zone(*mut pg_sys::pg_tz);

/// The calendar of a time zone.
pub fn calendar(name: &str) -> Result<Rc<dyn Calendar>> {
    if name.eq_ignore_ascii_case("UTC") {
        return Ok(Rc::new(Utc));
    }
    let unknown = || Error::time_zone(name);
    // Longer names than this are refused by pg_tzset itself, with a buffer of its own.
    let c_name = CString::new(name).map_err(|_| unknown())?;
    // SAFETY: a terminated string; pg_tzset answers null for a name that it does not know.
    let zone = unsafe { pg_sys::pg_tzset(c_name.as_ptr()) };
    if zone.is_null() {
        return Err(unknown());
    }
    Ok(Rc::new(Zone(zone)))
}

impl Zone {
    /// How far the zone is ahead of UTC at a moment, both in seconds.
    fn offset(&self, utc: i64) -> i64 {
        // SAFETY: the zone came from pg_tzset; the answer points to a variable of the server's that is read at once.
        let local = unsafe { pg_sys::pg_localtime(&utc, self.0).as_ref() };
        local.map_or(0, |local| local.tm_gmtoff)
    }

    /// The first moment after `utc`, in seconds, at which the zone's offset changes.
    fn next_change(&self, utc: i64) -> Option<i64> {
        let (mut before_offset, mut before_dst, mut change) = (0, 0, 0);
        let (mut after_offset, mut after_dst) = (0, 0);
        // SAFETY: all pointers are to variables of ours; the zone came from pg_tzset.
        let found = unsafe {
            pg_sys::pg_next_dst_boundary(
                &utc,
                &mut before_offset,
                &mut before_dst,
                &mut change,
                &mut after_offset,
                &mut after_dst,
                self.0,
            )
        };
        (found == 1).then_some(change)
    }
}

impl Calendar for Zone {
    fn to_local(&self, utc: Micros) -> Micros {
        utc.saturating_add(self.offset(utc.div_euclid(SECOND)) * SECOND)
    }

    fn to_utc(&self, local: Micros) -> Micros {
        let seconds = local.div_euclid(SECOND);
        // No zone changes twice within two days, and none is a day away from UTC.
        let day = DAY / SECOND;
        let (before, after) = (self.offset(seconds - day), self.offset(seconds + day));
        let shift = |offset: i64| local.saturating_sub(offset * SECOND);
        let fits = |offset: i64| self.offset(seconds - offset) == offset;
        if fits(before) {
            return shift(before);
        }
        if fits(after) {
            return shift(after);
        }
        // The clock jumped over it.
        match self.next_change(seconds - after) {
            Some(change) => change * SECOND,
            None => shift(before),
        }
    }
}
