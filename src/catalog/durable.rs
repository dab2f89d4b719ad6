//! The rules of all durable limiters, for house-keeping: it knows what keys have used, but not what keys they are.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::rc::Rc;

use pgrx::pg_sys::Oid;

use super::definition::{DefinedRule, Definition, Stake};
use super::scan::{self, Id, Tables};
use crate::datum::EPOCHS;
use crate::shmem::Header;

/// The rules of all durable limiters.
pub struct DurableRules {
    tables: Tables,
    /// Of limiters whose definitions make no sense any more there is only the name.
    limiters: HashMap<Id, Result<Definition, ()>>,
    /// The rules of keys with a limit of their own, by the digests of the keys: read when they are needed.
    own: OnceCell<HashMap<Id, Rc<DefinedRule>>>,
    /// What the wall says, in microseconds from 2000: an override that has ended is none.
    now: i64,
}

impl DurableRules {
    /// The rule of a limiter at a position, for the key with this digest.
    pub fn get(&self, limiter: &Id, position: i32, digest: &Id) -> Option<&Rc<DefinedRule>> {
        let limiter = self.limiters.get(limiter)?.as_ref().ok()?;
        let at = |rule: &&Rc<DefinedRule>| rule.position.cast_signed() == position;
        let rule = limiter.rules().iter().find(at)?;
        Some(self.own.get_or_init(|| self.read_own()).get(digest).unwrap_or(rule))
    }

    /// Whether there is such a limiter.
    pub fn knows(&self, limiter: &Id) -> bool {
        self.limiters.contains_key(limiter)
    }

    /// Whether the limiter cannot be used, as when its time zone was renamed.
    pub fn is_broken(&self, limiter: &Id) -> bool {
        self.limiters.get(limiter).is_some_and(Result::is_err)
    }

    fn read_own(&self) -> HashMap<Id, Rc<DefinedRule>> {
        let mut own = HashMap::new();
        for limiter in self.limiters.values().flatten() {
            scan::overrides(&self.tables, limiter.bytes(), |key, row| {
                let limit = row.quota.filter(|_| row.expires > self.now).and_then(|quota| {
                    limiter.limited(quota.unsigned_abs(), row.burst.map(i64::unsigned_abs)).ok()?
                });
                own.extend(limit.map(|rule| (limiter.digest(key, &rule), rule)));
            });
        }
        own
    }
}

/// The rules of all durable limiters in the extension's schema.
pub fn durable_rules(schema: Oid, header: &Header) -> DurableRules {
    let tables = Tables::in_schema(schema);
    let mut limiters = HashMap::new();
    for name in scan::names(&tables) {
        let Some(row) = scan::limiter(&tables, &name) else { continue };
        let id = row.id;
        match Definition::new(&tables, &name, row, &header.secret) {
            Ok(definition) if definition.stake() != Stake::Durable => {}
            definition => {
                limiters.insert(id, definition.map_err(|_| ()));
            }
        }
    }
    let now = header.clock.stopped().wall - EPOCHS;
    DurableRules { tables, limiters, own: OnceCell::new(), now }
}
