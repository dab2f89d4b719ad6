//! PostgreSQL's time zones as calendars.
//!
//! A zone's changes are read once in each process: windows are found while a key is locked, when PostgreSQL must not be called.

use std::ffi::CString;
use std::rc::Rc;

use pgrx::pg_sys;
use ratelimit_core::calendar::Utc;
use ratelimit_core::{Calendar, Micros, DAY, SECOND};

use crate::backend::BackendCell;
use crate::error::{Error, Result};

/// A moment in seconds from 1970-01-01 UTC, and how many seconds the zone is ahead of UTC from then on.
type Change = (i64, i64);

/// A time zone's changes, in order.
struct Zone(Vec<Change>);

/// Changes are known from 1900 to 2200; before and after, the zone stays as it is there.
const FIRST: i64 = -2_208_988_800;
const LAST: i64 = 7_258_118_400;

/// The zones that this process has read, by their names.
static ZONES: BackendCell<Vec<(String, Rc<Zone>)>> = BackendCell::new(Vec::new());

/// Whether the name is that of UTC, which rules have that are given no time zone.
pub fn is_utc(name: &str) -> bool {
    name.eq_ignore_ascii_case("UTC")
}

/// The calendar of a time zone.
pub fn calendar(name: &str) -> Result<Rc<dyn Calendar>> {
    if is_utc(name) {
        return Ok(Rc::new(Utc));
    }
    let known = ZONES
        .with(|zones| zones.iter().find(|(known, _)| known == name).map(|(_, zone)| zone.clone()));
    if let Some(zone) = known {
        return Ok(zone);
    }
    let zone = Rc::new(read(name)?);
    ZONES.with(|zones| {
        // PostgreSQL knows zones without end, like UTC+1:23.
        zones.truncate(99);
        zones.push((name.to_owned(), zone.clone()));
    });
    Ok(zone)
}

fn read(name: &str) -> Result<Zone> {
    let unknown = || Error::time_zone(name);
    let c_name = CString::new(name).map_err(|_| unknown())?;
    // SAFETY: a terminated string; pg_tzset answers null for a name that it does not know, and keeps a zone for good.
    let zone = unsafe { pg_sys::pg_tzset(c_name.as_ptr()) };
    if zone.is_null() {
        return Err(unknown());
    }
    let mut changes: Vec<Change> = Vec::new();
    let mut time = FIRST;
    while time < LAST {
        let (mut before, mut after, mut next) = (0, 0, 0);
        let (mut dst_before, mut dst_after) = (0, 0);
        // SAFETY: all pointers are to variables of ours; the zone came from pg_tzset.
        let found = unsafe {
            pg_sys::pg_next_dst_boundary(
                &time,
                &mut before,
                &mut dst_before,
                &mut next,
                &mut after,
                &mut dst_after,
                zone,
            )
        };
        if changes.is_empty() {
            changes.push((i64::MIN, before));
        }
        if found != 1 || next <= time {
            break;
        }
        changes.push((next, after));
        time = next;
    }
    Ok(Zone(changes))
}

impl Zone {
    /// How far the zone is ahead of UTC at a moment, both in seconds.
    fn offset(&self, utc: i64) -> i64 {
        let following = self.0.partition_point(|(time, _)| *time <= utc);
        following.checked_sub(1).and_then(|n| self.0.get(n)).map_or(0, |(_, offset)| *offset)
    }

    /// The first moment after `utc`, in seconds, at which the zone changes.
    fn next_change(&self, utc: i64) -> Option<i64> {
        let following = self.0.partition_point(|(time, _)| *time <= utc);
        self.0.get(following).map(|(time, _)| *time)
    }
}

/// Called while keys are locked: nothing here may allocate or call PostgreSQL.
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
