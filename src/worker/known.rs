//! Which databases have something to remove, and when to go there.

use std::collections::{HashMap, HashSet};

use pgrx::pg_sys::Oid;
use ratelimit_core::{Micros, HOUR};

use super::board::Progress;

/// A database where visits fail is left alone for so long at most.
const LONGEST: Micros = HOUR;

/// What the launcher knows of databases.
#[derive(Default)]
pub struct Known {
    /// Those with something to remove, as far as we know.
    wanted: HashSet<Oid>,
    failing: HashMap<Oid, Failure>,
}

/// The last visit failed.
struct Failure {
    /// When to go there again.
    again: Micros,
    /// How long after the last visit that is.
    wait: Micros,
}

impl Known {
    /// Something was written there.
    pub fn add(&mut self, databases: impl Iterator<Item = Oid>) {
        self.wanted.extend(databases);
    }

    /// Forgets databases that are gone.
    pub fn keep(&mut self, databases: &[Oid]) {
        self.wanted.retain(|database| databases.contains(database));
        self.failing.retain(|database, _| databases.contains(database));
    }

    /// Takes note of a visit. The time to the next one after a failure doubles from `interval` on.
    pub fn visited(&mut self, database: Oid, progress: Progress, now: Micros, interval: Micros) {
        match progress {
            Progress::None | Progress::Failed => {
                let before = self.failing.get(&database).map_or(0, |failure| failure.wait);
                let wait = before.saturating_mul(2).max(interval).min(LONGEST);
                self.wanted.insert(database);
                self.failing.insert(database, Failure { again: now.saturating_add(wait), wait });
                return;
            }
            Progress::Absent | Progress::Idle => self.wanted.remove(&database),
            Progress::Present | Progress::More => self.wanted.insert(database),
        };
        // What was wrong here may have been wrong elsewhere; and `rl_info` has only one error to show, which is gone now.
        if self.failing.remove(&database).is_some() {
            self.failing.values_mut().for_each(|failure| failure.again = now);
        }
    }

    /// Where to go, of all that are `present` or of those with something to remove.
    pub fn due(&self, present: Option<Vec<Oid>>, now: Micros) -> Vec<Oid> {
        let mut due = present.unwrap_or_else(|| self.wanted.iter().copied().collect());
        due.retain(|database| {
            self.failing.get(database).is_none_or(|failure| failure.again <= now)
        });
        due
    }
}
