//! A limiter, checked and ready to decide.

use std::hash::BuildHasher;
use std::rc::Rc;

use pgrx::pg_sys;
use ratelimit_core::calendar::Utc;
use ratelimit_core::lists::Place;
use ratelimit_core::table::{rule_key, Key, Request, DENIALS};
use ratelimit_core::{
    check_together, Algorithm, Anchor, Calendar, KeyHasher, Micros, Period, RateSpec, Refill, Rule,
    RuleError, Secret, SECOND,
};
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

use super::scan::{Id, LimiterRow, RuleRow, Tables};
use crate::backend;
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
    mode: Mode,
    /// Whether one rule decides, and nothing else: what most limiters are.
    is_plain: bool,
    id: Id,
    max_concurrent: Option<u32>,
    wait_timeout: Option<Micros>,
    stats: Stats,
    rules: Vec<Rc<DefinedRule>>,
    bans: Option<BanPolicy>,
    pub lists: Lists,
}

/// What a limiter does when it refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    /// It allows, and says what it would have refused.
    Shadow,
    /// It allows, and counts nothing.
    Off,
}

/// When a limiter bans a key by itself.
pub struct BanPolicy {
    /// Counts denials, exactly: it lets pass as many as there may be.
    denials: Rule,
    /// For how long; `None` for ever.
    pub duration: Option<Micros>,
}

/// Where the keys are listed that this limiter treats otherwise.
#[derive(Clone, Copy, Default)]
pub struct Lists {
    pub tables: Option<Tables>,
    /// Where shared memory knows of it.
    pub place: Option<Place>,
    /// Whether there was anything when the definition was read.
    pub any: bool,
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
    calendar: Option<Rc<dyn Calendar>>,
}

impl DefinedRule {
    /// How much passes in how many seconds, rounded up: a bucket's burst in the time it takes to fill.
    pub fn policy(&self) -> (u64, Micros) {
        let (capacity, period) = (self.spec.capacity(), self.spec.period.longest());
        let quota = self.spec.quota.max(1);
        let fills = u128::from(capacity) * period.unsigned_abs() as u128 / u128::from(quota);
        let fills = if capacity == 0 { period as u128 } else { fills };
        (capacity, fills.div_ceil(SECOND as u128).try_into().unwrap_or(Micros::MAX))
    }

    /// The same rule with another quota, and another burst if one is given.
    fn limited(&self, limiter: &str, quota: u64, burst: Option<u64>) -> Result<Self> {
        let spec = RateSpec { quota, burst: burst.or(self.spec.burst), ..self.spec };
        // Nothing of a burst is left where nothing refills it.
        let spec = RateSpec { burst: spec.burst.filter(|_| quota > 0), ..spec };
        let calendar = self.calendar.clone().unwrap_or_else(|| Rc::new(Utc));
        let rule = Rule::new(&spec, calendar)
            .map_err(|error| Error::rule(limiter, self.position.cast_signed(), error))?;
        Ok(DefinedRule {
            rule,
            mark: self.mark ^ FxBuildHasher.hash_one(format!("{spec:?}")) as u8,
            spec,
            calendar: self.calendar.clone(),
            ..*self
        })
    }
}

impl Definition {
    /// Checks what the tables say. State is known by all that tells this limiter from any other that was ever created: a
    /// limiter that is dropped and created again does not find what was left of the old one.
    pub fn new(tables: &Tables, name: &[u8], row: LimiterRow, secret: &Secret) -> Result<Self> {
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
        let hasher = hasher(tables, &row.id, secret);
        // The id is random and known to nobody outside, as a secret should be.
        let digest = KeyHasher::new(&row.id, &[]);
        let mode = match row.mode.as_str() {
            "enforce" => Mode::Enforce,
            "shadow" => Mode::Shadow,
            "off" => Mode::Off,
            other => return Err(Error::enum_value("mode", other.as_bytes())),
        };
        let bans = ban_policy(&row)?;
        // Nobody could end them.
        if bans.is_some() && tables.bans == pg_sys::Oid::INVALID {
            return Err(Error::outdated("ban_after"));
        }
        let max_concurrent = row.max_concurrent.map(|slots| slots.try_into().unwrap_or(0));
        let is_plain = mode == Mode::Enforce && rules.len() == 1 && max_concurrent.is_none();
        Ok(Definition {
            name: row.name,
            key: name.into(),
            hasher,
            digest,
            stake,
            mode,
            is_plain,
            id: row.id,
            max_concurrent,
            wait_timeout: row.wait_timeout.map(Parts::wait),
            stats: Stats::default(),
            rules,
            // A limiter that refuses nothing bans nobody.
            bans: bans.filter(|_| mode == Mode::Enforce),
            lists: Lists::default(),
        })
    }

    /// A limit that is given in the call: no row defines it.
    pub fn ad_hoc(function: pg_sys::Oid, spec: RateSpec, rule: Rule, secret: &Secret) -> Self {
        let period = spec.period.longest();
        let identity: [&[u8]; 3] = [
            &backend::database().to_le_bytes(),
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
            mode: Mode::Enforce,
            is_plain: true,
            id: Id::default(),
            max_concurrent: None,
            wait_timeout: None,
            stats: Stats::default(),
            bans: None,
            lists: Lists::default(),
            rules: vec![Rc::new(DefinedRule {
                rule,
                position: 0,
                stake: Stake::Keep,
                mark: 0,
                id: Id::default(),
                schema: pg_sys::Oid::INVALID,
                spec,
                calendar: None,
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

    /// The key as lists know it, whatever the storage.
    #[inline(always)]
    pub fn list_key(&self, key: &[u8]) -> Key {
        self.hasher.key(key)
    }

    /// The key as the table knows it, by the key that lists know.
    #[inline(always)]
    pub fn table_key(&self, [high, low]: Key) -> Key {
        // What is durable has nothing to do with what was in memory before.
        const DURABLE: u64 = 1 << 32;
        [high, if self.stake == Stake::Durable { low ^ DURABLE } else { low }]
    }

    /// The key as the table knows it.
    #[inline(always)]
    pub fn key(&self, key: &[u8]) -> Key {
        self.table_key(self.list_key(key))
    }

    /// The key of a durable limiter, as all sessions know it without sharing memory.
    pub fn durable_key(&self, key: &[u8]) -> Key {
        self.digest.key(key)
    }

    /// The key as slots in shared memory know it. Of a durable limiter it is found again by its digest, which is all that a table
    /// keeps.
    pub fn slot_key(&self, key: &[u8]) -> Key {
        match self.stake {
            Stake::Durable => self.hasher.key(&self.slot_digest(key)),
            Stake::Keep | Stake::Refund => self.hasher.key(key),
        }
    }

    /// How the tables know whose slots they are.
    pub fn slot_digest(&self, key: &[u8]) -> Id {
        digest_of(self.durable_key(key))
    }

    /// Marks the limiter's keys in the table.
    pub fn tag(&self) -> u32 {
        self.hasher.tag()
    }

    /// What the positions of the rules are.
    pub fn positions(&self) -> impl Iterator<Item = u32> + '_ {
        self.rules.iter().map(|rule| rule.position)
    }

    /// What a limiter does when it refuses.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// When it bans a key by itself, if it does.
    #[inline(always)]
    pub fn bans(&self) -> Option<&BanPolicy> {
        self.bans.as_ref()
    }

    /// What one call asks of the only rule, where one rule decides and nothing else.
    #[inline(always)]
    pub fn plain_request(&self, key: Key, cost: u64) -> Option<Request<'_>> {
        match &self.rules[..] {
            [only, ..] if self.is_plain => {
                Some(self.request(only, true, self.table_key(key), cost))
            }
            _ => None,
        }
    }

    /// What one call asks of each rule, of which these may stand in for the limiter's own.
    pub fn requests<'a>(
        &self,
        rules: impl Iterator<Item = &'a Rc<DefinedRule>>,
        key: &[u8],
        cost: u64,
    ) -> Result<SmallVec<[Request<'a>; 4]>> {
        if self.rules.is_empty() && self.max_concurrent.is_none() {
            return Err(Error::no_rules(&self.name));
        }
        let key = self.key(key);
        Ok(rules.enumerate().map(|(n, rule)| self.request(rule, n == 0, key, cost)).collect())
    }

    /// What counts one denial of a key.
    pub fn denial<'a>(&self, policy: &'a BanPolicy, key: Key) -> Request<'a> {
        Request {
            rule: &policy.denials,
            key: rule_key(self.table_key(key), DENIALS),
            tag: self.tag(),
            primary: false,
            cost: 1,
            durable: false,
            pin: false,
            mark: 0,
        }
    }

    /// The first rule as an override has it; `None` where there are no rules.
    pub fn limited(&self, quota: u64, burst: Option<u64>) -> Result<Option<Rc<DefinedRule>>> {
        let first = self.rules.first();
        first.map(|rule| rule.limited(&self.name, quota, burst).map(Rc::new)).transpose()
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
}

/// How keys of a limiter are known: by all that tells it from any other that was ever created.
pub fn hasher(tables: &Tables, id: &Id, secret: &Secret) -> KeyHasher {
    let identity: [&[u8]; 4] = [
        &backend::database().to_le_bytes(),
        &tables.limiters.to_u32().to_le_bytes(),
        id,
        // Saved states of memory limiters have been known so since 0.1.0.
        b"memory",
    ];
    KeyHasher::new(secret, &identity)
}

fn ban_policy(row: &LimiterRow) -> Result<Option<BanPolicy>> {
    let (Some(after), Some(within)) = (row.ban_after, row.ban_within) else { return Ok(None) };
    let spec = RateSpec {
        algorithm: Algorithm::SlidingLog,
        quota: after.unsigned_abs().into(),
        period: Period::Span(within.wait()),
        burst: None,
        refill: Refill::Continuous,
        anchor: Anchor::Clock,
    };
    let denials = spec.rule().map_err(|error| Error::ban_policy(&row.name, error))?;
    Ok(Some(BanPolicy { denials, duration: row.ban_for.map(Parts::wait) }))
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
    let period = row.period.period_of("period", algorithm, weeks_are_days)?;
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
    let rule = Rule::new(&spec, calendar.clone()).map_err(wrong)?;
    let mark = FxBuildHasher.hash_one(format!("{spec:?} {}", row.time_zone)) as u8;
    let position = row.position.unsigned_abs();
    let calendar = Some(calendar);
    Ok(DefinedRule { rule, position, stake, mark, id, schema, spec, calendar })
}
