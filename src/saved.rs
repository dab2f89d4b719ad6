//! Shared memory outlives the server in a file of the data directory: written when the server is shut down, and now and then before;
//! read when shared memory is made. Whatever is wrong with the file, the server starts, and its log says what it was.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, ErrorKind, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use pgrx::pg_sys::{self, Datum};
use ratelimit_core::slots::Lease;
use ratelimit_core::table::OnFull;
use ratelimit_core::Micros;
use ratelimit_saved::{read, Entry, Flaw, Head, Writer};

use crate::shmem::{self, Header, STEPS};
use crate::stats;

/// In the data directory, where every process of the server is at home.
const FILE: &CStr = c"ratelimit.state";
/// What is being written.
const NEW_FILE: &CStr = c"ratelimit.state.new";
const BUFFER: usize = 1 << 16;

fn path(name: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(name.to_bytes()))
}

/// The cluster's system identifier.
fn system() -> u64 {
    // SAFETY: reads pg_control as it is in shared memory, which was made before ours and goes after it.
    unsafe { pg_sys::GetSystemIdentifier() }
}

/// Writes all states and leases that matter still, and statistics. Decisions go on meanwhile: each state is locked only while it is copied.
pub fn save(header: &'static Header) -> io::Result<()> {
    let clock = header.clock.stopped();
    let head = Head { system: system(), secret: header.secret, clock };
    let mut options = File::options();
    // The secret is nobody else's business.
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path(NEW_FILE))?;
    let mut writer = Writer::new(BufWriter::with_capacity(BUFFER, file), &head)?;
    header.table().export(clock.steady, |record| writer.add(&Entry::State(*record)))?;
    leases(header, clock.steady, |lease| writer.add(&Entry::Lease(*lease)))?;
    stats::export(header, |entry| writer.add(entry))?;
    writer.finish()?;
    // SAFETY: both are terminated strings; at this level nothing is raised. It brings the file to disk before and after.
    match unsafe { pg_sys::durable_rename(NEW_FILE.as_ptr(), FILE.as_ptr(), pg_sys::LOG as i32) } {
        0 => Ok(()),
        _ => Err(io::Error::other("the new file could not be renamed")),
    }
}

/// Shows all leases, a few at a time.
fn leases(
    header: &'static Header,
    now: Micros,
    mut show: impl FnMut(&Lease) -> io::Result<()>,
) -> io::Result<()> {
    let mut some = Vec::with_capacity(STEPS as usize);
    let mut from = Some(0);
    while let Some(start) = from {
        from = header.with_slots(|slots| slots.export(start, STEPS, now, |lease| some.push(lease)));
        some.drain(..).try_for_each(|lease| show(&lease))?;
    }
    Ok(())
}

/// A file that was found good.
pub struct Saved {
    file: BufReader<File>,
    head: Head,
}

impl Saved {
    /// Reads all of it, and loads nothing yet. No file is no reason for a line in the log.
    pub fn open() -> Option<Saved> {
        let open = || {
            let mut file = BufReader::with_capacity(BUFFER, File::open(path(FILE))?);
            let head = read(&mut file, system(), |_| ())?;
            Ok(Saved { file, head })
        };
        match open() {
            Ok(saved) => Some(saved),
            Err(Flaw::Io(error)) if error.kind() == ErrorKind::NotFound => None,
            Err(flaw) => {
                log_flaw(&flaw);
                None
            }
        }
    }

    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Loads it into shared memory that holds nothing yet, and has the secret and the clock of [`Saved::head`]. Says whether that
    /// is all there now.
    pub fn load(mut self, header: &'static Header) -> bool {
        let mut table = header.table();
        // There may be less room than there was. Who refuses something is never pushed out.
        table.set_on_full(OnFull::Evict);
        let now = header.clock.read().steady;
        let (mut states, mut refused) = (0u64, 0u64);
        let (mut leases, mut homeless) = (0u64, 0u64);
        let install = |entry: Entry<'_>| match entry {
            Entry::State(record) if record.fresh > now => {
                if let Some((limiter, key)) = record.banned() {
                    header.ban_filter.add(key);
                    header.lists.set_bans(header.lists.place(limiter));
                }
                states += 1;
                refused += u64::from(table.install(&record, now, |_| true).is_err());
            }
            Entry::Lease(lease) if lease.expires > now => {
                leases += 1;
                let place = header.with_slots(|slots| slots.restore(&lease, now));
                homeless += u64::from(place.is_none());
            }
            Entry::Total(total) => stats::install_total(header, &total),
            Entry::Denied(key) => stats::install_key(header, &key),
            _ => {}
        };
        let again = self.file.rewind().map_err(Flaw::from);
        if let Err(flaw) = again.and_then(|()| read(&mut self.file, self.head.system, install)) {
            log_flaw(&flaw);
            return false;
        }
        let dropped = refused + header.evictions();
        if dropped > 0 {
            pgrx::log!("ratelimit forgot {dropped} of {states} saved states: ratelimit.max_keys has no room for them");
        }
        if homeless > 0 {
            pgrx::log!("ratelimit forgot {homeless} of {leases} saved leases: ratelimit.max_slots has no room for them");
        }
        true
    }
}

fn log_flaw(flaw: &Flaw) {
    pgrx::log!("ratelimit starts without what \"ratelimit.state\" holds: {flaw}");
}

/// Sees to it that the postmaster saves when it shuts the server down. By then it is alone, so nothing is missed.
pub fn at_shutdown() {
    // SAFETY: a function that lives as long as the process. After a crash the list of these is empty, and shared memory made anew.
    unsafe {
        if !pg_sys::IsUnderPostmaster {
            pg_sys::on_shmem_exit(Some(shutting_down), Datum::null());
        }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn shutting_down(code: i32, _unused: Datum) {
    // After a crash, memory may be anything.
    if code != 0 || !was_shut_down() {
        return;
    }
    if let Some(Err(error)) = shmem::header().map(save) {
        pgrx::log!("ratelimit could not save its state: {error}");
    }
}

/// Whether the server has come to an orderly end, which the exit code does not say: an immediate stop ends with 0, too.
fn was_shut_down() -> bool {
    use pg_sys::DBState::{DB_SHUTDOWNED, DB_SHUTDOWNED_IN_RECOVERY};
    let mut whole = false;
    // SAFETY: a plain variable with the path of the data directory; the answer is a struct of our own, in this memory context.
    let state = unsafe { (*pg_sys::get_controlfile(pg_sys::DataDir, &mut whole)).state };
    whole && matches!(state, DB_SHUTDOWNED | DB_SHUTDOWNED_IN_RECOVERY)
}
