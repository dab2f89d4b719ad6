//! Statistics on their way to the file that outlives the server, and back.

use std::io;

use ratelimit_core::stats::{Hitter, Sighting};
use ratelimit_saved::{Entry, SavedKey, SavedTotal};

use crate::shmem::{Header, LIMITERS, SKETCHES};

/// Shows all that was counted, and all denied keys.
pub fn export(
    header: &Header,
    mut show: impl FnMut(&Entry<'_>) -> io::Result<()>,
) -> io::Result<()> {
    // Under the locks there is nothing to allocate.
    let mut totals = Vec::with_capacity(LIMITERS);
    header.totals(|shared| {
        totals.extend(shared.iter().map(|(place, limiter, total)| {
            let (database, since, counts) = (total.database(), total.since(), total.counts());
            (place, SavedTotal { database, limiter, since, counts })
        }));
    });
    for (_, total) in &totals {
        show(&Entry::Total(*total))?;
    }
    let mut sketch = Box::<ratelimit_core::stats::HeavyHitters>::default();
    for n in 0..SKETCHES {
        header.denied_keys(|keys| (*sketch).clone_from(&keys.sketches()[n]));
        for hitter in sketch.iter() {
            let owner = totals.iter().find(|(place, _)| *place == hitter.seen.owner);
            let Some((_, SavedTotal { database, limiter, .. })) = owner else { continue };
            let seen = Sighting { owner: 0, ..hitter.seen };
            let hitter = Hitter { seen, ..hitter };
            show(&Entry::Denied(SavedKey { database: *database, limiter: *limiter, hitter }))?;
        }
    }
    Ok(())
}

/// Goes on with what was counted of a limiter. There is as much room as there was.
pub fn install_total(header: &Header, total: &SavedTotal) {
    let SavedTotal { database, limiter, since, counts } = total;
    header.totals_alone(|totals| {
        if let Some(place) = totals.claim(limiter, *database, *since) {
            totals.add(place, limiter, *database, counts);
        }
    });
}

/// Goes on with a denied key of a limiter that was installed before.
pub fn install_key(header: &Header, key: &SavedKey<'_>) {
    header.denied_keys(|keys| {
        let Some(owner) = keys.totals.find(&key.limiter, key.database) else { return };
        let seen = Sighting { owner, ..key.hitter.seen };
        keys.restore(&Hitter { seen, ..key.hitter });
    });
}
