//! What tables say of a key, brought into its copy.

use pgrx::pg_sys;
use ratelimit_core::table::{Claim, Full, Request};
use ratelimit_core::{Now, Stored};

use super::lock;
use super::tables::{LedgerRow, Name, Table};
use crate::catalog::{DefinedRule, Id};
use crate::error::Result;
use crate::shmem::Header;

/// Fills the copy of a key, unless somebody else is quicker; waits where it is being reset. The inner error says that there is no room for it.
pub fn load(
    header: &'static Header,
    request: &Request<'_>,
    rule: &DefinedRule,
    digest: Id,
) -> Result<std::result::Result<(), Full>> {
    let table = header.table();
    let now = header.clock.now();
    let ticket = match table.claim(request, header.ticket(), now) {
        Ok(Claim::Fill(ticket)) => ticket,
        Ok(Claim::Filled) => return Ok(Ok(())),
        Ok(Claim::Frozen) => {
            lock::wait_for(digest);
            return Ok(Ok(()));
        }
        Err(full) => return Ok(Err(full)),
    };
    let stored = read(rule, &digest, now)?;
    Ok(table.fill(request, ticket, stored.state(), header.clock.now()))
}

/// What a key has used, as a state for our time lines.
fn read(rule: &DefinedRule, digest: &Id, now: Now) -> Result<Stored> {
    let lock = pg_sys::AccessShareLock;
    let open = |name| Table::open(rule.schema, name, lock);
    // Folding takes rows out of a ledger under a lock that conflicts with these: so all is read as of one moment.
    let ledgers = [open(Name::Ledger(0))?, open(Name::Ledger(1))?];
    let counts = open(Name::Counts)?;
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
    let ahead = now.wall.saturating_sub(now.steady);
    stored.shift(-ahead - stored.at().saturating_sub(now.wall).max(0));
    for row in rows {
        let wall = row.at.max(stored.at()).min(now.wall);
        stored.apply(&rule.rule, Now { wall, steady: wall - ahead }, row.event);
    }
    Ok(stored)
}
