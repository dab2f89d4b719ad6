//! Leases of durable limiters: a row each, as of the commit that took it.
//!
//! Shared memory decides who gets a slot, and the rows say who had one when it was lost. They are read when a limiter's slots are first
//! used after a start, as one moment: before that nobody changes them, and afterwards nobody reads them so.
//!
//! Where no memory is shared the rows decide, with the locks of `slots/bare.rs`. Then they are written at once, and read by each call.

use pgrx::pg_sys::{self, Datum, ItemPointerData, Oid};
use ratelimit_core::slots::{Lease, Text, Token};
use ratelimit_core::{Micros, Now, SECOND};

use super::fold::blocks;
use super::lock::{lock_leases, try_lock_house, try_lock_token, unlock_leases, unlock_token};
use super::tables::{id, Name, Scratch, Table, LEASES};
use super::turn::turn;
use crate::backend;
use crate::catalog::{self, Id};
use crate::datum::{moment, text, time};
use crate::error::{Error, Result};
use crate::shmem::{self, Header};

/// What becomes of a lease as a transaction commits.
pub enum Written {
    /// It is new; the digest is that of its key, and where no memory is shared it has a number among that key's slots.
    Taken(Box<Lease>, Id, Option<u32>),
    /// It ends then.
    Renewed(Token, Micros),
    /// It has ended.
    Released(Token),
}

/// A row, with its times on the steady time line.
pub struct Row {
    place: ItemPointerData,
    pub token: Token,
    pub digest: Id,
    pub limiter: Id,
    pub text: Text,
    /// One that was taken where memory was shared has none.
    pub number: Option<u32>,
    pub since: Micros,
    pub expires: Micros,
}

/// The places of `number` and `expires_at` among the columns.
const NUMBER: usize = 4;
const EXPIRES: usize = 6;

impl Table {
    /// Reads all leases, or those with this token or digest, whichever the table was opened for. The reader may stop by answering false.
    fn leases(&self, key: Option<&Id>, clock: Now, mut read: impl FnMut(Row) -> bool) {
        self.scan::<LEASES>(key, false, |place, values, nulls| {
            read(Row {
                place,
                token: id(values[0]),
                digest: id(values[1]),
                limiter: id(values[2]),
                // SAFETY: the table declares the column as text, and not null; the tuple is alive while the row is read.
                text: Text::new(unsafe { crate::function::text(values[3]) }),
                number: (!nulls[NUMBER]).then(|| values[NUMBER].value() as u32),
                since: moment(values[5], clock),
                expires: moment(values[EXPIRES], clock),
            })
        });
    }

    fn add_lease(&self, lease: &Lease, digest: &Id, number: Option<u32>, clock: Now) {
        let mut values = [
            Datum::from(lease.token.as_ptr()),
            Datum::from(digest.as_ptr()),
            Datum::from(lease.limiter.as_ptr()),
            text(lease.text.as_bytes()),
            number.map_or(Datum::null(), Datum::from),
            time(lease.since, clock),
            time(lease.expires, clock),
        ];
        let mut nulls = [false; LEASES];
        nulls[NUMBER] = number.is_none();
        self.insert(&mut values, &mut nulls);
    }

    fn renew_lease(&self, token: &Token, expires: Micros, clock: Now) {
        self.scan::<LEASES>(Some(token), false, |place, values, nulls| {
            let (mut values, mut nulls) = (*values, *nulls);
            values[EXPIRES] = time(expires, clock);
            self.update(place, &mut values, &mut nulls);
            false
        });
    }

    fn remove_lease(&self, token: &Token) {
        self.scan::<LEASES>(Some(token), false, |place, _, _| {
            self.delete(place);
            false
        });
    }
}

/// Writes down what a transaction did, which keeps others from the same leases until it has ended.
pub fn write_leases(header: &'static Header, schema: Oid, written: &[Written]) -> Result<()> {
    // The extension may have been dropped meanwhile: then there is nothing to remember any more.
    let Some(table) = Table::open(schema, Name::Leases, pg_sys::RowExclusiveLock)? else {
        return Ok(());
    };
    let (clock, scratch) = (header.clock.now(), Scratch::new());
    for written in written {
        scratch.run(|| match written {
            Written::Taken(lease, digest, number) => {
                table.add_lease(lease, digest, *number, clock);
            }
            Written::Renewed(token, expires) => table.renew_lease(token, *expires, clock),
            Written::Released(token) => table.remove_lease(token),
        });
    }
    table.keep_locked();
    header.board.note(Oid::from(backend::database()));
    Ok(())
}

/// Does the same at once, for those who share no memory: the rest of the command sees it, and a rollback undoes it.
pub fn write_lease(header: &'static Header, schema: Oid, written: Written) -> Result<()> {
    write_leases(header, schema, &[written])?;
    // SAFETY: in a function that is not parallel safe, and so in no parallel query.
    unsafe { pg_sys::CommandCounterIncrement() };
    Ok(())
}

/// Which leases.
#[derive(Clone, Copy)]
pub enum Which<'a> {
    All,
    Token(&'a Token),
    Digest(&'a Id),
}

/// Leases that have not expired, as the latest commits and this transaction have left them.
pub fn leases(header: &'static Header, schema: Oid, which: Which<'_>) -> Result<Vec<Row>> {
    let (name, key) = match which {
        Which::All => (Name::Leases, None),
        Which::Token(token) => (Name::Leases, Some(token)),
        Which::Digest(digest) => (Name::LeasesOfKeys, Some(digest)),
    };
    let (lock, clock, mut live) = (pg_sys::AccessShareLock, header.clock.now(), Vec::new());
    if let Some(table) = Table::open(schema, name, lock)? {
        table.leases(key, clock, |row| {
            live.extend(Some(row).filter(|row| row.expires > clock.steady));
            true
        });
        table.close(lock);
    }
    Ok(live)
}

/// Sees to it that shared memory has all leases of this database's durable limiters; `function` is one of the extension's.
#[inline]
pub fn load_leases(header: &'static Header, function: Oid) -> Result<()> {
    let turn = turn(header)?;
    if turn.has_leases() {
        return Ok(());
    }
    // Else somebody else could give a slot away, or release a lease, that this process is about to bring back.
    lock_leases();
    if !turn.has_leases() {
        load(header, catalog::schema_of(function))?;
        turn.set_leases();
    }
    unlock_leases();
    Ok(())
}

/// The same for who names no limiter: where there are no leases, no room is made for any. A standby only sees its primary's, and they
/// would be old when it becomes one.
pub fn load_known_leases(header: &'static Header, function: Oid) -> Result<()> {
    if is_standby() || blocks(catalog::schema_of(function), Name::Leases)? == 0 {
        return Ok(());
    }
    load_leases(header, function)
}

fn is_standby() -> bool {
    // SAFETY: looks at shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

#[cold]
fn load(header: &'static Header, schema: Oid) -> Result<()> {
    let lock = pg_sys::AccessShareLock;
    let Some(table) = Table::open(schema, Name::Leases, lock)? else { return Ok(()) };
    let key = catalog::slot_keys(schema, &header.secret);
    let (clock, database) = (header.clock.now(), backend::database());
    let (mut live, mut homeless) = (0, 0);
    table.leases(None, clock, |row| {
        pgrx::check_for_interrupts!();
        let Row { token, limiter, text, expires, .. } = row;
        let (key, since) = (key(&limiter, &row.digest), row.since.min(clock.steady));
        if expires > clock.steady {
            let lease =
                Lease { token, key, durable: true, database, limiter, since, expires, text };
            let place = header.with_slots(|slots| slots.restore(&lease, clock.steady));
            live += 1;
            homeless += u32::from(place.is_none());
        }
        true
    });
    table.close(lock);
    if homeless > 0 {
        pgrx::log!("ratelimit forgot {homeless} of {live} leases of durable limiters: ratelimit.max_slots has no room for them");
    }
    Ok(())
}

/// Refuses to change a lease of a standby's primary.
pub fn check_standby_lease(header: &'static Header, function: Oid, token: &Token) -> Result<()> {
    if !is_standby() {
        return Ok(());
    }
    let found = leases(header, catalog::schema_of(function), Which::Token(token))?;
    if !found.is_empty() {
        return Err(Error::read_only_lease());
    }
    Ok(())
}

/// Drops rows of leases that have expired, or whose limiters are gone; at most so many. Says how many.
pub fn purge_leases(header: &'static Header, schema: Oid, most: usize) -> Result<usize> {
    if !try_lock_house() {
        return Ok(0);
    }
    let Some(table) = Table::open(schema, Name::Leases, pg_sys::RowExclusiveLock)? else {
        return Ok(0);
    };
    let clock = header.clock.now();
    let mut rows = Vec::new();
    table.leases(None, clock, |row| {
        pgrx::check_for_interrupts!();
        rows.push((row.token, row.place, row.limiter, row.expires));
        true
    });
    // Read afterwards: whoever wrote a row has committed, so its limiter is known by now.
    let limiters = catalog::durable_rules(schema, header);
    let mut removed = 0;
    for (token, place, limiter, expires) in rows {
        // A clock that is set a little must not bring anything back.
        let over = expires <= clock.steady.saturating_sub(SECOND);
        let orphan = !limiters.knows(&limiter);
        if removed < most && (over || orphan) && try_lock_token(&token) {
            let live = is_live(header, &token);
            if !live || orphan {
                table.delete(place);
                removed += 1;
            }
            // Nobody can do anything to one that has ended.
            if !live {
                unlock_token(&token);
            }
        }
    }
    table.keep_locked();
    Ok(removed)
}

fn is_live(header: &'static Header, token: &Token) -> bool {
    let (database, now) = (backend::database(), header.clock.now().steady);
    shmem::is_shared(header)
        && header.with_slots(|slots| slots.lease(*token, database, now)).is_some()
}
