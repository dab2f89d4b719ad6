//! Limits that count in tables.
//!
//! The count that decides is kept in shared memory, as for any limit, and is a copy: [`load`] reads the tables when a key is used
//! first. What a transaction takes is in the copy at once, so that nobody else can take it, and is added to a ledger when the
//! transaction commits; a rollback gives it back to the copy. So sessions that use one key commit side by side, and after a crash
//! the tables know all that was committed. [`fold`] sums the ledger up.
//!
//! Without shared memory the copy is the session's own. A lock on the key, held until the transaction ends, then makes sure that it
//! is the only one, and it is read anew in each transaction.

mod fold;
mod leases;
mod load;
mod lock;
mod tables;
mod turn;
mod write;

pub use fold::{fold, is_empty, purge};
pub use leases::{
    check_standby_lease, leases, load_known_leases, load_leases, purge_leases, write_lease,
    write_leases, Which, Written,
};
pub use load::load;
pub use lock::{lock, lock_token, try_lock_token, unlock, unlock_token, TOKENS};
pub use tables::Scratch;
pub use turn::{enter, has_chosen, leave, Turns};
pub use write::{entries, write};

use crate::datum::EPOCHS;
