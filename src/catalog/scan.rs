//! Reads the definition tables as PostgreSQL reads its catalogs: by index, with the latest snapshot, whoever is calling.

use std::ffi::CStr;

use pgrx::pg_sys::{self, Datum, Oid};

use crate::encoding;
use crate::interval::Parts;

/// The definition tables, and the lists of keys that are treated otherwise, with their primary keys. An extension that has not been
/// updated yet to the version of this library may have no lists: their oids are 0 then, and they read as empty.
#[derive(Clone, Copy)]
pub struct Tables {
    pub schema: Oid,
    pub limiters: Oid,
    limiters_key: Oid,
    rules: Oid,
    rules_key: Oid,
    pub overrides: Oid,
    overrides_key: Oid,
    pub bans: Oid,
    bans_key: Oid,
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
        // SAFETY: a catalog look-up by oid; what belongs to no extension is answered by 0.
        let extension =
            |table| unsafe { pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, table) };
        let limiters = relation(c"rl_limiters");
        // Where the extension has no such table yet, anybody's may have its name.
        let list = |name: &CStr, key: &CStr| match relation(name) {
            table if extension(table) == extension(limiters) => (table, relation(key)),
            _ => (Oid::INVALID, Oid::INVALID),
        };
        let (overrides, overrides_key) = list(c"rl_overrides", c"rl_overrides_pkey");
        let (bans, bans_key) = list(c"rl_durable_bans", c"rl_durable_bans_pkey");
        Tables {
            schema,
            limiters,
            limiters_key: relation(c"rl_limiters_pkey"),
            rules: relation(c"rl_rules"),
            rules_key: relation(c"rl_rules_pkey"),
            overrides,
            overrides_key,
            bans,
            bans_key,
        }
    }
}

/// Tells a limiter from any other that was ever created.
pub type Id = [u8; 16];

/// A row of `rl_limiters`, and its rules in order.
pub struct LimiterRow {
    pub name: String,
    pub storage: String,
    pub on_rollback: String,
    pub mode: String,
    pub max_concurrent: Option<i32>,
    pub wait_timeout: Option<Parts>,
    pub ban_after: Option<i32>,
    pub ban_within: Option<Parts>,
    pub ban_for: Option<Parts>,
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
    scan(tables.limiters, tables.limiters_key, &[name], |row: &Row<12>| {
        found = Some(LimiterRow {
            name: row.text(0),
            storage: row.label(2),
            on_rollback: row.label(3),
            mode: row.label(4),
            max_concurrent: row.get(5).map(|datum| datum.value() as i32),
            wait_timeout: row.interval(6),
            ban_after: row.get(7).map(|datum| datum.value() as i32),
            ban_within: row.interval(8),
            ban_for: row.interval(9),
            id: row.uuid(11),
            rules: Vec::new(),
        });
        true
    });
    let mut limiter = found?;
    scan(tables.rules, tables.rules_key, &[name], |row: &Row<9>| {
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
        true
    });
    limiter.rules.sort_by_key(|rule| rule.position);
    Some(limiter)
}

/// The names of all limiters.
pub fn names(tables: &Tables) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    scan(tables.limiters, tables.limiters_key, &[], |row: &Row<1>| {
        names.push(row.bytes(0).to_vec());
        true
    });
    names
}

/// The ids of all limiters, also of those that open transactions have created.
pub fn ids(tables: &Tables) -> Vec<Id> {
    let mut ids = Vec::new();
    let mut dirty = dirty();
    // A row that is written anew while the first scan goes on may escape it, but not the other one.
    for snapshot in [&raw mut dirty, std::ptr::null_mut()] {
        scan_as(snapshot, tables.limiters, tables.limiters_key, &[], |row: &Row<12>| {
            ids.push(row.uuid(11));
            true
        });
    }
    ids
}

/// A row of `rl_overrides`.
pub struct OverrideRow {
    pub action: String,
    pub quota: Option<i64>,
    pub burst: Option<i64>,
    /// In microseconds from 2000; `i64::MAX` for ever.
    pub expires: i64,
}

fn override_row(row: &Row<7>) -> OverrideRow {
    OverrideRow {
        action: row.text(2),
        quota: row.get(3).map(|datum| datum.value() as i64),
        burst: row.get(4).map(|datum| datum.value() as i64),
        expires: row.time(5),
    }
}

/// The override of a key.
pub fn override_of(tables: &Tables, limiter: &[u8], key: &[u8]) -> Option<OverrideRow> {
    let mut found = None;
    scan(tables.overrides, tables.overrides_key, &[limiter, key], |row: &Row<7>| {
        found = Some(override_row(row));
        false
    });
    found
}

/// All overrides of a limiter, with their keys.
pub fn overrides(tables: &Tables, limiter: &[u8], mut read: impl FnMut(&[u8], OverrideRow)) {
    scan(tables.overrides, tables.overrides_key, &[limiter], |row: &Row<7>| {
        read(row.bytes(1), override_row(row));
        true
    });
}

/// When the ban of a key of a durable limiter ends, in microseconds from 2000; `i64::MAX` for never.
pub fn ban_of(tables: &Tables, limiter: &[u8], key: &[u8]) -> Option<i64> {
    let mut found = None;
    scan(tables.bans, tables.bans_key, &[limiter, key], |row: &Row<6>| {
        found = Some(row.time(5));
        false
    });
    found
}

/// The same of the ban that there is or that another transaction is writing: of several, when the last one ends. One that is being removed
/// is there still.
pub fn coming_ban_of(tables: &Tables, limiter: &[u8], key: &[u8]) -> Option<i64> {
    let mut last = None;
    let mut dirty = dirty();
    scan_as(&mut dirty, tables.bans, tables.bans_key, &[limiter, key], |row: &Row<6>| {
        last = last.max(Some(row.time(5)));
        true
    });
    last
}

/// Shows the keys of a limiter that are in one of the lists, until the reader answers false.
pub fn listed_keys(tables: &Tables, limiter: &[u8], mut read: impl FnMut(&[u8]) -> bool) {
    let mut go_on = true;
    for (table, index) in [(tables.overrides, tables.overrides_key), (tables.bans, tables.bans_key)]
    {
        scan(table, index, &[limiter], |row: &Row<2>| {
            go_on = go_on && read(row.bytes(1));
            go_on
        });
    }
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

    fn bytes(&self, column: usize) -> &[u8] {
        // SAFETY: the table declares the column as text; the tuple is alive while the row is read.
        self.get(column).map_or(&[], |datum| unsafe { crate::function::text(datum) })
    }

    fn text(&self, column: usize) -> String {
        encoding::decode(self.bytes(column)).into_owned()
    }

    fn interval(&self, column: usize) -> Option<Parts> {
        // SAFETY: the table declares the column as interval; the tuple is alive while the row is read.
        self.get(column).map(|datum| unsafe { Parts::read(datum) })
    }

    /// A time that may be missing, or infinite, for "never".
    fn time(&self, column: usize) -> i64 {
        self.get(column).map_or(i64::MAX, |datum| datum.value() as i64)
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

/// A snapshot that shows what open transactions have written, and what they have removed.
fn dirty() -> pg_sys::SnapshotData {
    let snapshot_type = pg_sys::SnapshotType::SNAPSHOT_DIRTY;
    pg_sys::SnapshotData { snapshot_type, ..Default::default() }
}

/// Reads all rows whose first columns are these texts, until `read` answers false; of a table that is not there, none.
fn scan<const N: usize>(
    table: Oid,
    index: Oid,
    texts: &[&[u8]],
    read: impl FnMut(&Row<N>) -> bool,
) {
    // systable_beginscan takes the latest snapshot then.
    scan_as(std::ptr::null_mut(), table, index, texts, read);
}

/// The same with a snapshot.
fn scan_as<const N: usize>(
    snapshot: pg_sys::Snapshot,
    table: Oid,
    index: Oid,
    texts: &[&[u8]],
    mut read: impl FnMut(&Row<N>) -> bool,
) {
    const TEXT_EQUAL: u32 = 67;
    const MOST: usize = 2;
    if table == Oid::INVALID {
        return;
    }
    // SAFETY: the extension's own table and index, read under the lock that table_open takes. If anything here raises an error, the
    // transaction's abort closes them. The snapshot is null or one of `dirty`, which lives as long as the scan.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        let mut keys = [pg_sys::ScanKeyData::default(); MOST];
        for (n, (key, text)) in (1..).zip(keys.iter_mut().zip(texts)) {
            let equal = pg_sys::BTEqualStrategyNumber as u16;
            pg_sys::ScanKeyInit(key, n, equal, Oid::from(TEXT_EQUAL), crate::datum::text(text));
        }
        let count = texts.len().min(MOST);
        let scan = pg_sys::systable_beginscan(
            relation,
            index,
            count > 0,
            snapshot,
            count as i32,
            keys.as_mut_ptr(),
        );
        let columns = (*(*relation).rd_att).natts as usize;
        let (mut values, mut nulls) = (vec![Datum::null(); columns], vec![true; columns]);
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            pg_sys::heap_deform_tuple(
                tuple,
                (*relation).rd_att,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
            let (Some(values), Some(nulls)) = (values.first_chunk(), nulls.first_chunk()) else {
                break;
            };
            if !read(&Row { values: *values, nulls: *nulls }) {
                break;
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
}
