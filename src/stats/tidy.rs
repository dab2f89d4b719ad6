//! Giving the places of limiters that are gone to others, and the room of their bans.
//!
//! Who bans a key has a place, if there was one: so bans are only looked for where a place is freed, or all are taken.

use std::collections::HashSet;

use ratelimit_core::stats::{LimiterId, Place};
use ratelimit_core::table::Ban;
use ratelimit_core::Micros;
use rustc_hash::FxBuildHasher;

use crate::catalog;
use crate::shmem::{self, Header, LIMITERS};

/// Forgets what was counted of limiters of this database that are not among the `live` ones, and ends their bans.
pub fn tidy(header: &'static Header, database: u32, live: impl FnOnce() -> Vec<LimiterId>) {
    if !shmem::is_shared(header) || !has(header, database) {
        return;
    }
    // A limiter that is created from here on may not be among the live ones, nor are its bans older.
    let start = header.clock.read().steady;
    let live = live();
    let live: HashSet<&LimiterId, FxBuildHasher> = live.iter().collect();
    free(header, start, |of, id| of == database && !live.contains(id));
}

/// Forgets what was counted in databases that are not there any more, and ends bans of their limiters.
pub fn tidy_databases(header: &'static Header, is_there: impl Fn(u32) -> bool) {
    let mut databases = HashSet::with_capacity_and_hasher(LIMITERS, FxBuildHasher);
    header.totals(|totals| databases.extend(totals.iter().map(|(_, _, total)| total.database())));
    databases.retain(|database| !is_there(*database));
    if !databases.is_empty() {
        let now = header.clock.read().steady;
        free(header, now, |database, _| databases.contains(&database));
    }
}

/// Whether anything is counted in a database.
fn has(header: &Header, database: u32) -> bool {
    header.totals(|totals| totals.iter().any(|(_, _, total)| total.database() == database))
}

/// First the places, then the keys: what a session brings in between finds that its limiter is gone.
fn free(header: &'static Header, start: Micros, goes: impl Fn(u32, &LimiterId) -> bool) {
    let mut freed = [false; LIMITERS];
    let was_full = header.totals(|totals| totals.is_full());
    header.totals_alone(|totals| {
        let gone = totals.iter().filter(|(_, id, total)| goes(total.database(), id));
        for (place, _, _) in gone {
            freed[place as usize] = true;
            totals.free(place);
        }
    });
    if freed.contains(&true) {
        header.denied_keys(|keys| keys.forget(|place: Place| freed[place as usize]));
    }
    // A limiter that this transaction has dropped may come back.
    if (was_full || freed.contains(&true)) && !catalog::has_changed() {
        let is_left = |ban: &Ban<'_>| ban.since < start && goes(ban.database, &ban.limiter);
        header.table().end_bans(start, is_left);
    }
}
