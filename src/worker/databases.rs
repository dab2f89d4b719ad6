//! The databases of this server, as a process sees them that is connected to none.

use pgrx::pg_sys::{self, Oid};

use super::transaction;
use crate::compat;

/// Those that a worker may visit. Nothing is counted in a template, and somebody may want to copy it at any time.
pub fn list() -> Vec<Oid> {
    transaction(|| Ok(scan(can_be_visited))).unwrap_or_default()
}

/// All, whatever they are.
pub fn all() -> Vec<Oid> {
    transaction(|| Ok(scan(|_| true))).unwrap_or_default()
}

/// Whether the database is still there, and nobody is dropping, copying or renaming it: a worker would have to wait for them, or they
/// for the worker.
pub fn is_free(database: Oid) -> bool {
    transaction(|| Ok(lock(database) && scan(can_be_visited).contains(&database))).unwrap_or(false)
}

/// Locks the database until the transaction ends, as a session does that connects to it, unless that would have to wait.
fn lock(database: Oid) -> bool {
    compat::try_lock(Oid::INVALID, pg_sys::DatabaseRelationId, database, pg_sys::RowExclusiveLock)
}

fn can_be_visited(row: &pg_sys::FormData_pg_database) -> bool {
    // So a DROP DATABASE that was interrupted leaves them.
    const BROKEN: i32 = -2;
    row.datallowconn && !row.datistemplate && row.datconnlimit != BROKEN
}

fn scan(wanted: impl Fn(&pg_sys::FormData_pg_database) -> bool) -> Vec<Oid> {
    let mut databases = Vec::new();
    // SAFETY: a shared catalog, read under the lock that table_open takes; a row is read before the scan goes on.
    unsafe {
        let catalog =
            pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let none = std::ptr::null_mut();
        let scan =
            pg_sys::systable_beginscan(catalog, Oid::INVALID, false, none, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            if wanted(row) {
                databases.push(row.oid);
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(catalog, pg_sys::AccessShareLock as i32);
    }
    databases
}
