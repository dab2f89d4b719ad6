//! Reading, with distrust.

use std::fmt;
use std::io::{self, ErrorKind, Read};

use crc32fast::Hasher;
use ratelimit_core::slots::{Lease, Text, MAX_TEXT};
use ratelimit_core::stats::{Counts, Hitter, Sighting};
use ratelimit_core::table::Record;
use ratelimit_core::{Micros, Now, MAX_LOG};

use crate::{Entry, Head, SavedKey, SavedTotal, DENIED, END, LEASE, MAGIC, TOTAL, VERSION};

/// Why a file cannot be used.
#[derive(Debug)]
pub enum Flaw {
    /// The system could not read it.
    Io(io::Error),
    /// It begins otherwise.
    Alien,
    /// It is of another version.
    Version(u32),
    /// It ends too early.
    Short,
    /// It is not what was written.
    Damaged,
    /// Another cluster wrote it.
    Foreign(u64),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::Io(error) => write!(f, "it cannot be read: {error}"),
            Flaw::Alien => write!(f, "it is no file of ratelimit"),
            Flaw::Version(version) if *version > VERSION => {
                write!(f, "its version {version} is newer than {VERSION}, which is known here")
            }
            Flaw::Version(version) => write!(f, "its version {version} is not {VERSION}"),
            Flaw::Short => write!(f, "it ends too early"),
            Flaw::Damaged => write!(f, "it is damaged"),
            Flaw::Foreign(system) => write!(f, "the cluster {system} wrote it"),
        }
    }
}

impl std::error::Error for Flaw {}

impl From<io::Error> for Flaw {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof => Flaw::Short,
            _ => Flaw::Io(error),
        }
    }
}

/// Reads a file of the cluster `system` from its head to its end, and shows the records on the way. Only when this has come to
/// its end are they known to be good: so read twice, and believe the second time. Best from a [`std::io::BufReader`].
pub fn read<R: Read>(input: R, system: u64, mut show: impl FnMut(Entry<'_>)) -> Result<Head, Flaw> {
    let mut file = Summed { input, checksum: Hasher::new() };
    if take(&mut file)? != *MAGIC {
        return Err(Flaw::Alien);
    }
    let version = u32::from_le_bytes(take(&mut file)?);
    if version != VERSION {
        return Err(Flaw::Version(version));
    }
    let head = Head {
        system: number(&mut file)?,
        secret: take(&mut file)?,
        clock: Now { steady: time(&mut file)?, wall: time(&mut file)? },
    };
    let mut times = [0; MAX_LOG as usize];
    let mut text = [0; u8::MAX as usize];
    let mut count = 0u64;
    loop {
        let [kind] = take(&mut file)?;
        show(match kind {
            END => break,
            LEASE => Entry::Lease(lease(&mut file)?),
            TOTAL => Entry::Total(total(&mut file)?),
            DENIED => Entry::Denied(denied_key(&mut file, &mut text)?),
            _ => Entry::State(record(&mut file, kind, &mut times)?),
        });
        count += 1;
    }
    if number(&mut file)? != count || !file.ends_well()? {
        return Err(Flaw::Damaged);
    }
    // Asked last: until here it could be a damaged one of ours.
    if head.system != system {
        return Err(Flaw::Foreign(head.system));
    }
    Ok(head)
}

/// The record of a lease after its kind.
fn lease(file: &mut impl Read) -> Result<Lease, Flaw> {
    let [length] = take(file)?;
    let mut lease = Lease {
        durable: false,
        database: u32::from_le_bytes(take(file)?),
        limiter: take(file)?,
        key: [number(file)?, number(file)?],
        token: take(file)?,
        since: time(file)?,
        expires: time(file)?,
        text: Text::default(),
    };
    let mut text = [0; MAX_TEXT];
    let text = text.get_mut(..length.into()).ok_or(Flaw::Damaged)?;
    file.read_exact(text)?;
    lease.text = Text::new(text);
    Ok(lease)
}

/// The record of a limiter's total after its kind.
fn total(file: &mut impl Read) -> Result<SavedTotal, Flaw> {
    let [count] = take(file)?;
    let mut total = SavedTotal {
        database: u32::from_le_bytes(take(file)?),
        limiter: take(file)?,
        since: time(file)?,
        counts: Counts::default(),
    };
    for count in total.counts.get_mut(..count.into()).ok_or(Flaw::Damaged)? {
        *count = number(file)?;
    }
    Ok(total)
}

/// The record of a denied key after its kind.
fn denied_key<'a>(
    file: &mut impl Read,
    text: &'a mut [u8; u8::MAX as usize],
) -> Result<SavedKey<'a>, Flaw> {
    let [length] = take(file)?;
    let (database, limiter) = (u32::from_le_bytes(take(file)?), take(file)?);
    let key = [number(file)?, number(file)?];
    let (denied, error, allowed, last) = (number(file)?, number(file)?, number(file)?, time(file)?);
    let text = text.get_mut(..length.into()).ok_or(Flaw::Damaged)?;
    file.read_exact(text)?;
    let seen = Sighting { key, owner: 0, text, denied, allowed, last };
    Ok(SavedKey { database, limiter, hitter: Hitter { seen, error } })
}

/// The record of a state after its kind.
fn record<'a>(file: &mut impl Read, kind: u8, times: &'a mut [u64]) -> Result<Record<'a>, Flaw> {
    let bytes: [u8; 63] = take(file)?;
    let bytes = &mut &bytes[..];
    let [primary] = take(bytes)?;
    let count = u16::from_le_bytes(take(bytes)?);
    let record = Record {
        kind,
        primary: primary != 0,
        tag: u32::from_le_bytes(take(bytes)?),
        key: [number(bytes)?, number(bytes)?],
        fresh: time(bytes)?,
        open: time(bytes)?,
        words: [number(bytes)?, number(bytes)?, number(bytes)?],
        times: &[],
    };
    // No key begins with 0, which marks a cell that was never used.
    if record.key[0] == 0 {
        return Err(Flaw::Damaged);
    }
    let times = times.get_mut(..count.into()).ok_or(Flaw::Damaged)?;
    for time in &mut *times {
        *time = number(file)?;
    }
    Ok(Record { times, ..record })
}

fn take<const N: usize>(input: &mut impl Read) -> Result<[u8; N], Flaw> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn number(input: &mut impl Read) -> Result<u64, Flaw> {
    Ok(u64::from_le_bytes(take(input)?))
}

fn time(input: &mut impl Read) -> Result<Micros, Flaw> {
    Ok(number(input)?.cast_signed())
}

/// Sums up what is read from it.
struct Summed<R> {
    input: R,
    checksum: Hasher,
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(bytes)?;
        self.checksum.update(bytes.get(..count).unwrap_or(&[]));
        Ok(count)
    }
}

impl<R: Read> Summed<R> {
    /// Whether the checksum follows, and then nothing.
    fn ends_well(mut self) -> Result<bool, Flaw> {
        let expected = self.checksum.clone().finalize();
        Ok(u32::from_le_bytes(take(&mut self)?) == expected && self.input.read(&mut [0])? == 0)
    }
}
