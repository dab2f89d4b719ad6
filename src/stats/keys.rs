//! Keys that were denied here, on their way to the sketches of shared memory.
//!
//! Only a denial gives a key a counter there. How often it was allowed before that is known as far as this session remembers: of the
//! keys it was asked for lately. What is allowed later is counted by every session, which sees by one look that the key is tracked.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys::{self, Datum};
use ratelimit_core::stats::{Sighting, MAX_TEXT};
use ratelimit_core::table::Key;
use ratelimit_core::Micros;

use super::{Tally, DUE};
use crate::backend::{self, BackendCell};
use crate::encoding;
use crate::shmem;

/// So many keys are remembered; a power of two.
const REMEMBERED: usize = 64;

/// So many are on their way at most.
const MOST: usize = 64;

/// A key that was asked for lately.
#[derive(Clone, Copy)]
struct Recent {
    key: Key,
    /// How often it was allowed.
    allowed: u32,
    /// Its number among those on their way, from 1 on; 0 if it is not.
    number: u32,
}

/// A key on its way.
struct Sighted {
    tally: Rc<Tally>,
    key: Key,
    allowed: u64,
    denied: u64,
    last: Micros,
    /// Of the text, which only a denial tells.
    length: usize,
    text: [u8; MAX_TEXT],
}

struct Keys {
    recent: [Recent; REMEMBERED],
    sighted: Vec<Sighted>,
    /// Whether one was denied: they are brought when the transaction ends. What was allowed can wait for the next denial.
    denied: bool,
}

/// Nothing is remembered.
const NONE: Recent = Recent { key: [0; 2], allowed: 0, number: 0 };

static KEYS: BackendCell<Keys> =
    BackendCell::new(Keys { recent: [NONE; REMEMBERED], sighted: Vec::new(), denied: false });

impl Keys {
    /// What is remembered of the key, in the place of another where need be.
    #[inline(always)]
    fn recent(&mut self, key: Key) -> &mut Recent {
        let recent = &mut self.recent[key[1] as usize % REMEMBERED];
        if recent.key != key {
            if let Some(sighted) = self.sighted.get_mut((recent.number as usize).wrapping_sub(1)) {
                sighted.allowed += u64::from(recent.allowed);
            }
            *recent = Recent { key, allowed: 0, number: 0 };
        }
        recent
    }

    /// The key on its way, which it now is.
    fn sighted(&mut self, tally: &Rc<Tally>, key: Key) -> &mut Sighted {
        let number = self.recent(key).number;
        if number > 0 {
            return &mut self.sighted[number as usize - 1];
        }
        if self.sighted.len() == MOST {
            if let Some(header) = shmem::header() {
                header.denied_keys(|keys| self.tell(keys));
                self.clear();
            }
        }
        let (tally, text) = (tally.clone(), [0; MAX_TEXT]);
        let sighted = Sighted { tally, key, allowed: 0, denied: 0, last: 0, length: 0, text };
        self.sighted.push(sighted);
        let place = self.sighted.len() - 1;
        self.recent(key).number = place as u32 + 1;
        &mut self.sighted[place]
    }

    /// Tells shared memory of all. Nothing is allocated or freed: its lock is held.
    fn tell(&mut self, keys: &mut shmem::Keys<'_>) {
        let database = backend::database();
        for (n, sighted) in self.sighted.iter_mut().enumerate() {
            let recent = &mut self.recent[sighted.key[1] as usize % REMEMBERED];
            if recent.key == sighted.key && recent.number as usize == n + 1 {
                sighted.allowed += u64::from(std::mem::take(&mut recent.allowed));
                recent.number = 0;
            }
            // The limiter may have been dropped.
            let place = sighted.tally.place.get();
            if !keys.totals.get(place).is_some_and(|total| {
                total.id() == Some(sighted.tally.id) && total.database() == database
            }) {
                continue;
            }
            keys.add(&Sighting {
                key: sighted.key,
                owner: place,
                text: &sighted.text[..sighted.length],
                denied: sighted.denied,
                allowed: sighted.allowed,
                last: sighted.last,
            });
        }
    }

    fn clear(&mut self) {
        self.sighted.clear();
        self.denied = false;
    }
}

/// A key was allowed.
#[inline(always)]
pub fn allowed(tally: &Rc<Tally>, key: Key) {
    KEYS.with(|keys| {
        let recent = keys.recent(key);
        recent.allowed = recent.allowed.saturating_add(1);
        if recent.number == 0 && shmem::may_be_tracked(tally.place.get(), key) {
            sight(keys, tally, key);
        }
    });
}

/// The key is tracked: what was allowed will be told with what was denied, here or elsewhere.
#[cold]
#[inline(never)]
fn sight(keys: &mut Keys, tally: &Rc<Tally>, key: Key) {
    bring_at_exit();
    keys.sighted(tally, key);
}

/// A key was denied.
#[inline]
pub fn denied(tally: &Rc<Tally>, key: Key, text: &[u8], at: Micros) {
    KEYS.with(|keys| {
        let sighted = keys.sighted(tally, key);
        if sighted.denied == 0 {
            let text = encoding::clip(text, MAX_TEXT);
            sighted.text[..text.len()].copy_from_slice(text);
            sighted.length = text.len();
        }
        sighted.denied += 1;
        sighted.last = at;
        if !keys.denied {
            keys.denied = true;
            bring_at_exit();
            DUE.store(true, Ordering::Relaxed);
        }
    });
}

/// Brings what is on its way.
pub fn bring() {
    let Some(header) = shmem::header() else { return };
    KEYS.with(|keys| {
        if !keys.sighted.is_empty() {
            header.denied_keys(|shared| keys.tell(shared));
            keys.clear();
        }
    });
}

/// The same if it matters now, and needs no waiting for others who do the same; says whether it is done.
pub fn try_bring() -> bool {
    let Some(header) = shmem::header() else { return true };
    KEYS.with(|keys| {
        if !keys.denied {
            return true;
        }
        let told = header.try_denied_keys(|shared| keys.tell(shared)).is_some();
        if told {
            keys.clear();
        }
        told
    })
}

/// Forgets how often keys were allowed that this session remembers. None is on its way.
pub fn forget() {
    KEYS.with(|keys| keys.recent = [NONE; REMEMBERED]);
}

/// Sees to it that nothing is lost when the session ends.
fn bring_at_exit() {
    static ASKED: AtomicBool = AtomicBool::new(false);
    if !ASKED.swap(true, Ordering::Relaxed) {
        // SAFETY: a function that lives as long as the process.
        unsafe { pg_sys::before_shmem_exit(Some(exiting), Datum::null()) };
    }
}

unsafe extern "C-unwind" fn exiting(_code: i32, _unused: Datum) {
    // SAFETY: nothing in it fails.
    unsafe {
        pg_sys::submodules::panic::pgrx_extern_c_guard(super::bring);
    }
}
