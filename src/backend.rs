//! State of one server process.

use std::cell::RefCell;

use pgrx::pg_sys;

/// The database of this process.
#[inline(always)]
pub fn database() -> u32 {
    // SAFETY: a plain variable, set when the process connected to its database.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

/// A variable of this process. Every PostgreSQL process has one thread that runs extension code, so it needs no lock.
pub struct BackendCell<T>(RefCell<T>);

// SAFETY: a server process calls into this library from its main thread only; pgrx panics on calls from any other.
unsafe impl<T> Sync for BackendCell<T> {}

impl<T> BackendCell<T> {
    pub const fn new(value: T) -> Self {
        BackendCell(RefCell::new(value))
    }

    /// Runs `f` on the variable. `f` must not call into PostgreSQL, which may call back.
    #[inline(always)]
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.0.borrow_mut())
    }
}
