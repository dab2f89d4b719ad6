//! `rl_simulate`: what a limit would have done to past calls.

use pgrx::pg_sys::Datum;
use ratelimit_core::{decide, Algorithm, Limit, MemoryState, Now, Operation, Rule, RuleError};

use super::rates;
use crate::datum::{self, Rows};
use crate::encoding;
use crate::error::{Error, Result};
use crate::function::pg_function;
use crate::zone;

/// From 1970-01-01, where we count from, to 2000-01-01, where PostgreSQL does: POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE days.
const POSTGRES_EPOCH: i64 = 10_957 * ratelimit_core::DAY;

pg_function! {
    /// Decides on the past calls of one key, one row each. Touches no state and no clock.
    fn rl_simulate(call) {
        let specs = rates::parse(call, 0, 3)?;
        let times = call.times(1, "times")?;
        let costs = call.costs(2, "costs", "times", times.len())?;
        check(&times)?;
        let zone = call.text(4, "time_zone")?;
        let zone = encoding::decode(zone);
        let calendar = zone::calendar(&zone)?;
        if !zone::is_utc(&zone) && specs.iter().any(|spec| spec.algorithm != Algorithm::FixedWindow) {
            return Err(Error::policy(RuleError::TimeZoneWithoutWindow));
        }
        let rules = specs
            .iter()
            .map(|spec| Rule::new(spec, calendar.clone()).map_err(Error::policy))
            .collect::<Result<Vec<_>>>()?;

        let mut states = vec![MemoryState::default(); rules.len()];
        let mut rows = Rows::new(call);
        for (n, (time, cost)) in (1i32..).zip(times.into_iter().zip(costs)) {
            pgrx::check_for_interrupts!();
            let limit = |(rule, state)| Limit::new(rule, state, cost);
            let mut limits: Vec<_> = rules.iter().zip(&mut states).map(limit).collect();
            let now = Now::at(time.saturating_add(POSTGRES_EPOCH));
            let decision = decide(&mut limits, now, Operation::Take);
            let [a, b, c, d, e, f] = datum::decision(&decision);
            rows.push(&[Some(Datum::from(n)), Some(Datum::from(time)), datum::count(cost), a, b, c, d, e, f]);
        }
        Ok(Datum::null())
    }
}

fn check(times: &[i64]) -> Result<()> {
    if let Some(n) = times.iter().position(|time| *time == i64::MIN || *time == i64::MAX) {
        return Err(Error::infinite_time(n + 1));
    }
    match times.windows(2).position(|pair| pair[1] < pair[0]) {
        Some(n) => Err(Error::decreasing_times(n + 2)),
        None => Ok(()),
    }
}
