//! What sessions, the launcher and its workers tell each other through shared memory.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use pgrx::pg_sys::{Oid, TimestampTz};

/// Part of the header; valid when it is all zero.
#[repr(C)]
pub struct Board {
    /// Databases in which sessions have written what durable limiters took since the launcher last looked.
    noted: [AtomicU32; 64],
    /// There were more.
    crowded: AtomicBool,
    /// How far the worker got that was started last, and how many rows it removed.
    progress: AtomicU32,
    rows: AtomicU64,
    news: UnsafeCell<News>,
}

/// How far a worker got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It could not connect.
    None,
    /// The extension is not there.
    Absent,
    /// The tables are empty.
    Idle,
    /// The tables are not empty, and will have to be looked at again.
    Present,
    /// There is more to do now.
    More,
    /// There was an error.
    Failed,
}

impl Board {
    /// Says that something has been written to the tables of a database.
    pub fn note(&self, database: Oid) {
        let oid = database.to_u32();
        for place in &self.noted {
            // Mostly it is noted already: then nothing is written, which would be in others' way.
            let found = match place.load(Ordering::Relaxed) {
                0 => place.compare_exchange(0, oid, Ordering::Relaxed, Ordering::Relaxed),
                found => Err(found),
            };
            if found.is_ok() || found == Err(oid) {
                return;
            }
        }
        self.crowded.store(true, Ordering::Relaxed);
    }

    /// The databases that were noted since the last call.
    pub fn noted(&self) -> impl Iterator<Item = Oid> + '_ {
        let taken = self.noted.iter().map(|place| place.swap(0, Ordering::Relaxed));
        taken.filter(|oid| *oid != 0).map(Oid::from)
    }

    /// Whether more databases were noted than there was room for.
    pub fn was_crowded(&self) -> bool {
        self.crowded.swap(false, Ordering::Relaxed)
    }

    /// Begins a worker's report.
    pub fn begin(&self) {
        self.rows.store(0, Ordering::Relaxed);
        self.progress(Progress::None);
    }

    pub fn progress(&self, progress: Progress) {
        self.progress.store(progress as u32, Ordering::Release);
    }

    pub fn add_rows(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// A worker's report.
    pub fn report(&self) -> (Progress, u64) {
        use Progress::{Absent, Failed, Idle, More, None, Present};
        let number = self.progress.load(Ordering::Acquire);
        let all = [Absent, Idle, Present, More, Failed];
        let progress = all.into_iter().find(|p| *p as u32 == number);
        (progress.unwrap_or(None), self.rows.load(Ordering::Relaxed))
    }

    /// What `rl_info` tells. Reached under a lock only: see [`crate::shmem::Header::news`].
    pub fn news(&self) -> *mut News {
        self.news.get()
    }
}

/// What `rl_info` tells of house-keeping.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct News {
    /// When it was last done; 0 is never.
    pub last_purge: TimestampTz,
    /// How many rows that removed.
    pub last_rows: u64,
    failed: Oid,
    length: usize,
    error: [u8; 256],
}

impl News {
    /// Keeps the last error: in which database, and what it says.
    pub fn fail(&mut self, database: Oid, message: &str) {
        let message = &message[..message.floor_char_boundary(self.error.len())];
        self.failed = database;
        self.length = message.len();
        if let Some(error) = self.error.get_mut(..message.len()) {
            error.copy_from_slice(message.as_bytes());
        }
    }

    /// Forgets the last error if it came from this database.
    pub fn succeed(&mut self, database: Oid) {
        if self.failed == database {
            self.failed = Oid::INVALID;
        }
    }

    /// Forgets the last error if it came from a database that is gone.
    pub fn keep(&mut self, databases: &[Oid]) {
        if !databases.contains(&self.failed) {
            self.failed = Oid::INVALID;
        }
    }

    /// Says that house-keeping was done.
    pub fn purged(&mut self, time: TimestampTz, rows: u64) {
        (self.last_purge, self.last_rows) = (time, rows);
    }

    /// The last error, if nothing has gone well since in the same database.
    pub fn error(&self) -> Option<String> {
        let text = self.error.get(..self.length).unwrap_or_default();
        (self.failed != Oid::INVALID).then(|| String::from_utf8_lossy(text).into_owned())
    }
}
