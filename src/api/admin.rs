//! Forgetting, and looking at the whole.

use pgrx::pg_sys::Datum;

use crate::datum;
use crate::error::Error;
use crate::function::pg_function;
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
        let preloaded = Datum::from(shmem::is_preloaded());
        let Some(header) = shmem::get()? else {
            return Ok(datum::row(call, &[Some(preloaded), None, None, None, version]));
        };
        let keys = header.table().keys(header.clock.now().steady);
        Ok(datum::row(call, &[
            Some(preloaded),
            datum::count(keys),
            datum::count(header.max_keys as u64),
            datum::count(header.evictions()),
            version,
        ]))
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
