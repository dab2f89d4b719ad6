//! The databases of this server, as a process sees them that is connected to none.

use pgrx::pg_sys::{self, Oid};

use super::transaction;

/// Those that a worker may visit. Nothing is counted in a template, and somebody may want to copy it at any time.
pub fn list() -> Vec<Oid> {
    transaction(|| Ok(scan())).unwrap_or_default()
}

/// Whether the database is still there, and nobody is dropping, copying or renaming it: a worker would have to wait for them, or they
/// for the worker.
pub fn is_free(database: Oid) -> bool {
    transaction(|| Ok(lock(database) && scan().contains(&database))).unwrap_or(false)
}

/// Locks the database until the transaction ends, as a session does that connects to it, unless that would have to wait.
fn lock(database: Oid) -> bool {
    let tag = pg_sys::LOCKTAG {
        locktag_field1: 0,
        locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
        locktag_field3: database.to_u32(),
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    let mode = pg_sys::RowExclusiveLock as i32;
    // SAFETY: we are in a transaction.
    let result = unsafe { pg_sys::LockAcquire(&tag, mode, false, true) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

fn scan() -> Vec<Oid> {
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
            // So a DROP DATABASE that was interrupted leaves them.
            const BROKEN: i32 = -2;
            if row.datallowconn && !row.datistemplate && row.datconnlimit != BROKEN {
                databases.push(row.oid);
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(catalog, pg_sys::AccessShareLock as i32);
    }
    databases
}
