//! The extension in the database that this process is connected to.

use std::ffi::CStr;

use pgrx::pg_sys::{self, Datum, Oid};

use crate::backend;
use crate::compat;
use crate::error::{Error, Result};

/// The row of `pg_extension`, as far as it is used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Extension {
    oid: Oid,
    owner: Oid,
    schema: Oid,
}

const NAME: &CStr = c"ratelimit";

impl Extension {
    /// The extension, if this database has it.
    pub fn find() -> Option<Self> {
        // SAFETY: a catalog, its index on the name, and a key of the column's type; the row is read before the scan ends.
        unsafe {
            let name = Datum::from(NAME.as_ptr());
            let mut key = pg_sys::ScanKeyData::default();
            pg_sys::ScanKeyInit(
                &mut key,
                pg_sys::Anum_pg_extension_extname as i16,
                pg_sys::BTEqualStrategyNumber as u16,
                Oid::from(pg_sys::F_NAMEEQ),
                name,
            );
            let catalog =
                pg_sys::table_open(pg_sys::ExtensionRelationId, pg_sys::AccessShareLock as i32);
            let index = Oid::from(pg_sys::ExtensionNameIndexId);
            let scan =
                pg_sys::systable_beginscan(catalog, index, true, std::ptr::null_mut(), 1, &mut key);
            let tuple = pg_sys::systable_getnext(scan);
            let found = (!tuple.is_null()).then(|| {
                let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_extension>();
                Extension { oid: row.oid, owner: row.extowner, schema: row.extnamespace }
            });
            pg_sys::systable_endscan(scan);
            pg_sys::table_close(catalog, pg_sys::AccessShareLock as i32);
            found
        }
    }

    /// Keeps it from being dropped until the transaction ends. Does not wait for who is dropping it: that may need what we hold.
    pub fn hold(&self) -> bool {
        let database = Oid::from(backend::database());
        let class = pg_sys::ExtensionRelationId;
        let held = compat::try_lock(database, class, self.oid, pg_sys::AccessShareLock);
        held && Self::find().as_ref() == Some(self)
    }

    /// The schema with its tables.
    pub fn schema(&self) -> Oid {
        self.schema
    }

    /// The name of the schema, as SQL has to write it, in the database's encoding.
    pub fn quoted_schema(&self) -> &[u8] {
        // SAFETY: the extension's schema exists as long as it does; both answer terminated strings, which live as long as the command.
        let name = unsafe {
            CStr::from_ptr(pg_sys::quote_identifier(pg_sys::get_namespace_name(self.schema)))
        };
        name.to_bytes()
    }

    /// Who owns it.
    pub fn owner(&self) -> Oid {
        self.owner
    }

    /// Whether it has a table of this name: one that came with a later version is not there before the extension is updated.
    pub fn has_table(&self, name: &CStr) -> bool {
        // SAFETY: catalog look-ups by a terminated name and by oid; what does not exist is answered by 0.
        let extension = unsafe {
            let table = pg_sys::get_relname_relid(name.as_ptr(), self.schema);
            pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, table)
        };
        extension == self.oid
    }

    /// A table of the extension. Who may create tables in its schema, or was given one of its tables, could have put their own
    /// functions there, in triggers and indexes: such a table is refused.
    pub fn table(&self, name: &CStr) -> Result<Oid> {
        let foreign = || Error::foreign_table(&name.to_string_lossy());
        // SAFETY: catalog look-ups by a terminated name and by oid, and a lock on a table that may have gone by then.
        unsafe {
            let table = pg_sys::get_relname_relid(name.as_ptr(), self.schema);
            let relation = pg_sys::try_relation_open(table, pg_sys::AccessShareLock as i32);
            if relation.is_null() {
                return Err(foreign());
            }
            let owner = (*(*relation).rd_rel).relowner;
            pg_sys::relation_close(relation, pg_sys::NoLock as i32);
            let extension = pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, table);
            if extension == self.oid && owner == self.owner {
                Ok(table)
            } else {
                Err(foreign())
            }
        }
    }
}
