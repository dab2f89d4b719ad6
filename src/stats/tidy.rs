//! Giving the places of limiters that are gone to others.

use std::collections::HashSet;

use ratelimit_core::stats::{LimiterId, Place};
use rustc_hash::FxBuildHasher;

use crate::shmem::{self, Header, LIMITERS};

/// Forgets what was counted of limiters of this database that are not among the `live` ones. One that was created in a transaction
/// which is still open loses its place, and gets another when that ends.
pub fn tidy(header: &Header, database: u32, live: impl FnOnce() -> Vec<LimiterId>) {
    if !shmem::is_shared(header) || !has(header, database) {
        return;
    }
    let live = live();
    let live: HashSet<&LimiterId, FxBuildHasher> = live.iter().collect();
    free(header, |of, id| of == database && !live.contains(id));
}

/// Forgets what was counted in databases that are not there any more.
pub fn tidy_databases(header: &Header, is_there: impl Fn(u32) -> bool) {
    let mut databases = HashSet::with_capacity_and_hasher(LIMITERS, FxBuildHasher);
    header.totals(|totals| databases.extend(totals.iter().map(|(_, _, total)| total.database())));
    databases.retain(|database| !is_there(*database));
    if !databases.is_empty() {
        free(header, |database, _| databases.contains(&database));
    }
}

/// Whether anything is counted in a database.
fn has(header: &Header, database: u32) -> bool {
    header.totals(|totals| totals.iter().any(|(_, _, total)| total.database() == database))
}

/// First the places, then the keys: what a session brings in between finds that its limiter is gone.
fn free(header: &Header, goes: impl Fn(u32, &LimiterId) -> bool) {
    let mut freed = [false; LIMITERS];
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
}
