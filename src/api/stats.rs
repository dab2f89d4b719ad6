//! Statistics, as `sql/stats.sql` declares them.

use pgrx::pg_sys::Datum;
use ratelimit_core::stats::Counter;
use ratelimit_core::Micros;

use crate::catalog;
use crate::datum::{self, Rows, EPOCHS};
use crate::error::Error;
use crate::function::{pg_function, Call};
use crate::interval;
use crate::shmem;
use crate::stats;

pg_function! {
    /// What was counted of a limiter, in the order of the view's columns; all null where it is not counted.
    fn _rl_stat_limiter(call) {
        shmem::get()?;
        let id = call.uuid(0, "id")?;
        let Some((counts, since)) = stats::total(&id) else {
            return Ok(datum::row(call, &[None; 10]));
        };
        let count = |counter: Counter| {
            let n = counts.get(counter as usize).copied().unwrap_or(0);
            i64::try_from(n).unwrap_or(i64::MAX)
        };
        let number = |counter| Some(Datum::from(count(counter)));
        Ok(datum::row(call, &[
            number(Counter::Allowed),
            number(Counter::Denied),
            number(Counter::Refunded),
            number(Counter::Waits),
            Some(interval::datum(count(Counter::WaitTime))),
            number(Counter::Timeouts),
            number(Counter::Bans),
            number(Counter::ShadowDenied),
            since.map(timestamp),
            number(Counter::NearLimit),
        ]))
    }
}

pg_function! {
    /// The keys of a limiter that were denied most.
    fn rl_stat_keys(call) {
        let (limiter, most) = (call.text(0, "limiter")?, integer(call, 1, "n")?);
        let mut rows = Rows::new(call);
        let header = shmem::get()?.unwrap_or_else(shmem::private);
        let limiter = catalog::limiter(header, limiter, call.function())?;
        for key in stats::denied_keys(&limiter.id()).iter().take(most) {
            rows.push(&[
                Some(datum::text(&key.text)),
                datum::count(key.allowed),
                datum::count(key.denied),
                Some(timestamp(key.last)),
            ]);
        }
        Ok(Datum::null())
    }
}

pg_function! {
    /// Counts all limiters of this database from 0 again.
    fn rl_stat_reset(_call) {
        shmem::get()?;
        stats::reset();
        Ok(Datum::null())
    }
}

fn timestamp(wall: Micros) -> Datum {
    Datum::from(wall.saturating_sub(EPOCHS))
}

/// An integer that must not be negative.
fn integer(call: &Call, n: usize, name: &str) -> crate::error::Result<usize> {
    let number = call.required(n, name)?.value() as i32;
    usize::try_from(number).map_err(|_| Error::negative(name, number.into()))
}
