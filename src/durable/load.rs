//! What tables say of a key, brought into its copy.

use pgrx::pg_sys;
use ratelimit_core::table::{Full, Request};
use ratelimit_core::{Now, Stored};

use super::tables::{LedgerRow, Name, Table};
use crate::catalog::{DefinedRule, Id};
use crate::shmem::Header;

/// Fills the copy of a key, unless somebody else is quicker.
pub fn load(
    header: &'static Header,
    request: &Request<'_>,
    rule: &DefinedRule,
    digest: Id,
) -> Result<(), Full> {
    let table = header.table();
    let now = header.clock.now();
    let Some(ticket) = table.claim(request, header.ticket(), now)? else {
        return Ok(());
    };
    let stored = read(rule, &digest, now);
    table.fill(request, ticket, stored.state(), header.clock.now())
}

/// What a key has used, as a state for our time lines.
fn read(rule: &DefinedRule, digest: &Id, now: Now) -> Stored {
    let lock = pg_sys::AccessShareLock;
    // Folding takes rows out of a ledger under a lock that conflicts with these: so all is read as of one moment.
    let ledgers = [
        Table::open(rule.schema, Name::Ledger(0), lock),
        Table::open(rule.schema, Name::Ledger(1), lock),
    ];
    let counts = Table::open(rule.schema, Name::Counts, lock);
    let mut stored = None;
    if let Some(counts) = &counts {
        counts.counts(Some(digest), |row| {
            stored = Stored::decode(&rule.rule, &row.state);
            false
        });
    }
    let mut rows: Vec<LedgerRow> = Vec::new();
    for ledger in ledgers.iter().flatten() {
        ledger.ledger(Some(digest), false, |row| {
            rows.push(row);
            true
        });
    }
    for table in ledgers.into_iter().flatten().chain(counts) {
        table.close(lock);
    }
    rows.sort_by_key(|row| row.at);

    let mut stored = stored.unwrap_or_else(|| Stored::new(&rule.rule));
    // Tables know the wall's time. What comes from the future, as after a failover, has just happened.
    let latest = rows.last().map_or(stored.at(), |row| row.at.max(stored.at()));
    let ahead = now.wall.saturating_sub(now.steady);
    let late = latest.saturating_sub(now.wall).max(0);
    stored.shift(-ahead - late);
    for row in rows {
        let wall = row.at.min(now.wall);
        stored.apply(&rule.rule, Now { wall, steady: row.at - ahead - late }, row.event);
    }
    stored
}
