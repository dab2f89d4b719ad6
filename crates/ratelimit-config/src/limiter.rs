//! A limiter as the tables define it.

use std::collections::BTreeMap;

use ratelimit_core::{Algorithm, Anchor, Interval, Period, RateSpec, Refill};
use serde::{Deserialize, Serialize};

use crate::interval::{in_days, Text};
use crate::moment::Moment;

/// A row of `rl_limiters`, its rules and its overrides. As JSON it has the columns of the tables; others are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limiter {
    /// What calls name it by.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// `memory` or `durable`.
    pub storage: String,
    /// `keep` or `refund`.
    pub on_rollback: String,
    /// `enforce`, `shadow` or `off`.
    pub mode: String,
    /// How many may hold a slot.
    pub max_concurrent: Option<i32>,
    /// How long a waiting call waits.
    pub wait_timeout: Option<Text>,
    /// Ban a key after so many denials ...
    pub ban_after: Option<i32>,
    /// ... within this time ...
    pub ban_within: Option<Text>,
    /// ... for this long.
    pub ban_for: Option<Text>,
    /// In their order.
    pub rules: Vec<Rule>,
    /// By key; those that have expired are not among them.
    pub overrides: BTreeMap<String, Override>,
}

/// A row of `rl_overrides`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// `allow`, `deny` or `limit`.
    pub action: String,
    /// Of `limit`: in place of the first rule's quota.
    pub quota: Option<u64>,
    /// Of `limit`: in place of the first rule's burst.
    pub burst: Option<u64>,
    /// Until when it holds; `None` for ever.
    #[serde(deserialize_with = "crate::moment::unless_never")]
    pub expires_at: Option<Moment>,
    /// For people.
    pub reason: Option<String>,
}

/// A row of `rl_rules`. Two that are equal mean the same, however the columns say it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Columns", into = "Columns")]
pub struct Rule {
    /// From 1 to 100, unique in a limiter.
    pub position: i32,
    /// What it counts.
    pub spec: RateSpec,
    /// Whose days, weeks and months.
    pub time_zone: String,
}

impl Rule {
    /// A rule that means this.
    pub fn new(position: i32, mut spec: RateSpec, time_zone: &str) -> Self {
        // Only windows by the clock tell 7 days from a week; only windows tell a day from 24 hours.
        spec.period = match (spec.algorithm, spec.anchor, spec.period) {
            (Algorithm::FixedWindow, Anchor::FirstHit, Period::Days(n)) if n.is_multiple_of(7) => {
                Period::Weeks(n / 7)
            }
            (Algorithm::FixedWindow, _, period) => period,
            (_, _, period) => period.span().map_or(period, Period::Span),
        };
        let utc = time_zone.eq_ignore_ascii_case(UTC);
        Rule { position, spec, time_zone: if utc { UTC } else { time_zone }.to_owned() }
    }
}

/// The time zone of rules that say none.
pub const UTC: &str = "UTC";

/// The names of what a bucket can do.
pub const REFILLS: [(&str, Refill); 2] =
    [("continuous", Refill::Continuous), ("interval", Refill::Interval)];

/// When windows begin, and whether whole weeks are days from the epoch.
pub const ANCHORS: [(&str, (Anchor, bool)); 3] = [
    ("clock", (Anchor::Clock, false)),
    ("epoch", (Anchor::Clock, true)),
    ("first_hit", (Anchor::FirstHit, false)),
];

/// What one of several names means.
pub fn named<T: Copy>(names: &[(&str, T)], name: &str) -> Option<T> {
    names.iter().find(|(known, _)| *known == name).map(|(_, meaning)| *meaning)
}

#[derive(Serialize, Deserialize)]
struct Columns {
    position: i32,
    algorithm: String,
    quota: u64,
    period: Text,
    burst: Option<u64>,
    refill: String,
    anchor: String,
    time_zone: String,
}

impl TryFrom<Columns> for Rule {
    type Error = &'static str;

    fn try_from(row: Columns) -> Result<Self, Self::Error> {
        let algorithm =
            Algorithm::from_name(&row.algorithm).ok_or("There is no such algorithm.")?;
        let (anchor, weeks_are_days) =
            named(&ANCHORS, &row.anchor).ok_or("There is no such anchor.")?;
        let spec = RateSpec {
            algorithm,
            quota: row.quota,
            period: row.period.0.period_of(algorithm, weeks_are_days)?,
            burst: row.burst,
            refill: named(&REFILLS, &row.refill).ok_or("There is no such refill.")?,
            anchor,
        };
        Ok(Rule::new(row.position, spec, &row.time_zone))
    }
}

impl From<Rule> for Columns {
    fn from(Rule { position, spec, time_zone }: Rule) -> Self {
        let window = spec.algorithm == Algorithm::FixedWindow;
        let period = Interval::from(spec.period);
        let refill = REFILLS.iter().find(|(_, refill)| *refill == spec.refill);
        let anchor = match spec.anchor {
            Anchor::FirstHit => "first_hit",
            Anchor::Clock if window && spec.period.has_weeks_of_days() => "epoch",
            Anchor::Clock => "clock",
        };
        Columns {
            position,
            algorithm: spec.algorithm.name().to_owned(),
            quota: spec.quota,
            period: Text(if window { period } else { in_days(period) }),
            burst: spec.burst,
            refill: refill.map_or("", |(name, _)| name).to_owned(),
            anchor: anchor.to_owned(),
            time_zone,
        }
    }
}
