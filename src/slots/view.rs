//! Who holds what: for `rl_slots`.

use ratelimit_core::slots::{Kind, Text, Token};
use ratelimit_core::Micros;

use crate::catalog::Id;
use crate::shmem::Header;

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

/// All slots of this database, as they are now.
pub fn all(header: &'static Header) -> Vec<Shown> {
    let database = super::database();
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
