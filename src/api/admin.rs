//! Forgetting, and looking at the whole.

use pgrx::pg_sys::Datum;

use crate::config;
use crate::datum;
use crate::function::pg_function;
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
        let forgotten = store.header().table().reset_all(limiter.tag(), store.header().clock.now().steady);
        Ok(datum::count(forgotten).unwrap_or(Datum::null()))
    }
}

pg_function! {
    /// Sums up what durable limiters wrote down, and drops what matters no more; says how many rows are gone.
    fn rl_purge(call) {
        let store = Store::new(call)?;
        let schema = call.schema();
        let folded = crate::durable::fold(store.header(), schema)?;
        let purged = crate::durable::purge(store.header(), schema, u64::MAX)?;
        Ok(datum::count(folded + purged).unwrap_or(Datum::null()))
    }
}

pg_function! {
    /// What `rl_info` says of shared memory and of this library. Reads the whole table.
    fn _rl_info(call) {
        let version = Some(datum::text(env!("CARGO_PKG_VERSION").as_bytes()));
        let Some(header) = shmem::header() else {
            return Ok(datum::row(call, &[Some(Datum::from(false)), None, None, None, version]));
        };
        let keys = header.table().keys(header.clock.now().steady);
        Ok(datum::row(call, &[
            Some(Datum::from(true)),
            datum::count(keys),
            datum::count(config::max_keys() as u64),
            datum::count(header.evictions()),
            version,
        ]))
    }
}

pg_function! {
    /// Refuses where there is no shared memory to count in.
    fn _rl_require_memory(_call) {
        match shmem::header() {
            Some(_) => Ok(Datum::from(true)),
            None => Err(crate::error::Error::not_preloaded()),
        }
    }
}
