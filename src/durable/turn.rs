//! Which of the two ledgers of a database is written, and who is at it.
//!
//! A transaction chooses a ledger when it first takes from a durable limiter, and stays with it. Folding turns to the other one and
//! waits until all who chose before have ended: what is then in the ledger is final. The waiting is that of sleepable RCU
//! (McKenney, "Sleepable Read-Copy Update", 2006): one counter for each side, and the side is looked at again after counting.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU32, Ordering};

use pgrx::pg_sys::{self, Oid};
use ratelimit_core::Micros;

use super::tables::{Name, Table};
use crate::backend::{self, BackendCell};
use crate::error::{Error, Result};
use crate::shmem::{self, Header};

/// So many databases of one server can have durable limiters at a time.
const MANY: usize = 256;

/// All databases. Places are given and freed under the lock of the news, and each process asks for its own once.
#[repr(C)]
pub struct Turns([Turn; MANY]);

/// One database's.
#[repr(C)]
pub struct Turn {
    database: AtomicU32,
    /// 1 or 2 for the ledger that is written; 0 while nobody knows.
    side: AtomicU32,
    writers: [AtomicU32; 2],
    /// Since when this side is written, on the wall; 0 while nobody knows.
    since: AtomicI64,
    /// Whether shared memory has the leases that the table has.
    leases: AtomicBool,
}

/// This process's database.
static TURN: AtomicPtr<Turn> = AtomicPtr::new(std::ptr::null_mut());
static FOLDED: AtomicBool = AtomicBool::new(false);
/// The ledger that the open transaction has chosen.
static CHOSEN: BackendCell<Option<usize>> = BackendCell::new(None);

impl Turns {
    /// The database's place; it gets one if there is a free one.
    fn place(&'static self, database: u32) -> Option<&'static Turn> {
        let of = |database| self.0.iter().find(|turn| turn.database() == database);
        let turn = of(database).or_else(|| of(0))?;
        turn.database.store(database, Ordering::Relaxed);
        Some(turn)
    }

    /// Frees the places of these databases.
    fn free(&self, databases: &[u32]) {
        for turn in self.0.iter().filter(|turn| databases.contains(&turn.database())) {
            turn.side.store(0, Ordering::Relaxed);
            turn.writers.iter().for_each(|writers| writers.store(0, Ordering::Relaxed));
            turn.since.store(0, Ordering::Relaxed);
            turn.leases.store(false, Ordering::Relaxed);
            turn.database.store(0, Ordering::Relaxed);
        }
    }

    /// Databases that have a place and are gone: nobody is connected to them, and nobody will be.
    fn dropped(&self) -> Vec<u32> {
        let mut databases: Vec<u32> = self.0.iter().map(Turn::database).collect();
        databases.retain(|database| *database != 0);
        // SAFETY: in a transaction. What has a place by now was created before, and a new snapshot sees that.
        unsafe {
            pg_sys::AcceptInvalidationMessages();
            pg_sys::InvalidateCatalogSnapshot();
            databases.retain(|oid| pg_sys::get_database_name(Oid::from(*oid)).is_null());
        }
        databases
    }
}

/// This database's turn.
pub fn turn(header: &'static Header) -> Result<&'static Turn> {
    // SAFETY: points into shared memory that stays mapped, or to nothing.
    if let Some(turn) = unsafe { TURN.load(Ordering::Relaxed).as_ref() } {
        return Ok(turn);
    }
    let database = backend::database();
    let place = || header.news(|_| header.turns.place(database));
    let turn = place().or_else(|| {
        let dropped = header.turns.dropped();
        header.news(|_| header.turns.free(&dropped));
        place()
    });
    let turn = turn.ok_or_else(|| Error::too_many_databases(MANY))?;
    TURN.store(std::ptr::from_ref(turn).cast_mut(), Ordering::Relaxed);
    Ok(turn)
}

impl Turn {
    fn database(&self) -> u32 {
        self.database.load(Ordering::Relaxed)
    }

    /// The ledger that is written.
    pub fn side(&self, schema: Oid) -> Result<usize> {
        match self.side.load(Ordering::SeqCst) {
            0 => self.begin(schema),
            side => Ok(side as usize - 1),
        }
    }

    /// Finds out which ledger was written last: after a restart both may have rows.
    #[cold]
    fn begin(&self, schema: Oid) -> Result<usize> {
        let first = |side| {
            let mut first = None;
            if let Some(table) = Table::open(schema, Name::Ledger(side), pg_sys::AccessShareLock)? {
                table.ledger(None, false, |row| {
                    first = Some(row.at);
                    false
                });
                table.close(pg_sys::AccessShareLock);
            }
            Ok(first)
        };
        let later = match (first(0)?, first(1)?) {
            (Some(one), Some(other)) => u32::from(other > one),
            (None, Some(_)) => 1,
            _ => 0,
        };
        let _ = self.side.compare_exchange(0, later + 1, Ordering::SeqCst, Ordering::SeqCst);
        Ok(self.side.load(Ordering::SeqCst) as usize - 1)
    }

    /// Whether shared memory has all leases of this database.
    pub fn has_leases(&self) -> bool {
        self.leases.load(Ordering::Acquire)
    }

    /// Shared memory has them from now on.
    pub fn set_leases(&self) {
        self.leases.store(true, Ordering::Release);
    }

    /// How many transactions have chosen a ledger and not ended.
    pub fn writers(&self, side: usize) -> u32 {
        self.writers[side].load(Ordering::SeqCst)
    }

    /// Since when the current ledger is written: all that is in the other one and earlier comes before all that is in this one.
    pub fn since(&self) -> Micros {
        self.since.load(Ordering::SeqCst)
    }

    /// Turns from this ledger to the other one, which is empty and has no writers.
    pub fn turn(&self, side: usize, now: Micros) {
        self.since.store(now, Ordering::SeqCst);
        self.side.store(2 - side as u32, Ordering::SeqCst);
    }
}

/// Chooses a ledger for the transaction, before it takes anything.
pub fn enter(header: &'static Header, schema: Oid) -> Result<()> {
    if CHOSEN.with(|chosen| chosen.is_some()) {
        return Ok(());
    }
    let side = if shmem::is_shared(header) {
        let turn = turn(header)?;
        loop {
            let side = turn.side(schema)?;
            turn.writers[side].fetch_add(1, Ordering::SeqCst);
            if turn.side(schema)? == side {
                break side;
            }
            turn.writers[side].fetch_sub(1, Ordering::SeqCst);
        }
    } else {
        0
    };
    CHOSEN.with(|chosen| *chosen = Some(side));
    crate::transaction::watch();
    Ok(())
}

/// Whether the open transaction has chosen a ledger.
pub fn has_chosen() -> bool {
    CHOSEN.with(|chosen| chosen.is_some())
}

/// The ledger that the transaction has chosen.
pub fn current() -> usize {
    CHOSEN.with(|chosen| chosen.unwrap_or(0))
}

/// Whether the open transaction has folded a ledger.
pub fn has_folded() -> bool {
    FOLDED.load(Ordering::Relaxed)
}

/// The open transaction is going to.
pub fn fold() {
    FOLDED.store(true, Ordering::Relaxed);
    crate::transaction::watch();
}

/// The transaction has ended.
pub fn leave() {
    FOLDED.store(false, Ordering::Relaxed);
    let Some(side) = CHOSEN.with(Option::take) else {
        return;
    };
    // SAFETY: points into shared memory that stays mapped, or to nothing where none is shared.
    if let Some(turn) = unsafe { TURN.load(Ordering::Relaxed).as_ref() } {
        turn.writers[side].fetch_sub(1, Ordering::SeqCst);
    }
}
