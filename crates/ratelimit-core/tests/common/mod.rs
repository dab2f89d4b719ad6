//! What the tests share: definitions of every kind, a key that can be asked, and random histories.
#![allow(dead_code, reason = "each test program uses a part")]

pub mod definition;

use proptest::prelude::*;
use ratelimit_core::{
    decide, parse_rates, reserve, take_at_most, Algorithm, Anchor, Booking, Decision, Limit,
    MemoryState, Micros, Now, Operation, Period, RateSpec, Refill, Rule, DAY, HOUR, MAX_PERIOD,
    MAX_QUOTA, MILLISECOND, MINUTE, SECOND,
};

/// A Sunday afternoon, 2026-11-22 14:13:20 UTC.
pub const NOON: Micros = 1_795_356_800 * SECOND;

/// So many cases, or as many as `PROPTEST_CASES` says.
pub fn cases(cases: u32) -> ProptestConfig {
    let of_environment = ProptestConfig {
        failure_persistence: None,
        max_global_rejects: u32::MAX,
        ..ProptestConfig::default()
    };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => of_environment,
        None => ProptestConfig { cases, ..of_environment },
    }
}

/// One rule of a rate string.
pub fn spec(text: &str, algorithm: Algorithm) -> RateSpec {
    parse_rates(text, algorithm).unwrap()[0]
}

pub fn bucket(text: &str) -> RateSpec {
    spec(text, Algorithm::TokenBucket)
}

pub fn interval_bucket(text: &str) -> RateSpec {
    RateSpec { refill: Refill::Interval, ..bucket(text) }
}

pub fn fixed(text: &str) -> RateSpec {
    spec(text, Algorithm::FixedWindow)
}

pub fn first_hit(text: &str) -> RateSpec {
    RateSpec { anchor: Anchor::FirstHit, ..fixed(text) }
}

pub fn sliding(text: &str) -> RateSpec {
    spec(text, Algorithm::SlidingWindow)
}

pub fn log(text: &str) -> RateSpec {
    spec(text, Algorithm::SlidingLog)
}

/// Every way of counting, with the same rate; a period of a second to a year of days.
pub fn every_algorithm(text: &str) -> [RateSpec; 6] {
    [bucket(text), interval_bucket(text), fixed(text), first_hit(text), sliding(text), log(text)]
}

/// A key under one rule.
#[derive(Clone, Debug)]
pub struct Key {
    pub rule: Rule,
    pub state: MemoryState,
}

impl Key {
    pub fn new(spec: &RateSpec) -> Key {
        Key { rule: spec.rule().unwrap(), state: MemoryState::default() }
    }

    /// The same key after its definition was changed.
    pub fn under(self, spec: &RateSpec) -> Key {
        Key { rule: spec.rule().unwrap(), ..self }
    }

    fn decide(&mut self, now: Now, cost: u64, operation: Operation) -> Decision {
        decide(&mut [Limit::new(&self.rule, &mut self.state, cost)], now, operation)
    }

    pub fn take(&mut self, now: Now, cost: u64) -> Decision {
        self.decide(now, cost, Operation::Take)
    }

    pub fn peek(&self, now: Now, cost: u64) -> Decision {
        self.clone().decide(now, cost, Operation::Peek)
    }

    pub fn reserve(&mut self, now: Now, cost: u64, max_wait: Option<Micros>) -> Booking {
        reserve(&mut [Limit::new(&self.rule, &mut self.state, cost)], now, max_wait)
    }

    pub fn try_take(&mut self, now: Now, cost: u64) -> bool {
        Limit::new(&self.rule, &mut self.state, cost).try_take(now).allowed
    }

    pub fn charge(&mut self, now: Now, cost: u64) {
        Limit::new(&self.rule, &mut self.state, cost).charge(now);
    }

    pub fn refund(&mut self, now: Now, cost: u64) {
        Limit::new(&self.rule, &mut self.state, cost).refund(now);
    }

    pub fn take_at_most(&mut self, now: Now, cost: u64) -> u64 {
        take_at_most(&mut [Limit::new(&self.rule, &mut self.state, cost)], now)
    }

    pub fn remaining(&self, now: Now) -> u64 {
        self.peek(now, 0).remaining
    }

    /// How often a cost of 1 passes at this moment.
    pub fn drain(&mut self, now: Now) -> u64 {
        (0..).take_while(|_| self.try_take(now, 1)).count() as u64
    }
}

pub fn at(time: Micros) -> Now {
    Now::at(time)
}

pub fn quota() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 1..=5u64,
        4 => 1..=1_000u64,
        1 => 1..=MAX_QUOTA,
        1 => Just(MAX_QUOTA),
    ]
}

pub fn span() -> impl Strategy<Value = Micros> {
    prop_oneof![
        2 => Just(MILLISECOND),
        3 => prop::sample::select(vec![SECOND, MINUTE, HOUR, DAY, 7 * DAY]),
        3 => MILLISECOND..10 * MILLISECOND,
        2 => MILLISECOND..100 * DAY,
        1 => MILLISECOND..=MAX_PERIOD,
        1 => Just(MAX_PERIOD),
    ]
}

fn calendar_period() -> impl Strategy<Value = Period> {
    prop_oneof![
        (1..40u32).prop_map(Period::Days),
        (1..10u32).prop_map(Period::Weeks),
        (1..30u32).prop_map(Period::Months),
        Just(Period::Months(12_000)),
    ]
}

fn burst() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![Just(None), quota().prop_map(Some)]
}

/// Any definition with a quota.
pub fn any_spec() -> impl Strategy<Value = RateSpec> {
    let bucket = |refill| {
        (quota(), span(), burst()).prop_map(move |(quota, span, burst)| RateSpec {
            algorithm: Algorithm::TokenBucket,
            quota,
            period: Period::Span(span),
            burst,
            refill,
            anchor: Anchor::Clock,
        })
    };
    let window = |algorithm, anchor| {
        (quota(), prop_oneof![2 => span().prop_map(Period::Span), 1 => calendar_period()]).prop_map(
            move |(quota, period)| RateSpec {
                algorithm,
                quota: if algorithm == Algorithm::SlidingLog { 1 + quota % 1_000 } else { quota },
                period: match period {
                    Period::Months(n) if algorithm != Algorithm::FixedWindow => Period::Days(n),
                    period => period,
                },
                burst: None,
                refill: Refill::Continuous,
                anchor,
            },
        )
    };
    prop_oneof![
        bucket(Refill::Continuous),
        bucket(Refill::Interval),
        window(Algorithm::FixedWindow, Anchor::Clock),
        window(Algorithm::FixedWindow, Anchor::FirstHit),
        window(Algorithm::SlidingWindow, Anchor::Clock),
        window(Algorithm::SlidingLog, Anchor::Clock),
    ]
}

/// A moment at which nothing saturates.
pub fn moment() -> impl Strategy<Value = Micros> {
    prop_oneof![
        3 => NOON..NOON + 400 * DAY,
        1 => -10..10i64,
        1 => -MAX_PERIOD..2 * MAX_PERIOD,
    ]
}

/// A cost, in terms of the capacity.
#[derive(Clone, Copy, Debug)]
pub enum Cost {
    Units(u64),
    /// Thousandths of the capacity.
    Part(u64),
}

impl Cost {
    pub fn of(self, spec: &RateSpec) -> u64 {
        match self {
            Cost::Units(n) => n,
            Cost::Part(thousandths) => {
                (u128::from(spec.capacity()) * u128::from(thousandths) / 1_000) as u64
            }
        }
    }
}

pub fn cost() -> impl Strategy<Value = Cost> {
    prop_oneof![(0..4u64).prop_map(Cost::Units), (0..1_100u64).prop_map(Cost::Part)]
}

#[derive(Clone, Copy, Debug)]
pub enum Action {
    Take,
    Charge,
    Refund,
    TakeAtMost,
    Reserve,
}

/// A call: after so many thousandths of the period and so many microseconds.
pub type Call = (u64, Micros, Action, Cost);

pub fn call() -> impl Strategy<Value = Call> {
    let action = prop_oneof![
        6 => Just(Action::Take),
        1 => Just(Action::Charge),
        1 => Just(Action::Refund),
        1 => Just(Action::TakeAtMost),
        2 => Just(Action::Reserve),
    ];
    (prop_oneof![Just(0), 0..300u64, 0..2_200u64], -2..3i64, action, cost())
}

/// How long a call waits.
pub fn gap(spec: &RateSpec, thousandths: u64, micros: Micros) -> Micros {
    let period = i128::from(spec.period.longest());
    ((period * i128::from(thousandths) / 1_000) as i64 + micros).max(0)
}

/// A key with a past: its definition, the key, and the moment of its last call.
pub fn used_key() -> impl Strategy<Value = (RateSpec, Key, Now)> {
    (any_spec(), moment(), prop::collection::vec(call(), 0..12)).prop_map(|(spec, start, calls)| {
        let mut key = Key::new(&spec);
        let mut now = at(start);
        for (thousandths, micros, action, cost) in calls {
            now = now.plus(gap(&spec, thousandths, micros));
            let cost = cost.of(&spec);
            match action {
                Action::Take => {
                    key.take(now, cost);
                }
                Action::Charge => key.charge(now, cost),
                Action::Refund => key.refund(now, cost),
                Action::TakeAtMost => {
                    key.take_at_most(now, cost);
                }
                Action::Reserve => {
                    // Not at the end of time.
                    key.reserve(now, cost, Some(20 * spec.period.longest()));
                }
            }
        }
        (spec, key, now)
    })
}

/// A cost that the key refuses now, if any cost of at most its capacity is.
pub fn refused_cost(spec: &RateSpec, key: &Key, now: Now, choice: u64) -> Option<u64> {
    let remaining = key.remaining(now);
    let refused = spec.capacity() - remaining;
    (refused > 0).then(|| remaining + 1 + choice % refused)
}
