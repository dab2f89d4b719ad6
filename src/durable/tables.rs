//! The tables: found, read and written directly, without SQL, so that nothing of a user's can come in between.
//!
//! They are read as they are now, whatever the transaction's isolation: what may be in flight of the key that is looked for, the
//! caller has excluded. So reading leaves no trace that could make a serializable transaction fail.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::pg_sys::{self, Datum, ItemPointerData, Oid, Relation};
use ratelimit_core::{Event, Micros};

use super::EPOCHS;
use crate::catalog::{DefinedRule, Id};
use crate::datum::LATEST;
use crate::error::{Error, Result};

/// A table that is open, with the index on its keys.
pub struct Table {
    relation: Relation,
    index: Oid,
    key: i16,
    indexes: Cell<pg_sys::CatalogIndexState>,
}

/// Memory for what a row or a key needs, which is freed before the next one.
pub struct Scratch(pg_sys::MemoryContext);

impl Scratch {
    pub fn new() -> Self {
        // SAFETY: a child of the current context, and deleted with it at the latest.
        Scratch(unsafe {
            pg_sys::AllocSetContextCreateInternal(
                pg_sys::CurrentMemoryContext,
                c"ratelimit scratch".as_ptr(),
                0,
                8 * 1024,
                8 * 1024 * 1024,
            )
        })
    }

    /// Runs `f`, and frees what PostgreSQL allocated for it.
    pub fn run<R>(&self, f: impl FnOnce() -> R) -> R {
        // SAFETY: a context of our own. An error leaves it to its parent.
        unsafe {
            let outer = pg_sys::MemoryContextSwitchTo(self.0);
            let result = f();
            pg_sys::MemoryContextSwitchTo(outer);
            pg_sys::MemoryContextReset(self.0);
            result
        }
    }
}

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    Counts,
    Ledger(usize),
    Leases,
    /// The same, to be read by their digests.
    LeasesOfKeys,
}

impl Name {
    fn parts(self) -> (&'static CStr, &'static CStr) {
        match self {
            Name::Counts => (c"rl_counts", c"rl_counts_pkey"),
            Name::Ledger(0) => (c"rl_ledger_0", c"rl_ledger_0_key"),
            Name::Ledger(_) => (c"rl_ledger_1", c"rl_ledger_1_key"),
            Name::Leases => (c"rl_leases", c"rl_leases_pkey"),
            Name::LeasesOfKeys => (c"rl_leases", c"rl_leases_digest"),
        }
    }

    fn columns(self) -> usize {
        match self {
            Name::Counts => COUNTS,
            Name::Ledger(_) => LEDGER,
            Name::Leases | Name::LeasesOfKeys => LEASES,
        }
    }

    /// The column that the index is on.
    fn key(self) -> i16 {
        match self {
            Name::Counts | Name::Ledger(_) | Name::Leases => 1,
            Name::LeasesOfKeys => 2,
        }
    }
}

/// What a key has used, up to what the ledgers hold.
pub struct CountsRow {
    pub place: ItemPointerData,
    pub key: Id,
    pub limiter: Id,
    pub fresh_from: Micros,
    pub state: Vec<u8>,
}

/// Something that happened to a key.
#[derive(Clone, Copy)]
pub struct LedgerRow {
    pub place: ItemPointerData,
    pub key: Id,
    pub limiter: Id,
    pub rule: i32,
    pub at: Micros,
    pub event: Event,
}

/// How many columns the tables have.
const COUNTS: usize = 5;
const LEDGER: usize = 6;
pub const LEASES: usize = 7;

impl Table {
    /// Opens a table of the extension in this schema; `None` if it has been dropped in the meantime.
    pub fn open(schema: Oid, name: Name, lock: u32) -> Result<Option<Self>> {
        let (table, index) = name.parts();
        // SAFETY: catalog look-ups by terminated names; what does not exist is answered by 0. The lock is released when the
        // table is closed or at the transaction's end.
        unsafe {
            let oid = pg_sys::get_relname_relid(table.as_ptr(), schema);
            let relation = pg_sys::try_table_open(oid, lock as i32);
            if relation.is_null() {
                return Ok(None);
            }
            let index = pg_sys::get_relname_relid(index.as_ptr(), schema);
            let indexes = Cell::new(std::ptr::null_mut());
            let opened = Table { relation, index, key: name.key(), indexes };
            // Rows are read and written as arrays of so many values.
            if index == Oid::INVALID || (*(*relation).rd_att).natts as usize != name.columns() {
                opened.close(lock);
                return Err(Error::foreign_table(&table.to_string_lossy()));
            }
            Ok(Some(opened))
        }
    }

    /// Closes the table and releases its lock.
    pub fn close(self, lock: u32) {
        // SAFETY: opened by `open` with this lock, and the indexes by `indexes`.
        unsafe {
            if !self.indexes.get().is_null() {
                pg_sys::CatalogCloseIndexes(self.indexes.get());
            }
            pg_sys::table_close(self.relation, lock as i32);
        }
    }

    /// Closes the table; its lock stays until the transaction ends.
    pub fn keep_locked(self) {
        self.close(pg_sys::NoLock);
    }

    /// The indexes, opened once for all rows that are written, in memory that lives as long.
    fn indexes(&self) -> pg_sys::CatalogIndexState {
        if self.indexes.get().is_null() {
            // SAFETY: an open relation; the transaction's memory outlives it.
            unsafe {
                let outer = pg_sys::MemoryContextSwitchTo(pg_sys::TopTransactionContext);
                self.indexes.set(pg_sys::CatalogOpenIndexes(self.relation));
                pg_sys::MemoryContextSwitchTo(outer);
            }
        }
        self.indexes.get()
    }

    /// Locks the table for this transaction alone, if nobody else has it open.
    pub fn try_lock(&self) -> bool {
        let exclusive = pg_sys::AccessExclusiveLock as i32;
        // SAFETY: the oid of an open relation.
        unsafe { pg_sys::ConditionalLockRelationOid((*self.relation).rd_id, exclusive) }
    }

    /// Whether nobody else has the table open.
    pub fn is_alone(&self) -> bool {
        let alone = self.try_lock();
        if alone {
            // SAFETY: just locked.
            unsafe {
                pg_sys::UnlockRelationOid(
                    (*self.relation).rd_id,
                    pg_sys::AccessExclusiveLock as i32,
                );
            }
        }
        alone
    }

    /// Whether somebody has put triggers on it.
    pub fn has_triggers(&self) -> bool {
        // SAFETY: an open relation.
        unsafe { !(*self.relation).trigdesc.is_null() }
    }

    /// How long the file is.
    pub fn blocks(&self) -> u32 {
        // SAFETY: an open relation.
        unsafe {
            pg_sys::RelationGetNumberOfBlocksInFork(self.relation, pg_sys::ForkNumber::MAIN_FORKNUM)
        }
    }

    /// Adds a row.
    pub fn insert(&self, values: &mut [Datum], nulls: &mut [bool]) {
        // SAFETY: the callers give as many values, of the right types, as the table has columns.
        unsafe {
            let tuple = pg_sys::heap_form_tuple(
                (*self.relation).rd_att,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
            pg_sys::CatalogTupleInsertWithInfo(self.relation, tuple, self.indexes());
            pg_sys::heap_freetuple(tuple);
        }
    }

    /// Writes a row anew.
    pub fn update(&self, mut place: ItemPointerData, values: &mut [Datum], nulls: &mut [bool]) {
        // SAFETY: as for `insert`; nobody else changes the row, says the caller.
        unsafe {
            let tuple = pg_sys::heap_form_tuple(
                (*self.relation).rd_att,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
            pg_sys::CatalogTupleUpdateWithInfo(self.relation, &mut place, tuple, self.indexes());
            pg_sys::heap_freetuple(tuple);
        }
    }

    /// Removes a row.
    pub fn delete(&self, mut place: ItemPointerData) {
        // SAFETY: nobody else changes the row, says the caller.
        unsafe { pg_sys::CatalogTupleDelete(self.relation, &mut place) };
    }

    /// Reads all rows, or those of a key, in the order of the index if `ordered`. The reader may stop by answering false.
    pub fn scan<const N: usize>(
        &self,
        key: Option<&Id>,
        ordered: bool,
        mut read: impl FnMut(ItemPointerData, &[Datum; N], &[bool; N]) -> bool,
    ) {
        const UUID_EQUAL: u32 = 2956;
        // SAFETY: our own table, open, and its index. If anything here raises an error, the transaction's abort closes all.
        unsafe {
            let snapshot = &raw mut pg_sys::SnapshotSelfData;
            let mut equal = pg_sys::ScanKeyData::default();
            let mut keys = 0;
            if let Some(key) = key {
                pg_sys::ScanKeyInit(
                    &mut equal,
                    self.key,
                    pg_sys::BTEqualStrategyNumber as u16,
                    Oid::from(UUID_EQUAL),
                    Datum::from(key.as_ptr()),
                );
                keys = 1;
            }
            let index =
                ordered.then(|| pg_sys::index_open(self.index, pg_sys::AccessShareLock as i32));
            let scan = match index {
                Some(index) => pg_sys::systable_beginscan_ordered(
                    self.relation,
                    index,
                    snapshot,
                    keys,
                    &mut equal,
                ),
                None => pg_sys::systable_beginscan(
                    self.relation,
                    self.index,
                    keys > 0,
                    snapshot,
                    keys,
                    &mut equal,
                ),
            };
            loop {
                let tuple = if ordered {
                    pg_sys::systable_getnext_ordered(
                        scan,
                        pg_sys::ScanDirection::ForwardScanDirection,
                    )
                } else {
                    pg_sys::systable_getnext(scan)
                };
                if tuple.is_null() {
                    break;
                }
                let (mut values, mut nulls) = ([Datum::null(); N], [true; N]);
                pg_sys::heap_deform_tuple(
                    tuple,
                    (*self.relation).rd_att,
                    values.as_mut_ptr(),
                    nulls.as_mut_ptr(),
                );
                if !read((*tuple).t_self, &values, &nulls) {
                    break;
                }
            }
            match index {
                Some(index) => {
                    pg_sys::systable_endscan_ordered(scan);
                    pg_sys::index_close(index, pg_sys::AccessShareLock as i32);
                }
                None => pg_sys::systable_endscan(scan),
            }
        }
    }

    /// Reads rows of a ledger: those of a key, or all, in the order of their keys if `ordered`.
    pub fn ledger(&self, key: Option<&Id>, ordered: bool, mut read: impl FnMut(LedgerRow) -> bool) {
        self.scan::<LEDGER>(key, ordered, |place, values, nulls| {
            let [cost, wait] = [4, 5].map(|n| (!nulls[n]).then(|| values[n].value() as i64));
            read(LedgerRow {
                place,
                key: id(values[0]),
                limiter: id(values[1]),
                rule: values[2].value() as i32,
                at: time(values[3]),
                event: event(cost, wait),
            })
        });
    }

    /// Reads rows of the counts: that of a key, or all.
    pub fn counts(&self, key: Option<&Id>, mut read: impl FnMut(CountsRow) -> bool) {
        self.scan::<COUNTS>(key, false, |place, values, _| {
            // SAFETY: the table declares the column as bytea, which is stored like a text.
            let state = unsafe { crate::function::text(values[4]) }.to_vec();
            read(CountsRow {
                place,
                key: id(values[0]),
                limiter: id(values[1]),
                fresh_from: time(values[3]),
                state,
            })
        });
    }

    /// Adds a row to a ledger.
    pub fn add(&self, row: &LedgerRow) {
        let number = |cost| i64::try_from(cost).unwrap_or(i64::MAX);
        let (cost, wait) = match row.event {
            Event::Take(cost) => (Some(number(cost)), None),
            Event::Book(cost, wait) => (Some(number(cost)), Some(wait)),
            Event::Refund(cost) => (Some(-number(cost)), None),
            Event::Reset => (None, None),
        };
        self.insert(
            &mut [
                Datum::from(row.key.as_ptr()),
                Datum::from(row.limiter.as_ptr()),
                Datum::from(row.rule),
                Datum::from(row.at.saturating_sub(EPOCHS)),
                cost.map_or(Datum::null(), Datum::from),
                wait.map_or(Datum::null(), Datum::from),
            ],
            &mut [false, false, false, false, cost.is_none(), wait.is_none()],
        );
    }

    /// Writes what a key has used, in place of what was written at `old`.
    pub fn set_counts(
        &self,
        old: Option<ItemPointerData>,
        key: &Id,
        rule: &DefinedRule,
        fresh_from: Micros,
        state: &[u8],
    ) {
        let mut values = [
            Datum::from(key.as_ptr()),
            Datum::from(rule.id.as_ptr()),
            Datum::from(rule.position.cast_signed()),
            Datum::from(fresh_from.saturating_sub(EPOCHS).min(LATEST)),
            // A bytea is stored like a text.
            crate::datum::text(state),
        ];
        let mut nulls = [false; 5];
        match old {
            Some(place) => self.update(place, &mut values, &mut nulls),
            None => self.insert(&mut values, &mut nulls),
        }
    }
}

/// A uuid of a row that is being read.
pub fn id(datum: Datum) -> Id {
    // SAFETY: the tables declare these columns as uuid, and not null; the tuple is alive while the row is read.
    unsafe { *datum.cast_mut_ptr::<Id>() }
}

fn time(datum: Datum) -> Micros {
    (datum.value() as i64).saturating_add(EPOCHS)
}

fn event(cost: Option<i64>, wait: Option<Micros>) -> Event {
    match (cost, wait) {
        (None, _) => Event::Reset,
        (Some(cost @ 0..), None) => Event::Take(cost.unsigned_abs()),
        (Some(cost @ 0..), Some(wait)) => Event::Book(cost.unsigned_abs(), wait),
        (Some(cost), _) => Event::Refund(cost.unsigned_abs()),
    }
}
