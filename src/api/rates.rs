//! Rate strings for the SQL that creates limiters.

use pgrx::pg_sys::Datum;
use ratelimit_core::{parse_rates, Algorithm, RateSpec};

use crate::catalog::enum_label;
use crate::datum::{self, Rows};
use crate::encoding;
use crate::error::{Error, Result};
use crate::function::{pg_function, Call};
use crate::interval;

/// Reads a rate string and an algorithm from two arguments.
pub fn parse(call: &Call, rates: usize, algorithm: usize) -> Result<Vec<RateSpec>> {
    let text = call.text(rates, "rates")?;
    let label = enum_label(call.required(algorithm, "algorithm")?);
    let algorithm = Algorithm::from_name(&label)
        .ok_or_else(|| Error::enum_value("algorithm", label.as_bytes()))?;
    parse_rates(&encoding::decode(text), algorithm).map_err(|error| Error::rate(text, &error))
}

pg_function! {
    /// The rules that a rate string stands for.
    fn _rl_parse_rates(call) {
        let specs = parse(call, 0, 1)?;
        let mut rows = Rows::new(call);
        for (position, spec) in (1i32..).zip(specs) {
            let (period, weeks_are_days) = interval::period_datum(spec.period);
            let epoch = weeks_are_days && spec.algorithm == Algorithm::FixedWindow;
            rows.push(&[
                Some(Datum::from(position)),
                datum::count(spec.quota),
                Some(period),
                spec.burst.and_then(datum::count),
                epoch.then(|| datum::text(b"epoch")),
            ]);
        }
        Ok(Datum::null())
    }
}
