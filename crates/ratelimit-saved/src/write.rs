//! Writing.

use std::io::{self, Write};

use crc32fast::Hasher;
use ratelimit_core::table::Record;

use crate::{Head, MAGIC, VERSION};

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

    /// Adds a state.
    pub fn add(&mut self, record: &Record<'_>) -> io::Result<()> {
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
        self.count += 1;
        times.iter().try_for_each(|time| self.put(&time.to_le_bytes()))
    }

    /// Writes the end, and gives back where it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.put(&[0])?;
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
