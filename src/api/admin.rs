//! Forgetting, and looking at the whole.

use pgrx::pg_sys::Datum;

use crate::config;
use crate::datum;
use crate::function::pg_function;
use crate::house;
use crate::memory::Memory;
use crate::shmem;

pg_function! {
    /// Forgets what a key has used; says whether it had used anything.
    fn rl_reset(call) {
        let (limiter, key) = (call.text(0, "limiter")?, call.text(1, "key")?);
        let memory = Memory::new(call)?;
        let limiter = memory.limiter(limiter)?;
        let table = memory.header().table();
        Ok(Datum::from(table.reset(limiter.key(key), limiter.positions(), memory.header().clock.now().steady)))
    }
}

pg_function! {
    /// Forgets what all keys of a limiter have used; says how many had used anything. Reads the whole table.
    fn rl_reset_all(call) {
        let limiter = call.text(0, "limiter")?;
        let memory = Memory::new(call)?;
        let limiter = memory.limiter(limiter)?;
        let forgotten = memory.header().table().reset_all(limiter.tag(), memory.header().clock.now().steady);
        Ok(datum::count(forgotten).unwrap_or(Datum::null()))
    }
}

pg_function! {
    /// What `rl_info` says of shared memory and of this library. Reads the whole table.
    fn _rl_info(call) {
        let version = Some(datum::text(env!("CARGO_PKG_VERSION").as_bytes()));
        let Some(header) = shmem::header() else {
            return Ok(datum::row(call, &[Some(Datum::from(false)), None, None, None, None, None, None, version]));
        };
        let news = header.news(|news| *news);
        let purged = news.last_purge != 0;
        let keys = header.table().keys(header.clock.now().steady);
        Ok(datum::row(call, &[
            Some(Datum::from(true)),
            datum::count(keys),
            datum::count(config::max_keys() as u64),
            datum::count(header.evictions()),
            purged.then(|| Datum::from(news.last_purge)),
            datum::count(news.last_rows).filter(|_| purged),
            news.error().map(|error| datum::foreign_text(&error)),
            version,
        ]))
    }
}

pg_function! {
    /// Removes what has expired: all of it, now, in this transaction; says how many rows that were.
    fn rl_purge(_call) {
        Ok(datum::count(house::purge()?).unwrap_or(Datum::null()))
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
