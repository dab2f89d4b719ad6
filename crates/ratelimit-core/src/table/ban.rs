//! Bans: states that refuse everything until they end.
//!
//! A ban has a cell beside those of its key's rules. Until it ends the cell is open, so it is never pushed out; then it is free like any
//! other. What people want to know of it is kept where a log has its times, and leaves a table and enters another as they do.

use alloc::vec::Vec;

use super::cell::{Cell, Key, Locked};
use super::{rule_key, Full, Host, Record, Table, BAN};
use crate::rule::BAN_KIND;
use crate::time::Micros;

/// How much of a key and of a reason a ban remembers, in bytes each.
pub const MAX_BAN_TEXT: usize = 255;

/// A ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban<'a> {
    /// The database of the limiter.
    pub database: u32,
    /// What tells the limiter from others of that database.
    pub limiter: [u8; 16],
    /// The limiter's tag.
    pub tag: u32,
    /// The key as the caller wrote it: [`MAX_BAN_TEXT`] bytes at most are kept.
    pub text: &'a [u8],
    /// Why, in somebody's words: [`MAX_BAN_TEXT`] bytes at most are kept.
    pub reason: Option<&'a [u8]>,
    /// Whether nobody decided it.
    pub automatic: bool,
    /// When it began.
    pub since: Micros,
    /// When it ends; `None` for never.
    pub until: Option<Micros>,
}

/// In the first word, which is never 0: the database in the high half, and these in the low one.
const HEAD: u64 = 1 << 31;
const AUTOMATIC: u64 = 1 << 16;
const HAS_REASON: u64 = 1 << 17;

impl Ban<'_> {
    fn words(&self) -> Vec<u64> {
        let text = cut(self.text);
        let reason = self.reason.map(cut);
        let [one, two] = halves(self.limiter);
        let head = HEAD
            | u64::from(self.database) << 32
            | if self.automatic { AUTOMATIC } else { 0 }
            | reason.map_or(0, |reason| HAS_REASON | (reason.len() as u64) << 8)
            | text.len() as u64;
        let mut words = Vec::from([head, self.tag.into(), one, two, self.since.cast_unsigned()]);
        for part in [text, reason.unwrap_or_default()] {
            words.extend(part.chunks(8).map(|chunk| {
                chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
            }));
        }
        words
    }
}

/// When the ban in a cell ends, if there is one that has not.
fn ban_end(cell: &Locked<'_>, now: Micros) -> Option<Micros> {
    (cell.kind() == BAN_KIND && cell.open() > now).then(|| cell.open())
}

fn halves(id: [u8; 16]) -> [u64; 2] {
    let id = u128::from_le_bytes(id);
    [id as u64, (id >> 64) as u64]
}

fn cut(text: &[u8]) -> &[u8] {
    text.get(..MAX_BAN_TEXT).unwrap_or(text)
}

/// Reads what [`Ban::words`] wrote, and shows it.
fn read(words: &[u64], until: Micros, show: impl FnOnce(&Ban<'_>)) -> Option<()> {
    let (&[head, tag, one, two, since], texts) = words.split_first_chunk()?;
    let bytes: Vec<u8> = texts.iter().flat_map(|word| word.to_le_bytes()).collect();
    let (length, reason_length) = ((head & 0xff) as usize, (head >> 8 & 0xff) as usize);
    let (text, rest) = bytes.split_at_checked(length.next_multiple_of(8))?;
    show(&Ban {
        database: (head >> 32) as u32,
        tag: tag as u32,
        limiter: (u128::from(one) | u128::from(two) << 64).to_le_bytes(),
        text: text.get(..length)?,
        reason: if head & HAS_REASON == 0 { None } else { Some(rest.get(..reason_length)?) },
        automatic: head & AUTOMATIC != 0,
        since: since.cast_signed(),
        until: (until != Micros::MAX).then_some(until),
    });
    Some(())
}

impl<'t, H: Host> Table<'t, H> {
    /// Bans a key, in place of an earlier ban of it. There may be no room for it.
    pub fn ban(&self, key: Key, ban: &Ban<'_>, now: Micros) -> Result<(), Full> {
        self.put_ban(key, ban, now, |_| true).map(|_| ())
    }

    /// Bans a key unless it is banned already; says whether it was not. There may be no room for it.
    pub fn ban_anew(&self, key: Key, ban: &Ban<'_>, now: Micros) -> Result<bool, Full> {
        self.put_ban(key, ban, now, |cell| ban_end(cell, now).is_none())
    }

    fn put_ban(
        &self,
        key: Key,
        ban: &Ban<'_>,
        now: Micros,
        accept: impl Fn(&Locked<'_>) -> bool,
    ) -> Result<bool, Full> {
        let words = ban.words();
        let until = ban.until.unwrap_or(Micros::MAX);
        let record = Record {
            key: rule_key(key, BAN),
            // No limiter's: a ban stays when a limiter forgets what its keys have used.
            tag: 0,
            // It stands for a key as what it has used does.
            primary: true,
            kind: BAN_KIND,
            fresh: until,
            open: until,
            words: [words.len() as u64, 0, 0],
            times: &words,
        };
        self.install(&record, now, accept)
    }

    /// Until when a key is banned, if it is: `Micros::MAX` for ever.
    #[inline]
    pub fn banned(&self, key: Key, now: Micros) -> Option<Micros> {
        ban_end(&self.find(rule_key(key, BAN))?, now)
    }

    /// Whether a key may be banned, at the price of a look at the cells where it would say so.
    #[inline(always)]
    pub fn may_be_banned(&self, key: Key) -> bool {
        let key = rule_key(key, BAN);
        self.home(key).is_some_and(|home| home.key() == key) || self.search(key).is_some()
    }

    /// Ends the ban of a key; says whether there was one.
    pub fn unban(&self, key: Key, now: Micros) -> bool {
        let Some(mut cell) = self.find(rule_key(key, BAN)) else { return false };
        let banned = ban_end(&cell, now).is_some();
        self.forget(&mut cell);
        banned
    }

    /// Shows all bans that have not ended. Each is whole, but no two need be of the same moment.
    pub fn bans(&self, now: Micros, mut show: impl FnMut(&Ban<'_>)) {
        self.keyed_bans(now, |_, ban| show(ban));
    }

    /// Shows all keys that are banned.
    pub fn banned_keys(&self, now: Micros, mut show: impl FnMut(Key)) {
        self.keyed_bans(now, |key, _| show(key));
    }

    /// Ends those bans that `ends` says yes to, as of limiters that are gone. Nothing is locked while it is asked.
    pub fn end_bans(&self, now: Micros, ends: impl Fn(&Ban<'_>) -> bool) {
        self.keyed_bans(now, |key, ban| {
            if ends(ban) {
                self.unban(key, now);
            }
        });
    }

    fn keyed_bans(&self, now: Micros, mut show: impl FnMut(Key, &Ban<'_>)) {
        let mut words = [0; _];
        let is_ban =
            |cell: &&Cell| cell.lock(|times| self.host.yield_now(times)).kind() == BAN_KIND;
        for cell in self.used().filter(is_ban) {
            let record = self.copy(cell, now, &mut words).filter(Record::is_ban);
            record.and_then(|record| {
                let key = rule_key(record.key, BAN);
                read(record.times, record.fresh, |ban| show(key, ban))
            });
        }
    }
}

impl Record<'_> {
    /// Whether it is a ban.
    fn is_ban(&self) -> bool {
        self.kind == BAN_KIND
    }

    /// The tag of the limiter that bans and the key that it has banned, if this is a ban.
    pub fn banned(&self) -> Option<(u32, Key)> {
        let tag = self.times.get(1).filter(|_| self.is_ban())?;
        Some((*tag as u32, rule_key(self.key, BAN)))
    }
}
