//! What the definitions of the algorithms allow, from the times of grants alone.

use std::time::Duration;

use anyhow::{ensure, Result};

pub const QUOTA: u64 = 10;
pub const PERIOD: Duration = Duration::from_millis(40);

/// A grant, between two times of the client.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    pub before: Duration,
    pub after: Duration,
    pub cost: u64,
}

pub struct Oracle {
    algorithm: &'static str,
    /// When a window began, at the earliest and at the latest, in nanoseconds.
    phase: (i128, i128),
}

fn nanos(time: Duration) -> i128 {
    time.as_nanos() as i128
}

const WINDOW: i128 = PERIOD.as_nanos() as i128;

impl Oracle {
    pub fn new(algorithm: &'static str) -> Self {
        Oracle { algorithm, phase: (0, 0) }
    }

    /// A window began between these times. The server says it in whole microseconds.
    pub fn set_phase(&mut self, earliest: Duration, latest: Duration) {
        self.phase = (nanos(earliest) - 2_000, nanos(latest) + 2_000);
    }

    /// Complains if there are more grants than the definition allows, wherever exactly they were between their two times.
    pub fn check(&self, mut grants: Vec<Grant>) -> Result<()> {
        grants.sort_by_key(|grant| grant.before);
        match self.algorithm {
            "token_bucket" => bucket(&grants),
            "sliding_log" => log(&grants),
            "fixed_window" => self.fixed_window(&grants),
            _ => self.sliding_window(&grants),
        }
    }

    /// The window that a grant was surely in, if there is one.
    fn window(&self, grant: &Grant) -> Option<i128> {
        let first = (nanos(grant.before) - self.phase.1).div_euclid(WINDOW);
        let last = (nanos(grant.after) - self.phase.0).div_euclid(WINDOW);
        (first == last).then_some(first)
    }

    fn fixed_window(&self, grants: &[Grant]) -> Result<()> {
        for grant in grants {
            let Some(window) = self.window(grant) else { continue };
            let same = grants.iter().filter(|other| self.window(other) == Some(window));
            let sum: u64 = same.map(|grant| grant.cost).sum();
            ensure!(sum <= QUOTA, "{sum} in the window of {grant:?}: {grants:?}");
        }
        Ok(())
    }

    fn sliding_window(&self, grants: &[Grant]) -> Result<()> {
        for (n, grant) in grants.iter().enumerate() {
            let Some(window) = self.window(grant) else { continue };
            let surely_in = |window: i128| {
                grants
                    .iter()
                    .enumerate()
                    .filter(move |(_, other)| self.window(other) == Some(window))
            };
            let previous: u64 = surely_in(window - 1).map(|(_, grant)| grant.cost).sum();
            let earlier =
                surely_in(window).filter(|(m, other)| *m != n && other.after <= grant.before);
            let current: u64 = earlier.map(|(_, grant)| grant.cost).sum::<u64>() + grant.cost;
            let elapsed = nanos(grant.after) - (self.phase.0 + window * WINDOW);
            let weighted =
                i128::from(previous) * (WINDOW - elapsed).max(0) + i128::from(current) * WINDOW;
            ensure!(
                weighted <= i128::from(QUOTA) * WINDOW,
                "{previous} in the window before, {current} in that of {grant:?}: {grants:?}"
            );
        }
        Ok(())
    }
}

/// In any time a whole bucket, and what came back meanwhile.
fn bucket(grants: &[Grant]) -> Result<()> {
    stretches(grants, |span, sum| {
        i128::from(sum) * WINDOW <= i128::from(QUOTA) * (WINDOW + nanos(span))
    })
}

/// In less than a period no more than the quota.
fn log(grants: &[Grant]) -> Result<()> {
    stretches(grants, |span, sum| span >= PERIOD || sum <= QUOTA)
}

/// Looks at all grants that were surely between the beginning of one and the end of another.
fn stretches(grants: &[Grant], allowed: impl Fn(Duration, u64) -> bool) -> Result<()> {
    for (n, first) in grants.iter().enumerate() {
        for last in &grants[n..] {
            let within = grants[n..].iter().filter(|grant| grant.after <= last.after);
            let sum = within.map(|grant| grant.cost).sum();
            let span = last.after.saturating_sub(first.before);
            ensure!(allowed(span, sum), "{sum} in {span:?} from {first:?} to {last:?}: {grants:?}");
        }
    }
    Ok(())
}
