//! Refuses wrong definitions as they are written, with the code that would read them.

use pgrx::pg_sys::{self, Datum};

use super::scan::{self, Tables};
use super::Definition;
use crate::error::{Error, Result};
use crate::function::pg_function;
use crate::shmem;
use crate::trigger::Fired;

pg_function! {
    /// Trigger on the definition tables, after each row: reads the whole limiter that the row belongs to.
    fn _rl_check_definition(call) {
        let fired = Fired::new(call, "_rl_check_definition")?;
        // SAFETY: we are in a command of a transaction; the rows that this command wrote become visible to us.
        unsafe { pg_sys::CommandCounterIncrement() };
        // The limiter's name is the first column of both tables.
        let row = fired.row();
        let name = row.column(1).unwrap_or_default();
        let tables = Tables::of(call.function());
        if let Some(row) = scan::limiter(&tables, &name) {
            let limiter = Definition::new(&tables, &name, row, &[0; 16])?;
            let mut wrong = None;
            scan::overrides(&tables, &name, |_, row| {
                wrong = wrong.take().or(check(&limiter, row.quota, row.burst).err());
            });
            wrong.map_or(Ok(()), Err)?;
        }
        Ok(Datum::null())
    }
}

pg_function! {
    /// Trigger on the overrides, after each row: makes the rule that a key gets of its own.
    fn _rl_check_override(call) {
        let row = Fired::new(call, "_rl_check_override")?.row();
        let header = shmem::get()?.unwrap_or_else(shmem::private);
        let name = row.column(1).unwrap_or_default();
        // Where the limiter comes with the same command, its rules are written after this, or fit.
        if let Ok(limiter) = super::limiter(header, &name, call.function()) {
            let number = |column| row.column(column).and_then(|n| std::str::from_utf8(&n).ok()?.parse().ok());
            check(&limiter, number(4), number(5))?;
        }
        Ok(Datum::null())
    }
}

/// A limiter that has no rules yet may get some that fit: then it is looked at again.
fn check(limiter: &Definition, quota: Option<i64>, burst: Option<i64>) -> Result<()> {
    match quota {
        Some(quota) => {
            limiter.limited(quota.unsigned_abs(), burst.map(i64::unsigned_abs)).map(|_| ())
        }
        None => Ok(()),
    }
}

pg_function! {
    /// Refuses a name that no limiter must have.
    fn _rl_check_name(call) {
        let name = call.text(0, "name")?;
        match name_flaw(name) {
            Some(flaw) => Err(Error::name(name, flaw)),
            None => Ok(Datum::from(true)),
        }
    }
}

/// Why a name could not be told from another on a screen or in a log.
pub fn name_flaw(name: &[u8]) -> Option<&'static str> {
    const LONGEST: usize = 63;
    if name.is_empty() {
        Some("A name has at least one character.")
    } else if name.len() > LONGEST {
        Some("A name has at most 63 bytes.")
    } else if String::from_utf8_lossy(name).chars().any(char::is_control) {
        Some("A name has no control characters.")
    } else {
        None
    }
}
