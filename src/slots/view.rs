//! Who holds what: for `rl_slots`.

use ratelimit_core::slots::{Kind, Token, MAX_TEXT};
use ratelimit_core::Micros;

use crate::catalog::Id;
use crate::shmem::Header;

/// A slot that is taken.
#[derive(Clone, Copy)]
pub struct Shown {
    pub limiter: Id,
    text: [u8; MAX_TEXT],
    length: usize,
    pub kind: Kind,
    pub pid: i32,
    pub token: Option<Token>,
    pub since: Micros,
    pub expires: Option<Micros>,
}

impl Shown {
    /// The key, as much of it as is kept.
    pub fn key(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

/// All slots of a database, as they are now.
pub fn all(header: &'static Header, database: u32) -> Vec<Shown> {
    let now = header.clock.now().steady;
    // Under the lock there is nothing to allocate.
    let mut shown = Vec::with_capacity(header.max_slots());
    header.with_slots(|slots| {
        let lives = |expires: Option<Micros>| expires.is_none_or(|expires| expires > now);
        for held in slots.iter().filter(|held| held.database == database && lives(held.expires)) {
            let length = held.text.len().min(MAX_TEXT);
            let mut text = [0; MAX_TEXT];
            text[..length].copy_from_slice(&held.text[..length]);
            if shown.len() < shown.capacity() {
                shown.push(Shown {
                    limiter: held.limiter,
                    text,
                    length,
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
