//! When each entry of a log is due in the replay.
//!
//! A limiter decides by the server's clock. So the replay keeps the log's times, only faster, and
//! the limit's period is made shorter by the same factor.

use std::cmp::Reverse;
use std::time::Duration;

use anyhow::Result;

use crate::log::{date, Entry};
use crate::scene::{BAN_FOR, BAN_WITHIN};
use crate::screen::{duration, number, tell, Screen};
use crate::stage::Limit;

/// A shorter period would be blurred by the time that one statement takes.
const SHORTEST_PERIOD: Duration = Duration::from_millis(40);

/// What two cores do in a quarter of a minute without falling behind.
const MOST_ENTRIES: usize = 20_000;

pub struct Plan {
    /// What is replayed, in the order of time, no two at the same.
    pub entries: Vec<Entry>,
    /// When each is due.
    pub due: Vec<Duration>,
    /// How many times faster than the log.
    pub speed: u32,
    /// How many entries the log has in all.
    all: usize,
    /// How long the replayed part took, and how long without its idle time.
    span: Duration,
    busy: Duration,
    /// The longest pause that is kept.
    pause: Duration,
}

impl Plan {
    pub fn new(mut entries: Vec<Entry>, limit: &Limit, target: Duration) -> Self {
        spread(&mut entries);
        let all = entries.len();

        let longest = limit.refill.max(limit.period * (BAN_WITHIN + BAN_FOR));
        let pause = longest + longest / 10;
        let mut offsets = Vec::with_capacity(all);
        let mut offset = Duration::ZERO;
        for (n, entry) in entries.iter().enumerate() {
            if n > 0 {
                offset += micros(entry.at - entries[n - 1].at).min(pause);
            }
            offsets.push(offset);
        }

        let fits = target.mul_f64(limit.period.as_secs_f64() / SHORTEST_PERIOD.as_secs_f64());
        let part = busiest(&offsets, fits.max(target));
        let first = offsets[part.start];
        let mut due: Vec<_> = offsets[part.clone()].iter().map(|at| *at - first).collect();
        let entries: Vec<_> = entries.drain(part).collect();

        let busy = due.last().copied().unwrap_or_default();
        let speed = busy.as_secs_f64() / target.as_secs_f64();
        let speed = speed.ceil().clamp(1.0, f64::from(u32::MAX)) as u32;
        for at in &mut due {
            *at /= speed;
        }
        let span = micros(entries[entries.len() - 1].at - entries[0].at);
        Self { entries, due, speed, all, span, busy, pause }
    }

    pub fn describe(&self, limit: &Limit, screen: &mut Screen) -> Result<()> {
        let count = self.entries.len();
        if count < self.all {
            tell!(
                screen,
                "The busiest part of the log is replayed: {} of its {} lines.",
                number(count),
                number(self.all)
            )?;
        }
        let (from, to) = (self.entries[0].at, self.entries[count - 1].at);
        let (from, to) = (date::show(from), date::show(to));
        tell!(screen, "From {from} to {to} (UTC), which is {}.", duration(self.span))?;
        if self.busy < self.span {
            tell!(
                screen,
                "Where nobody came for longer than {}, enough to be as good as new, it waits only so \
                 long; {} are left.",
                duration(self.pause),
                duration(self.busy)
            )?;
        }
        if self.speed > 1 {
            tell!(
                screen,
                "It runs {} times faster, {} in all, and so periods and bans are as much shorter: {} \
                 of the log take {} here. What was logged with the same second is spread over that second.",
                number(self.speed as usize),
                duration(self.busy / self.speed),
                duration(limit.period),
                duration(limit.period / self.speed)
            )?;
        } else {
            tell!(screen, "It runs as fast as the log was written.")?;
        }
        Ok(())
    }
}

/// Puts the entries in order, and those of one second, which is all that most logs tell, at equal
/// distances in it.
fn spread(entries: &mut [Entry]) {
    entries.sort_by_key(|entry| entry.at);
    let mut last = i64::MIN;
    for group in entries.chunk_by_mut(|a, b| a.at == b.at) {
        let count = group.len() as i64;
        let whole = group[0].at % date::SECOND == 0;
        for (n, entry) in (0..).zip(group) {
            entry.at += if whole { n * date::SECOND / count } else { 0 };
            // The time also tells entries apart.
            entry.at = entry.at.max(last + 1);
            last = entry.at;
        }
    }
}

/// The part of at most this length, and not too many entries, that has the most.
fn busiest(offsets: &[Duration], length: Duration) -> std::ops::Range<usize> {
    let (mut best, mut shortest) = (0..0, Duration::MAX);
    let mut end = 0;
    for start in 0..offsets.len() {
        while end < offsets.len()
            && offsets[end] - offsets[start] <= length
            && end - start < MOST_ENTRIES
        {
            end += 1;
        }
        let lasts = offsets[end - 1] - offsets[start];
        if (end - start, Reverse(lasts)) > (best.len(), Reverse(shortest)) {
            (best, shortest) = (start..end, lasts);
        }
    }
    best
}

fn micros(count: i64) -> Duration {
    Duration::from_micros(count.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::What;

    fn plan(times: &[i64], target: u64) -> Plan {
        let entry = |at: &i64| Entry {
            at: at * date::SECOND,
            client: "a".into(),
            what: What::FailedLogin { account: "b".into() },
        };
        let minute = Duration::from_secs(60);
        let limit = Limit { rates: String::new(), period: minute, refill: minute };
        Plan::new(times.iter().map(entry).collect(), &limit, Duration::from_secs(target))
    }

    #[test]
    fn one_second_is_spread_in_order() {
        let plan = plan(&[11, 10, 10], 15);
        assert_eq!((plan.speed, plan.entries.len()), (1, 3));
        assert_eq!(plan.due, [0, 500, 1000].map(Duration::from_millis));
    }

    #[test]
    fn idle_time_is_cut() {
        let plan = plan(&[0, 86_400, 86_401], 1);
        assert_eq!((plan.busy, plan.speed), (Duration::from_secs(925), 925));
        assert_eq!(plan.due[2], Duration::from_secs(1));
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let plan = plan(&(0..100_000).collect::<Vec<_>>(), 1);
        assert_eq!((plan.all, plan.entries.len(), plan.speed), (100_000, 1501, 1500));
    }
}
