//! Who holds what: for `rl_slots`.

use pgrx::pg_sys::Oid;
use ratelimit_core::slots::{Kind, Text, Token};
use ratelimit_core::Micros;

use crate::backend;
use crate::catalog::{self, Id};
use crate::durable::{self, Which};
use crate::error::Result;
use crate::shmem::{self, Header};

/// A slot that is taken.
#[derive(Clone, Copy)]
pub struct Shown {
    pub limiter: Id,
    pub key: Text,
    pub kind: Kind,
    pub pid: i32,
    pub token: Option<Token>,
    pub since: Micros,
    pub expires: Option<Micros>,
}

/// All slots of this database, as they are now; `function` is one of the extension's. Where no memory is shared that is leases only:
/// a lock does not say for which key it is.
pub fn all(header: &'static Header, function: Oid) -> Result<Vec<Shown>> {
    if shmem::is_shared(header) {
        durable::load_known_leases(header, function)?;
        return Ok(in_memory(header));
    }
    let rows = durable::leases(header, catalog::schema_of(function), Which::All)?;
    let shown = rows.into_iter().map(|row| Shown {
        limiter: row.limiter,
        key: row.text,
        kind: Kind::Lease,
        pid: 0,
        token: Some(row.token),
        since: row.since,
        expires: Some(row.expires),
    });
    Ok(shown.collect())
}

fn in_memory(header: &'static Header) -> Vec<Shown> {
    let database = backend::database();
    let now = header.clock.now().steady;
    // Under the lock there is nothing to allocate.
    let mut shown = Vec::with_capacity(header.max_slots());
    header.with_slots(|slots| {
        let lives = |expires: Option<Micros>| expires.is_none_or(|expires| expires > now);
        for held in slots.iter().filter(|held| held.database == database && lives(held.expires)) {
            if shown.len() < shown.capacity() {
                shown.push(Shown {
                    limiter: held.limiter,
                    key: *held.text,
                    kind: held.kind,
                    pid: held.pid,
                    token: held.token,
                    since: held.since,
                    expires: held.expires,
                });
            }
        }
    });
    shown
}
