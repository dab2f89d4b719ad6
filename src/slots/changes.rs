//! What the open transaction has done to leases of durable limiters: written down where it commits, undone where it rolls back.
//!
//! A slot that is taken is taken at once, and one that is given back is held until the commit: so a rollback always finds what it needs.
//! For the same reason a longer life counts at once, and a shorter one from the commit on. Until then the token is locked, and others who
//! want to change the lease wait.

use std::ffi::c_void;

use pgrx::pg_sys::{self, Oid, SubXactEvent, XactEvent};
use ratelimit_core::slots::{Lease, Token};
use ratelimit_core::Micros;

use crate::backend::{self, BackendCell};
use crate::catalog::{self, Id};
use crate::durable::{self, Written};
use crate::error::{Error, Report, Result};
use crate::shmem::Header;

/// One thing that was done to one lease.
struct Change {
    token: Token,
    deed: Deed,
    subtransaction: u32,
}

#[derive(Clone, Copy)]
enum Deed {
    /// With the digest of its key.
    Taken(Id),
    /// When it would have ended, and when it is to end.
    Renewed {
        before: Micros,
        after: Micros,
    },
    Released,
}

/// All of it, in the order in which it was done: for each lease, even when sorted by leases.
struct Changes {
    list: Vec<Change>,
    /// Where, if there is any.
    place: Option<(&'static Header, Oid)>,
}

static CHANGES: BackendCell<Changes> = BackendCell::new(Changes { list: Vec::new(), place: None });

impl Changes {
    fn add(&mut self, header: &'static Header, schema: Oid, token: Token, deed: Deed) {
        // SAFETY: reads a variable.
        let subtransaction = unsafe { pg_sys::GetCurrentSubTransactionId() };
        self.place = Some((header, schema));
        self.list.push(Change { token, deed, subtransaction });
    }

    fn has_released(&self, token: Token) -> bool {
        let last = self.list.iter().rev().find(|change| change.token == token);
        matches!(last, Some(Change { deed: Deed::Released, .. }))
    }

    /// What comes of each lease.
    fn written(&mut self, header: &'static Header) -> Vec<Written> {
        self.list.sort_by_key(|change| change.token);
        let now = header.clock.read().steady;
        let ends = self.list.chunk_by(|one, next| one.token == next.token);
        ends.filter_map(|deeds| {
            let (first, last) = (deeds.first()?, deeds.last()?);
            let token = first.token;
            match (first.deed, last.deed) {
                (Deed::Taken(_), Deed::Released) => None,
                (Deed::Taken(digest), last) => {
                    // One that has ended already has nothing to be remembered by.
                    let lease = look(header, token, now)?;
                    let expires = match last {
                        Deed::Renewed { after, .. } => after,
                        _ => lease.expires,
                    };
                    Some(Written::Taken(Box::new(Lease { expires, ..lease }), digest, None))
                }
                (_, Deed::Renewed { after, .. }) => Some(Written::Renewed(token, after)),
                (_, Deed::Taken(_) | Deed::Released) => Some(Written::Released(token)),
            }
        })
        .collect()
    }

    /// Does what had to wait for the commit. The list is sorted by then.
    fn commit(&mut self) {
        let Some((header, _)) = self.place else { return };
        let now = header.clock.read().steady;
        for deeds in self.list.chunk_by(|one, next| one.token == next.token) {
            match deeds.last().map(|last| (last.token, last.deed)) {
                Some((token, Deed::Renewed { after, .. })) => set_end(header, token, now, after),
                Some((token, Deed::Released)) => release_now(header, token, now),
                Some((_, Deed::Taken(_))) | None => {}
            }
        }
        self.clear();
    }

    /// Undoes what was done last, as long as `theirs` says so.
    fn undo(&mut self, theirs: impl Fn(&Change) -> bool) {
        let Some((header, _)) = self.place else { return };
        let now = header.clock.read().steady;
        while let Some(Change { token, deed, .. }) = self.list.pop_if(|change| theirs(change)) {
            match deed {
                Deed::Taken(_) => release_now(header, token, now),
                Deed::Renewed { before, .. } => set_end(header, token, now, before),
                Deed::Released => {}
            }
        }
        if self.list.is_empty() {
            self.clear();
        }
    }

    fn clear(&mut self) {
        // One large transaction must not leave its memory behind.
        if self.list.capacity() > MANY {
            self.list = Vec::new();
        }
        self.list.clear();
        self.place = None;
    }
}

/// For so many changes the list is kept for the next transaction.
const MANY: usize = 1_024;

fn look(header: &'static Header, token: Token, now: Micros) -> Option<Lease> {
    header.with_slots(|slots| slots.lease(token, backend::database(), now))
}

fn release_now(header: &'static Header, token: Token, now: Micros) {
    header.with_slots(|slots| slots.release_lease(token, backend::database(), now));
}

fn set_end(header: &'static Header, token: Token, now: Micros, expires: Micros) {
    header.with_slots(|slots| slots.renew(token, backend::database(), now, expires));
}

/// Makes room to remember one more, so that nothing can fail once it is done.
pub fn reserve() {
    CHANGES.with(|changes| changes.list.reserve(1));
}

/// Remembers a lease that shared memory has just given; says whether the lock table has room to keep others from it.
pub fn take(header: &'static Header, schema: Oid, token: Token, digest: Id) -> bool {
    CHANGES.with(|changes| changes.add(header, schema, token, Deed::Taken(digest)));
    durable::try_lock_token(&token)
}

/// Lets a lease end so long from now; says whether there was one. `function` is one of the extension's.
pub fn renew(header: &'static Header, function: Oid, token: Token, ttl: Micros) -> Result<bool> {
    let Some(lease) = hold(header, token)? else { return Ok(false) };
    let (schema, now) = (catalog::schema_of(function), header.clock.now().steady);
    let (before, after) = (lease.expires, now.saturating_add(ttl));
    CHANGES.with(|changes| changes.add(header, schema, token, Deed::Renewed { before, after }));
    if after > before {
        set_end(header, token, now, after);
    }
    Ok(true)
}

/// Ends a lease; says whether there was one. `function` is one of the extension's.
pub fn release(header: &'static Header, function: Oid, token: Token) -> Result<bool> {
    if hold(header, token)?.is_none() {
        return Ok(false);
    }
    let schema = catalog::schema_of(function);
    CHANGES.with(|changes| changes.add(header, schema, token, Deed::Released));
    Ok(true)
}

/// The lease as others have left it, who cannot change it any more until this transaction ends; None if it has ended.
fn hold(header: &'static Header, token: Token) -> Result<Option<Lease>> {
    // SAFETY: a plain variable, true on standbys, too.
    if unsafe { pg_sys::XactReadOnly } {
        return Err(Error::read_only_lease());
    }
    if CHANGES.with(|changes| changes.has_released(token)) {
        return Ok(None);
    }
    durable::lock_token(&token);
    let lease = look(header, token, header.clock.now().steady);
    if lease.is_none() {
        durable::unlock_token(&token);
    }
    Ok(lease)
}

/// Registers for what PostgreSQL has to tell; the postmaster's children inherit it.
pub fn install() {
    // SAFETY: both lists are made to be added to when a library is loaded, and the callbacks live as long as the library.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction_event), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_event), std::ptr::null_mut());
    }
}

fn is_idle() -> bool {
    CHANGES.with(|changes| changes.list.is_empty())
}

unsafe extern "C-unwind" fn transaction_event(event: XactEvent::Type, _: *mut c_void) {
    if is_idle() {
        return;
    }
    // SAFETY: the closure leaves nothing behind to drop; errors of PostgreSQL and our own are raised before anything is final.
    let report = unsafe {
        pg_sys::submodules::panic::pgrx_extern_c_guard(|| ended(event).err().map(Report::from))
    };
    if let Some(report) = report {
        // SAFETY: a Report has nothing to drop, and the guard has been left.
        unsafe { crate::error::raise(report) }
    }
}

fn ended(event: XactEvent::Type) -> Result<()> {
    match event {
        XactEvent::XACT_EVENT_PRE_COMMIT => {
            let written = CHANGES.with(|changes| {
                let (header, schema) = changes.place?;
                Some((header, schema, changes.written(header)))
            });
            // Most often nothing is left of a lease that was taken and released.
            match written.filter(|(_, _, written)| !written.is_empty()) {
                Some((header, schema, written)) => durable::write_leases(header, schema, &written),
                None => Ok(()),
            }
        }
        XactEvent::XACT_EVENT_PRE_PREPARE => Err(Error::prepare_with_leases()),
        XactEvent::XACT_EVENT_COMMIT => {
            CHANGES.with(Changes::commit);
            Ok(())
        }
        XactEvent::XACT_EVENT_ABORT => {
            CHANGES.with(|changes| changes.undo(|_| true));
            Ok(())
        }
        _ => Ok(()),
    }
}

unsafe extern "C-unwind" fn subtransaction_event(
    event: SubXactEvent::Type,
    child: u32,
    parent: u32,
    _: *mut c_void,
) {
    if is_idle() {
        return;
    }
    // SAFETY: nothing in it fails.
    unsafe {
        pg_sys::submodules::panic::pgrx_extern_c_guard(|| {
            CHANGES.with(|changes| match event {
                SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => {
                    let theirs = |change: &&mut Change| change.subtransaction == child;
                    for change in changes.list.iter_mut().rev().take_while(theirs) {
                        change.subtransaction = parent;
                    }
                }
                SubXactEvent::SUBXACT_EVENT_ABORT_SUB => {
                    changes.undo(|change| change.subtransaction == child);
                }
                _ => {}
            });
        });
    }
}
