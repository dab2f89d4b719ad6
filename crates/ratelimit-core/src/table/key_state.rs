//! A key's state in the table, as the algorithms see it: its cell, and for a log the cells that hold its times.

use super::cell::{Key, Locked};
use super::{Host, Table};
use crate::rule::{Rule, BAN_KIND, LOG_KIND};
use crate::sliding_log::{ring, SlidingLog};
use crate::state::{State, Words};
use crate::time::{Micros, Now};

/// Places of a log that its first cell holds, beside the log's own word, and that each further cell holds.
const FIRST_PLACES: usize = 2;
const MORE_PLACES: usize = 3;

/// The state of one key under one rule, with its cell locked; without a cell, an untouched key that cannot be written.
#[derive(Debug)]
pub struct KeyState<'a, 't, H> {
    table: &'a Table<'t, H>,
    cell: Option<Locked<'t>>,
    key: Key,
    kind: u8,
    /// The first word of an untouched key: 0, but for a log. A log needs to be told from an earlier one of the same key, whose
    /// further cells may still be about.
    untouched: u64,
}

impl<'a, 't, H: Host> KeyState<'a, 't, H> {
    /// The state of a key whose cell is not locked yet.
    pub(super) fn new(table: &'a Table<'t, H>, key: Key, rule: &Rule, now: Now) -> Self {
        let untouched = match rule {
            Rule::SlidingLog(_) => u64::from(now.steady as u16) << 32,
            _ => 0,
        };
        KeyState { table, cell: None, key, kind: rule.kind(), untouched }
    }

    /// What a locked cell holds, as it is, or as a state of that kind.
    pub(super) fn of(table: &'a Table<'t, H>, cell: Locked<'t>, kind: u8) -> Self {
        KeyState { table, key: cell.key(), cell: Some(cell), kind, untouched: 0 }
    }

    /// Locks the key's cell; says whether it has one.
    #[inline(always)]
    pub(super) fn lock(&mut self) -> bool {
        self.cell = self.table.find(self.key);
        self.cell.is_some()
    }

    pub(super) fn has_cell(&self) -> bool {
        self.cell.is_some()
    }

    /// Whether the cell holds a copy of what the tables say of the key.
    pub(super) fn is_loaded(&self) -> bool {
        self.cell.as_ref().is_some_and(Locked::is_loaded)
    }

    /// Whether the cell holds something of this kind of rule.
    pub(super) fn is_current(&self) -> bool {
        self.cell.as_ref().is_some_and(|cell| cell.kind() == self.kind)
    }

    /// The cell, if it is locked.
    pub(super) fn cell(&mut self) -> Option<&mut Locked<'t>> {
        self.cell.as_mut()
    }

    /// The cell of a further place of a log, and where in it.
    fn further(&self, index: usize) -> (Key, usize) {
        let index = index - FIRST_PLACES;
        (further_key(self.key, index / MORE_PLACES), index % MORE_PLACES)
    }

    /// Tells this log from an earlier one of the same key, whose further cells may still be about.
    fn mark(&self) -> u16 {
        (self.words()[0] >> 32) as u16
    }

    /// Keeps the cells that a charge of `cost` writes until what it writes has expired; the first one missing is the error, and
    /// then none is kept. A refund writes other cells, which are there, unless the ring gets another size.
    pub(super) fn keep_log(
        &self,
        rule: &Rule,
        cost: u64,
        now: Now,
        refund: bool,
    ) -> Result<(), Key> {
        let Rule::SlidingLog(log) = rule else {
            return Ok(());
        };
        if refund && !log.resizes(self) {
            return Ok(());
        }
        let (head, count) = log.writes(self, cost);
        self.keep_places(log, head, count, now)
    }

    /// The same for so many places from `head` on.
    pub(super) fn keep_places(
        &self,
        log: &SlidingLog,
        head: usize,
        count: usize,
        now: Now,
    ) -> Result<(), Key> {
        let places = (0..count).map(|n| (head + n) % log.places().max(1));
        let further =
            places.filter(|place| *place >= FIRST_PLACES).map(|place| self.further(place));
        // The first place in each cell stands for the cell.
        let cells = further.enumerate().filter(|(n, (_, place))| *n == 0 || *place == 0);
        let keys = cells.map(|(_, (key, _))| key);
        self.keep(keys, log.expiry(now))
    }

    /// Keeps these further cells; the first one missing is the error, and then none is kept.
    fn keep(&self, keys: impl Iterator<Item = Key> + Clone, until: Micros) -> Result<(), Key> {
        for key in keys.clone() {
            self.table.find(key).ok_or(key)?;
        }
        let owner = self.cell.as_ref().map_or(usize::MAX, |cell| cell.place_in(self.table.cells));
        for mut cell in keys.filter_map(|key| self.table.find(key)) {
            cell.set_fresh(until);
            cell.set_owner(owner);
        }
        Ok(())
    }

    /// Keeps the further cells that hold the first `places` of a log.
    pub(super) fn keep_first(&self, places: usize, until: Micros) -> Result<(), Key> {
        self.keep(first_keys(self.key, places), until)
    }
}

/// The key of a further cell of a log. They are spread out, eight to a neighbourhood, so that a long log does not fill the
/// window of one home.
fn further_key(key: Key, number: usize) -> Key {
    let number = number as u64;
    let spread = (1 + number / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    [key[0].wrapping_add(spread) | 1, key[1] ^ (number + 1) << 8]
}

/// Whether the words are those of a ring, of which further cells hold the most: a log's times, or what a ban says.
pub(super) fn is_ring(kind: u8) -> bool {
    matches!(kind, LOG_KIND | BAN_KIND)
}

/// The keys of the further cells of a log, as its first cell says how many.
pub(super) fn further_keys(first: &Locked<'_>) -> impl Iterator<Item = Key> {
    let places = if is_ring(first.kind()) { ring(first.word(0)).1 } else { 0 };
    first_keys(first.key(), places)
}

/// The keys of the further cells that hold the first `places` of a log.
pub(super) fn first_keys(key: Key, places: usize) -> impl Iterator<Item = Key> + Clone {
    let count = places.saturating_sub(FIRST_PLACES).div_ceil(MORE_PLACES);
    (0..count).map(move |number| further_key(key, number))
}

impl<H: Host> State for KeyState<'_, '_, H> {
    #[inline(always)]
    fn words(&self) -> Words {
        match &self.cell {
            Some(cell) if cell.kind() == self.kind => cell.words(),
            _ => [self.untouched, 0, 0],
        }
    }

    #[inline(always)]
    fn set_words(&mut self, words: Words) {
        if let Some(cell) = &mut self.cell {
            cell.set_words(words);
            cell.set_kind(self.kind);
        }
    }

    fn time(&self, index: usize) -> u64 {
        if index < FIRST_PLACES {
            return self.words().get(index + 1).copied().unwrap_or(0);
        }
        let (key, place) = self.further(index);
        let cell = self.table.find(key).filter(|cell| cell.mark() == self.mark());
        cell.map_or(0, |cell| cell.word(place))
    }

    fn set_time(&mut self, index: usize, word: u64) {
        if index < FIRST_PLACES {
            let mut words = self.words();
            if let Some(place) = words.get_mut(index + 1) {
                *place = word;
            }
            self.set_words(words);
            return;
        }
        let (key, place) = self.further(index);
        let mark = self.mark();
        if let Some(mut cell) = self.table.find(key) {
            if cell.mark() != mark {
                cell.set_words([0; 3]);
                cell.set_mark(mark);
            }
            cell.set_word(place, word);
        }
    }

    #[inline(always)]
    fn settled(&mut self, fresh: Micros, open: Micros) {
        if let Some(cell) = &self.cell {
            cell.set_fresh(fresh);
            cell.set_open(open);
        }
    }

    fn void_receipts(&mut self) {
        if let Some(cell) = &mut self.cell {
            cell.void();
        }
    }

    #[inline(always)]
    fn epoch(&self) -> u8 {
        self.cell.as_ref().map_or(0, Locked::epoch)
    }

    #[inline(always)]
    fn refused(&mut self, until: Micros) {
        if let Some(cell) = &self.cell {
            cell.set_open(cell.open().max(until));
            cell.set_fresh(cell.fresh().max(until));
        }
    }
}
