//! Writing.

use std::io::{self, Write};

use crc32fast::Hasher;
use ratelimit_core::slots::Lease;
use ratelimit_core::stats::Hitter;
use ratelimit_core::table::Record;

use crate::{Entry, Head, SavedKey, SavedTotal, DENIED, END, LEASE, MAGIC, TOTAL, VERSION};

/// Writes a file from its head to its end. Best into a [`std::io::BufWriter`].
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    checksum: Hasher,
    count: u64,
}

impl<W: Write> Writer<W> {
    /// Begins with the head.
    pub fn new(out: W, head: &Head) -> io::Result<Self> {
        let mut writer = Writer { out, checksum: Hasher::new(), count: 0 };
        writer.put(MAGIC)?;
        writer.put(&VERSION.to_le_bytes())?;
        writer.put(&head.system.to_le_bytes())?;
        writer.put(&head.secret)?;
        writer.put(&head.clock.steady.to_le_bytes())?;
        writer.put(&head.clock.wall.to_le_bytes())?;
        Ok(writer)
    }

    /// Adds a record.
    pub fn add(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        self.count += 1;
        match entry {
            Entry::State(record) => self.add_state(record),
            Entry::Lease(lease) => self.add_lease(lease),
            Entry::Total(total) => self.add_total(total),
            Entry::Denied(key) => self.add_key(key),
        }
    }

    fn add_state(&mut self, record: &Record<'_>) -> io::Result<()> {
        let Record { key, tag, primary, kind, fresh, open, words, times } = *record;
        let count = u16::try_from(times.len()).map_err(io::Error::other)?;
        let mut bytes = [0; 64];
        let mut rest = &mut bytes[..];
        rest.write_all(&[kind, primary.into()])?;
        rest.write_all(&count.to_le_bytes())?;
        rest.write_all(&tag.to_le_bytes())?;
        for word in
            [key[0], key[1], fresh.cast_unsigned(), open.cast_unsigned()].iter().chain(&words)
        {
            rest.write_all(&word.to_le_bytes())?;
        }
        self.put(&bytes)?;
        times.iter().try_for_each(|time| self.put(&time.to_le_bytes()))
    }

    fn add_lease(&mut self, lease: &Lease) -> io::Result<()> {
        let Lease { token, key, durable: _, database, limiter, since, expires, text } = lease;
        let text = text.as_bytes();
        self.put(&[LEASE, u8::try_from(text.len()).map_err(io::Error::other)?])?;
        self.put(&database.to_le_bytes())?;
        self.put(limiter)?;
        key.iter().try_for_each(|word| self.put(&word.to_le_bytes()))?;
        self.put(token)?;
        self.put(&since.to_le_bytes())?;
        self.put(&expires.to_le_bytes())?;
        self.put(text)
    }

    fn add_total(&mut self, total: &SavedTotal) -> io::Result<()> {
        let SavedTotal { database, limiter, since, counts } = total;
        self.put(&[TOTAL, u8::try_from(counts.len()).map_err(io::Error::other)?])?;
        self.put(&database.to_le_bytes())?;
        self.put(limiter)?;
        self.put(&since.to_le_bytes())?;
        counts.iter().try_for_each(|count| self.put(&count.to_le_bytes()))
    }

    fn add_key(&mut self, key: &SavedKey<'_>) -> io::Result<()> {
        let SavedKey { database, limiter, hitter: Hitter { seen, error } } = key;
        self.put(&[DENIED, u8::try_from(seen.text.len()).map_err(io::Error::other)?])?;
        self.put(&database.to_le_bytes())?;
        self.put(limiter)?;
        let words = [
            seen.key[0],
            seen.key[1],
            seen.denied,
            *error,
            seen.allowed,
            seen.last.cast_unsigned(),
        ];
        words.iter().try_for_each(|word| self.put(&word.to_le_bytes()))?;
        self.put(seen.text)
    }

    /// Writes the end, and gives back where it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.put(&[END])?;
        self.put(&self.count.to_le_bytes())?;
        self.out.write_all(&self.checksum.finalize().to_le_bytes())?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.checksum.update(bytes);
        self.out.write_all(bytes)
    }
}
