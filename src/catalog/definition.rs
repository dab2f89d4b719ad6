//! A limiter, checked and ready to decide.

use std::hash::BuildHasher;
use std::rc::Rc;

use pgrx::pg_sys;
use ratelimit_core::table::{rule_key, Key, Request};
use ratelimit_core::{
    check_together, Algorithm, Anchor, KeyHasher, Micros, Period, RateSpec, Refill, Rule,
    RuleError, Secret, SECOND,
};
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

use super::scan::{Id, LimiterRow, RuleRow, Tables};
use crate::error::{Error, Result};
use crate::interval::Parts;
use crate::stats::Stats;
use crate::zone;

/// A limiter.
pub struct Definition {
    /// The name as errors show it.
    pub name: String,
    /// The name as the database stores it, in whatever encoding.
    key: Box<[u8]>,
    hasher: KeyHasher,
    /// Of a durable limiter: how the tables know keys.
    digest: KeyHasher,
    stake: Stake,
    id: Id,
    max_concurrent: Option<u32>,
    wait_timeout: Option<Micros>,
    stats: Stats,
    rules: Vec<Rc<DefinedRule>>,
}

/// What becomes of what a transaction takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stake {
    /// It stays taken.
    Keep,
    /// It is given back if the transaction rolls back.
    Refund,
    /// The same, and it is written down when the transaction commits.
    Durable,
}

/// One of its rules.
pub struct DefinedRule {
    pub rule: Rule,
    pub position: u32,
    pub stake: Stake,
    /// Tells this definition of the rule from another, most of the time.
    pub mark: u8,
    /// The limiter's.
    pub id: Id,
    /// The schema with its tables.
    pub schema: pg_sys::Oid,
    spec: RateSpec,
}

impl Definition {
    /// Checks what the tables say. State is known by all that tells this limiter from any other that was ever created: a
    /// limiter that is dropped and created again does not find what was left of the old one.
    pub fn new(tables: &Tables, name: &[u8], row: LimiterRow, secret: &Secret) -> Result<Self> {
        unsupported(&row)?;
        let stake = match (row.storage.as_str(), row.on_rollback.as_str()) {
            ("durable", "keep") => return Err(Error::durable_keep(&row.name)),
            ("durable", _) => Stake::Durable,
            (_, "refund") => Stake::Refund,
            _ => Stake::Keep,
        };
        let rules = row
            .rules
            .iter()
            .map(|rule| defined(&row.name, rule, stake, row.id, tables.schema).map(Rc::new))
            .collect::<Result<Vec<_>>>()?;
        let specs: Vec<_> = rules.iter().map(|rule| rule.spec).collect();
        let last = row.rules.last().map_or(1, |rule| rule.position);
        check_together(&specs).map_err(|error| Error::rule(&row.name, last, error))?;
        let identity: [&[u8]; 4] = [
            // SAFETY: a plain variable, set when the process connected to its database.
            &unsafe { pg_sys::MyDatabaseId }.to_u32().to_le_bytes(),
            &tables.limiters.to_u32().to_le_bytes(),
            &row.id,
            row.storage.as_bytes(),
        ];
        let hasher = KeyHasher::new(secret, &identity);
        // The id is random and known to nobody outside, as a secret should be.
        let digest = KeyHasher::new(&row.id, &[]);
        Ok(Definition {
            name: row.name,
            key: name.into(),
            hasher,
            digest,
            stake,
            id: row.id,
            max_concurrent: row.max_concurrent.map(|slots| slots.try_into().unwrap_or(0)),
            wait_timeout: row.wait_timeout.map(Parts::wait),
            stats: Stats::default(),
            rules,
        })
    }

    /// A limit that is given in the call: no row defines it.
    pub fn ad_hoc(function: pg_sys::Oid, spec: RateSpec, rule: Rule, secret: &Secret) -> Self {
        let period = spec.period.longest();
        let identity: [&[u8]; 3] = [
            // SAFETY: a plain variable, set when the process connected to its database.
            &unsafe { pg_sys::MyDatabaseId }.to_u32().to_le_bytes(),
            &function.to_u32().to_le_bytes(),
            // The quota may change from call to call, and the key keeps what it has used; another period is another limit.
            &period.to_le_bytes(),
        ];
        let hasher = KeyHasher::new(secret, &identity);
        Definition {
            name: String::new(),
            key: Box::default(),
            hasher,
            digest: hasher,
            stake: Stake::Keep,
            id: Id::default(),
            max_concurrent: None,
            wait_timeout: None,
            stats: Stats::default(),
            rules: vec![Rc::new(DefinedRule {
                rule,
                position: 0,
                stake: Stake::Keep,
                mark: 0,
                id: Id::default(),
                schema: pg_sys::Oid::INVALID,
                spec,
            })],
        }
    }

    /// The same, and what it does is counted.
    pub fn counted(self, stats: Stats) -> Self {
        Definition { stats, ..self }
    }

    /// Where what it does is counted.
    #[inline(always)]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What becomes of what a transaction takes.
    #[inline(always)]
    pub fn stake(&self) -> Stake {
        self.stake
    }

    /// The rules, in the order of the requests.
    pub fn rules(&self) -> &[Rc<DefinedRule>] {
        &self.rules
    }

    /// How the tables know what a key has used of a rule.
    pub fn digest(&self, key: &[u8], rule: &DefinedRule) -> Id {
        digest_of(rule_key(self.durable_key(key), rule.position))
    }

    /// Tells the limiter from any other that was ever created.
    pub fn id(&self) -> Id {
        self.id
    }

    /// The name as the database stores it.
    pub fn bytes(&self) -> &[u8] {
        &self.key
    }

    /// How many may hold a slot of a key at once, if that is limited.
    pub fn max_concurrent(&self) -> Option<u32> {
        self.max_concurrent
    }

    /// How long a call waits that does not say so itself; for ever if this does not, either.
    pub fn wait_timeout(&self) -> Option<Micros> {
        self.wait_timeout
    }

    /// Whether this is the limiter of that name.
    pub fn is_named(&self, name: &[u8]) -> bool {
        *self.key == *name
    }

    /// The key as the table knows it.
    #[inline(always)]
    pub fn key(&self, key: &[u8]) -> Key {
        self.hasher.key(key)
    }

    /// The key of a durable limiter, as all sessions know it without sharing memory.
    pub fn durable_key(&self, key: &[u8]) -> Key {
        self.digest.key(key)
    }

    /// Marks the limiter's keys in the table.
    pub fn tag(&self) -> u32 {
        self.hasher.tag()
    }

    /// What the positions of the rules are.
    pub fn positions(&self) -> impl Iterator<Item = u32> + '_ {
        self.rules.iter().map(|rule| rule.position)
    }

    /// What one call asks of the only rule, where there is only one and nothing else.
    #[inline(always)]
    pub fn only_request(&self, key: &[u8], cost: u64) -> Option<Request<'_>> {
        match &self.rules[..] {
            [only] if self.max_concurrent.is_none() => {
                Some(self.request(only, true, self.key(key), cost))
            }
            _ => None,
        }
    }

    /// What one call asks of each rule.
    pub fn requests(&self, key: &[u8], cost: u64) -> Result<SmallVec<[Request<'_>; 4]>> {
        if self.rules.is_empty() && self.max_concurrent.is_none() {
            return Err(Error::no_rules(&self.name));
        }
        let key = self.key(key);
        let rules = self.rules.iter().enumerate();
        Ok(rules.map(|(n, rule)| self.request(rule, n == 0, key, cost)).collect())
    }

    #[inline(always)]
    fn request<'a>(
        &self,
        rule: &'a DefinedRule,
        primary: bool,
        key: Key,
        cost: u64,
    ) -> Request<'a> {
        let key = rule_key(key, rule.position);
        let durable = self.stake == Stake::Durable;
        Request {
            rule: &rule.rule,
            key,
            tag: self.tag(),
            primary,
            cost,
            durable,
            pin: false,
            mark: rule.mark,
        }
    }

    /// For each rule, how much passes in how many seconds, rounded up: a bucket's burst in the time it takes to fill.
    pub fn policies(&self) -> impl Iterator<Item = (u64, Micros)> + '_ {
        self.rules.iter().map(|rule| {
            let (capacity, period) = (rule.spec.capacity(), rule.spec.period.longest());
            let fills = u128::from(capacity) * period.unsigned_abs() as u128
                / u128::from(rule.spec.quota.max(1));
            let fills = if capacity == 0 { period as u128 } else { fills };
            (capacity, fills.div_ceil(SECOND as u128).try_into().unwrap_or(Micros::MAX))
        })
    }
}

/// A key as a uuid.
fn digest_of([high, low]: Key) -> Id {
    ((u128::from(high) << 64) | u128::from(low)).to_be_bytes()
}

fn defined(
    limiter: &str,
    row: &RuleRow,
    stake: Stake,
    id: Id,
    schema: pg_sys::Oid,
) -> Result<DefinedRule> {
    let wrong = |error| Error::rule(limiter, row.position, error);
    let unknown = |what: &str, value: &str| Error::enum_value(what, value.as_bytes());
    let algorithm =
        Algorithm::from_name(&row.algorithm).ok_or_else(|| unknown("algorithm", &row.algorithm))?;
    let (anchor, weeks_are_days) = match row.anchor.as_str() {
        "clock" => (Anchor::Clock, false),
        "epoch" => (Anchor::Clock, true),
        "first_hit" => (Anchor::FirstHit, false),
        other => return Err(unknown("anchor", other)),
    };
    let refill = match row.refill.as_str() {
        "continuous" => Refill::Continuous,
        "interval" => Refill::Interval,
        other => return Err(unknown("refill", other)),
    };
    let period = row.period.period("period", weeks_are_days)?;
    // Only windows know a calendar.
    let period = match (algorithm, period) {
        (Algorithm::FixedWindow, _) | (_, Period::Months(_)) => period,
        _ => Period::Span(row.period.span("period")?),
    };
    let spec = RateSpec {
        algorithm,
        quota: row.quota.try_into().map_err(|_| Error::negative("quota", row.quota))?,
        period,
        burst: match row.burst {
            Some(burst) => Some(burst.try_into().map_err(|_| Error::negative("burst", burst))?),
            None => None,
        },
        refill,
        anchor,
    };
    let calendar = zone::calendar(&row.time_zone)?;
    if algorithm != Algorithm::FixedWindow && weeks_are_days {
        return Err(wrong(RuleError::AnchorWithoutWindow));
    }
    if algorithm != Algorithm::FixedWindow && !zone::is_utc(&row.time_zone) {
        return Err(wrong(RuleError::TimeZoneWithoutWindow));
    }
    let rule = Rule::new(&spec, calendar).map_err(wrong)?;
    let mark = FxBuildHasher.hash_one(format!("{spec:?} {}", row.time_zone)) as u8;
    Ok(DefinedRule { rule, position: row.position.unsigned_abs(), stake, mark, id, schema, spec })
}

/// Refuses what the tables can say but this version cannot do.
fn unsupported(row: &LimiterRow) -> Result<()> {
    if row.mode != "enforce" {
        return Err(Error::not_supported("a mode other than \"enforce\""));
    }
    if row.bans {
        return Err(Error::not_supported("ban_after"));
    }
    Ok(())
}
