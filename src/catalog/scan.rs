//! Reads the definition tables as PostgreSQL reads its catalogs: by index, with the latest snapshot, whoever is calling.

use std::ffi::CStr;

use pgrx::pg_sys::{self, Datum, Oid};

use crate::encoding;
use crate::interval::Parts;

/// The definition tables and their primary keys.
pub struct Tables {
    pub schema: Oid,
    pub limiters: Oid,
    limiters_key: Oid,
    rules: Oid,
    rules_key: Oid,
}

impl Tables {
    /// Those in the schema of one of the extension's functions.
    pub fn of(function: Oid) -> Self {
        // SAFETY: a catalog look-up by oid; what does not exist is answered by 0.
        Self::in_schema(unsafe { pg_sys::get_func_namespace(function) })
    }

    /// Those in a schema.
    pub fn in_schema(schema: Oid) -> Self {
        // SAFETY: catalog look-ups by terminated name; what does not exist is answered by 0.
        let relation = |name: &CStr| unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) };
        Tables {
            schema,
            limiters: relation(c"rl_limiters"),
            limiters_key: relation(c"rl_limiters_pkey"),
            rules: relation(c"rl_rules"),
            rules_key: relation(c"rl_rules_pkey"),
        }
    }
}

/// Tells a limiter from any other that was ever created.
pub type Id = [u8; 16];

/// A row of `rl_limiters`, as far as it is used yet, and its rules in order.
pub struct LimiterRow {
    pub name: String,
    pub storage: String,
    pub on_rollback: String,
    pub mode: String,
    pub max_concurrent: Option<i32>,
    pub wait_timeout: Option<Parts>,
    /// Whether a column is set that later versions will use.
    pub bans: bool,
    pub id: Id,
    pub rules: Vec<RuleRow>,
}

/// A row of `rl_rules`.
pub struct RuleRow {
    pub position: i32,
    pub algorithm: String,
    pub quota: i64,
    pub period: Parts,
    pub burst: Option<i64>,
    pub refill: String,
    pub anchor: String,
    pub time_zone: String,
}

/// A limiter and its rules.
pub fn limiter(tables: &Tables, name: &[u8]) -> Option<LimiterRow> {
    let mut found = None;
    scan(tables.limiters, tables.limiters_key, Some(name), |row: &Row<12>| {
        found = Some(LimiterRow {
            name: row.text(0),
            storage: row.label(2),
            on_rollback: row.label(3),
            mode: row.label(4),
            max_concurrent: row.get(5).map(|datum| datum.value() as i32),
            // SAFETY: the table declares the column as interval.
            wait_timeout: row.get(6).map(|datum| unsafe { Parts::read(datum) }),
            bans: (7..10).any(|column| row.get(column).is_some()),
            id: row.uuid(11),
            rules: Vec::new(),
        });
    });
    let mut limiter = found?;
    scan(tables.rules, tables.rules_key, Some(name), |row: &Row<9>| {
        limiter.rules.push(RuleRow {
            position: row.bigint(1) as i32,
            algorithm: row.label(2),
            quota: row.bigint(3),
            // SAFETY: the table declares the column as interval, and not null.
            period: unsafe { Parts::read(row.get(4).unwrap_or(Datum::null())) },
            burst: row.get(5).map(|datum| datum.value() as i64),
            refill: row.text(6),
            anchor: row.text(7),
            time_zone: row.text(8),
        });
    });
    limiter.rules.sort_by_key(|rule| rule.position);
    Some(limiter)
}

/// The names of all limiters.
pub fn names(tables: &Tables) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    scan(tables.limiters, tables.limiters_key, None, |row: &Row<1>| {
        // SAFETY: the table declares the column as text; the tuple is alive while the row is read.
        names.extend(row.get(0).map(|name| unsafe { crate::function::text(name) }.to_vec()));
    });
    names
}

/// The ids of all limiters.
pub fn ids(tables: &Tables) -> Vec<Id> {
    let mut ids = Vec::new();
    scan(tables.limiters, tables.limiters_key, None, |row: &Row<12>| ids.push(row.uuid(11)));
    ids
}

/// The first columns of a row; the table has at least so many.
struct Row<const N: usize> {
    values: [Datum; N],
    nulls: [bool; N],
}

impl<const N: usize> Row<N> {
    fn get(&self, column: usize) -> Option<Datum> {
        (!self.nulls[column]).then(|| self.values[column])
    }

    fn bigint(&self, column: usize) -> i64 {
        self.values[column].value() as i64
    }

    fn text(&self, column: usize) -> String {
        // SAFETY: the table declares the column as text; the tuple is alive while the row is read.
        let bytes =
            self.get(column).map_or(&[][..], |datum| unsafe { crate::function::text(datum) });
        encoding::decode(bytes).into_owned()
    }

    fn uuid(&self, column: usize) -> Id {
        // SAFETY: the table declares the column as uuid, and not null; the tuple is alive while the row is read.
        unsafe { *self.values[column].cast_mut_ptr::<Id>() }
    }

    /// The label of an enum.
    fn label(&self, column: usize) -> String {
        enum_label(self.values[column])
    }
}

/// The label of an enum value.
pub fn enum_label(value: Datum) -> String {
    pgrx::enum_helper::lookup_enum_by_oid(Oid::from(value.value() as u32)).0
}

/// Reads all rows whose first column is `name`, or all.
fn scan<const N: usize>(
    table: Oid,
    index: Oid,
    name: Option<&[u8]>,
    mut read: impl FnMut(&Row<N>),
) {
    const TEXT_EQUAL: u32 = 67;
    // SAFETY: the extension's own table and index, read under the lock that table_open takes. A null snapshot makes
    // systable_beginscan take the latest one. If anything here raises an error, the transaction's abort closes them.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &mut key,
            1,
            pg_sys::BTEqualStrategyNumber as u16,
            Oid::from(TEXT_EQUAL),
            name.map_or(Datum::null(), crate::datum::text),
        );
        let (indexed, keys) = (name.is_some(), i32::from(name.is_some()));
        let snapshot = std::ptr::null_mut();
        let scan = pg_sys::systable_beginscan(relation, index, indexed, snapshot, keys, &mut key);
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let columns = (*(*relation).rd_att).natts as usize;
            let mut values = vec![Datum::null(); columns];
            let mut nulls = vec![true; columns];
            pg_sys::heap_deform_tuple(
                tuple,
                (*relation).rd_att,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
            if let (Some(values), Some(nulls)) = (values.first_chunk(), nulls.first_chunk()) {
                read(&Row { values: *values, nulls: *nulls });
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
}
