//! Bans by hand, and what there are.

use pgrx::pg_sys::Datum;
use ratelimit_core::Micros;

use crate::bans::{self, Sentence};
use crate::datum::{self, Rows, EPOCHS};
use crate::error::{Error, Result};
use crate::function::{pg_function, Call};
use crate::interval::Parts;
use crate::shmem;
use crate::store::Store;

pg_function! {
    /// Bans a key for so long, or for ever.
    fn rl_ban(call) {
        let (limiter, key) = (call.text(0, "limiter")?, call.text(1, "key")?);
        let duration = duration(call, 2)?;
        let reason = call.optional(3).map(|_| call.text(3, "reason")).transpose()?;
        let store = Store::new(call)?;
        let limiter = store.limiter(limiter)?;
        bans::ban(store.header(), &limiter, key, Sentence { duration, reason })?;
        Ok(Datum::null())
    }
}

pg_function! {
    /// Ends a ban; says whether there was one.
    fn rl_unban(call) {
        let (limiter, key) = (call.text(0, "limiter")?, call.text(1, "key")?);
        let store = Store::new(call)?;
        let limiter = store.limiter(limiter)?;
        Ok(Datum::from(bans::unban(store.header(), &limiter, key)?))
    }
}

pg_function! {
    /// The bans that shared memory holds for this database. Reads the whole table.
    fn _rl_bans(call) {
        let mut rows = Rows::new(call);
        let Some(header) = shmem::get()? else {
            return Ok(Datum::null());
        };
        let clock = header.clock.now();
        let time = |steady: Micros| {
            let wall = steady.saturating_add(clock.wall - clock.steady).saturating_sub(EPOCHS);
            Datum::from(wall)
        };
        bans::all(header, |ban| {
            rows.push(&[
                Some(datum::uuid(ban.limiter)),
                Some(datum::text(ban.text)),
                ban.reason.map(datum::text),
                Some(datum::boolean(ban.automatic)),
                Some(time(ban.since)),
                ban.until.map(time),
            ]);
        });
        Ok(Datum::null())
    }
}

fn duration(call: &Call, n: usize) -> Result<Option<Micros>> {
    // SAFETY: SQL declares the argument as interval.
    match call.optional(n).map(|datum| unsafe { Parts::read(datum) }.wait()) {
        Some(..=0) => Err(Error::duration()),
        duration => Ok(duration),
    }
}
