//! What the fuzz targets do with their bytes. `tests/fuzz.rs` does the same with random ones, on every run of the tests.

use std::rc::Rc;

use ratelimit_core::{
    calendar::Utc, check_together, decide as decide_all, parse_rates, reserve, take_at_most,
    Algorithm, Anchor, Decision, Limit, MemoryState, Micros, Now, Operation, Period, RateSpec,
    Refill, Rule, State, DAY, MAX_PERIOD, MAX_QUOTA, MILLISECOND, MINUTE,
};

/// Any string as rates: no panic, an error within the string, and rules that can be made.
pub fn rates(data: &[u8]) {
    let mut bytes = Bytes(data);
    let (_, algorithm) = Algorithm::NAMES[bytes.choice(4)];
    let text = String::from_utf8_lossy(bytes.0);
    match parse_rates(&text, algorithm) {
        Ok(specs) => {
            assert!(!specs.is_empty());
            assert_eq!(check_together(&specs), Ok(()));
            for spec in &specs {
                assert_eq!(spec.algorithm, algorithm);
                assert!(spec.rule().is_ok());
                assert!((spec.capacity() == 0) == (spec.quota == 0));
            }
            // Case and blanks around do not matter.
            let shouted = format!(" {}\n", text.to_ascii_uppercase());
            assert_eq!(parse_rates(&shouted, algorithm), Ok(specs));
        }
        Err(error) => {
            assert!((1..=text.chars().count() + 1).contains(&error.position), "{error:?}");
            assert!(error.detail.ends_with('.'));
        }
    }
}

/// Any rule, any calls: no panic, and the laws that hold for every answer. Half of the keys have a lawful past, whose answers
/// keep all laws; the others begin with words that nobody wrote, and time goes where it likes.
pub fn decide(data: &[u8]) {
    let mut bytes = Bytes(data);
    let Ok(rule) = Rule::new(&spec(&mut bytes), Rc::new(Utc)) else { return };
    let mut key = Key { rule, state: MemoryState::default() };
    let lawful = bytes.byte() % 2 == 0;
    let mut now = Now::at(if lawful { bytes.small_time() } else { bytes.time() });
    if !lawful {
        key.state.set_words([bytes.word(), bytes.word(), bytes.word()]);
        for place in 0..bytes.choice(5) {
            key.state.set_time(place, bytes.word());
        }
    }
    while !bytes.0.is_empty() {
        now = if lawful {
            now.plus(bytes.small_time().saturating_abs() % MAX_PERIOD)
        } else {
            Now { steady: bytes.time(), wall: bytes.time() }
        };
        if now.steady > 100 * MAX_PERIOD {
            return;
        }
        let cost = bytes.cost();
        key.look(now, cost);
        if lawful {
            key.wait(now, cost);
        }
        key.act(bytes.choice(6), now, cost);
    }
}

#[derive(Clone, Debug)]
struct Key {
    rule: Rule,
    state: MemoryState,
}

impl Key {
    fn limit(&mut self, cost: u64) -> Limit<'_, &mut MemoryState> {
        Limit::new(&self.rule, &mut self.state, cost)
    }

    fn peek(&self, now: Now, cost: u64) -> Decision {
        decide_all(&mut [self.clone().limit(cost)], now, Operation::Peek)
    }

    fn take(&mut self, now: Now, cost: u64) -> Decision {
        decide_all(&mut [self.limit(cost)], now, Operation::Take)
    }

    /// What holds for every state, even for one that nobody wrote.
    fn look(&self, now: Now, cost: u64) {
        let answer = self.peek(now, cost);
        assert!(answer.remaining <= answer.quota);
        assert!(answer.retry_after.is_none_or(|wait| wait >= 0) && answer.reset_after >= 0);
        assert_eq!(answer.allowed, answer.reason.is_none());
        assert_eq!(answer.retry_after.is_none(), cost > answer.quota || answer.quota == 0);
        if answer.allowed {
            assert_eq!(answer.retry_after, Some(0));
        }
        let mut asked = self.clone();
        assert_eq!(asked.take(now, cost), answer, "peek answers what take does");
        if !answer.allowed {
            assert_eq!(asked.peek(now, cost), answer, "a refused call changes nothing");
        }
        let mut short = self.clone();
        assert_eq!(short.limit(cost).try_take(now).allowed, answer.allowed);
        assert_eq!(short.peek(now, 1), asked.peek(now, 1));
    }

    /// What holds for a key that only saw calls in the order of time.
    fn wait(&self, now: Now, cost: u64) {
        let mut asked = self.clone();
        let answer = asked.take(now, cost);
        let is_near = u128::from(answer.remaining) * 5 < u128::from(answer.quota);
        let brief = self.clone().limit(cost).try_take(now);
        assert_eq!(brief.near_limit, answer.allowed && cost > 0 && is_near);
        let left = if answer.allowed { cost } else { 0 } + answer.remaining;
        if answer.quota > 0 {
            assert!(self.peek(now, left).allowed && !self.peek(now, left + 1).allowed);
        }
        let reachable = |wait: &Micros| (1..Micros::MAX / 2).contains(wait);
        if let Some(wait) = answer.retry_after.filter(reachable) {
            assert!(
                !asked.peek(now.plus(wait - 1), cost).allowed,
                "{wait} too long: {self:?} {now:?}"
            );
            assert!(asked.peek(now.plus(wait), cost).allowed, "{wait} too short: {self:?} {now:?}");
        }
        if reachable(&answer.reset_after) {
            let new = asked.peek(now.plus(answer.reset_after), 0);
            assert_eq!((new.remaining, new.reset_after), (answer.quota, 0));
        }
        asked.limit(cost).refund(now);
        assert!(asked.peek(now, 0).remaining >= answer.remaining);
    }

    fn act(&mut self, choice: usize, now: Now, cost: u64) {
        match choice {
            0 | 1 => {
                self.take(now, cost);
            }
            2 => self.limit(cost).charge(now),
            3 => self.limit(cost).refund(now),
            4 => {
                let alone = self.peek(now, cost);
                let booking = reserve(&mut [self.limit(cost)], now, Some(MAX_PERIOD));
                let booked = |wait| alone.retry_after == Some(wait) && wait <= MAX_PERIOD;
                assert!(booking.wait.is_none_or(booked));
                assert_eq!(booking.decision.allowed, booking.wait.is_some());
            }
            _ => {
                let left = self.peek(now, 0).remaining;
                assert_eq!(take_at_most(&mut [self.limit(cost)], now), cost.min(left));
            }
        }
    }
}

fn spec(bytes: &mut Bytes<'_>) -> RateSpec {
    let (_, algorithm) = Algorithm::NAMES[bytes.choice(4)];
    let units = bytes.word() as u32;
    RateSpec {
        algorithm,
        quota: bytes.cost(),
        period: match bytes.choice(8) {
            0 => Period::Days(units),
            1 => Period::Weeks(units % 100),
            2 => Period::Months(units),
            3 => Period::Months(units % 100),
            4 => Period::Span(MILLISECOND),
            5 => Period::Span(MINUTE),
            _ => Period::Span(bytes.small_time()),
        },
        burst: (bytes.choice(2) == 0).then(|| bytes.cost()),
        refill: if bytes.choice(2) == 0 { Refill::Continuous } else { Refill::Interval },
        anchor: if bytes.choice(2) == 0 { Anchor::Clock } else { Anchor::FirstHit },
    }
}

/// Numbers from bytes; zeros when they run out.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn choice(&mut self, of: usize) -> usize {
        usize::from(self.byte()) % of
    }

    /// As many bytes as the first one says, so that small numbers are as likely as large ones.
    fn word(&mut self) -> u64 {
        let size = self.choice(9);
        (0..size).fold(0, |word, _| word << 8 | u64::from(self.byte()))
    }

    fn cost(&mut self) -> u64 {
        match self.choice(8) {
            0 => u64::MAX,
            1 => MAX_QUOTA,
            2 => self.word(),
            _ => u64::from(self.byte()),
        }
    }

    fn time(&mut self) -> Micros {
        match self.choice(4) {
            0 => Micros::MAX.wrapping_add(self.word().cast_signed()),
            1 => Micros::MIN.wrapping_add(self.word().cast_signed()),
            _ => self.word().cast_signed(),
        }
    }

    /// A time within a few thousand years, or the length of one.
    fn small_time(&mut self) -> Micros {
        match self.choice(4) {
            0 => MILLISECOND * i64::from(self.byte()),
            1 => DAY * i64::from(self.byte()),
            2 => i64::from(self.byte()),
            _ => self.word().cast_signed() % (2 * MAX_PERIOD),
        }
    }
}
