//! Forgetting, and looking at the whole.

use pgrx::pg_sys::Datum;

use crate::catalog::Stake;
use crate::datum;
use crate::encoding;
use crate::error::Error;
use crate::function::pg_function;
use crate::house;
use crate::shmem;
use crate::store::Store;

pg_function! {
    /// Forgets what a key has used; says whether it had used anything.
    fn rl_reset(call) {
        let (limiter, key) = (call.text(0, "limiter")?, call.text(1, "key")?);
        let store = Store::new(call)?;
        let limiter = store.limiter(limiter)?;
        Ok(Datum::from(store.reset(&limiter, key)?))
    }
}

pg_function! {
    /// Forgets what all keys of a limiter have used; says how many had used anything. Reads the whole table.
    fn _rl_reset_all(call) {
        let limiter = call.text(0, "limiter")?;
        let store = Store::new(call)?;
        let limiter = store.limiter(limiter)?;
        // What is durable is forgotten when the transaction commits, by the id that it is known by.
        if limiter.stake() == Stake::Durable {
            return Ok(Datum::from(0_i64));
        }
        let forgotten = store.header().table().reset_all(limiter.tag(), store.header().clock.now().steady);
        Ok(datum::count(forgotten).unwrap_or(Datum::null()))
    }
}

pg_function! {
    /// What `rl_info` says of shared memory and of this library. Reads the whole table.
    fn _rl_info(call) {
        let version = Some(datum::text(env!("CARGO_PKG_VERSION").as_bytes()));
        let preloaded = Datum::from(shmem::is_preloaded());
        let Some(header) = shmem::get()? else {
            return Ok(datum::row(call, &[Some(preloaded), None, None, None, None, None, None, None, None, version]));
        };
        let news = header.news(|news| *news);
        let purged = news.last_purge != 0;
        let keys = header.table().keys(header.clock.now().steady);
        Ok(datum::row(call, &[
            Some(preloaded),
            datum::count(keys),
            datum::count(header.max_keys as u64),
            datum::count(header.evictions()),
            datum::count(header.with_slots(|slots| slots.taken()).into()),
            datum::count(header.max_slots() as u64),
            purged.then(|| Datum::from(news.last_purge)),
            datum::count(news.last_rows).filter(|_| purged),
            news.error().map(|error| datum::text(encoding::portable(&error).as_bytes())),
            version,
        ]))
    }
}

pg_function! {
    /// Sums up and removes what can be, now, in this transaction; says how many rows that were.
    fn rl_purge(_call) {
        Ok(datum::count(house::purge()?).unwrap_or(Datum::null()))
    }
}

pg_function! {
    /// Whether there is shared memory to count in. Where it is required, its absence is an error.
    fn _rl_has_memory(call) {
        let required = call.required(0, "required")?.value() != 0;
        if !required && !shmem::is_possible() {
            return Ok(Datum::from(false));
        }
        shmem::get()?.ok_or_else(Error::not_preloaded)?;
        Ok(Datum::from(true))
    }
}
