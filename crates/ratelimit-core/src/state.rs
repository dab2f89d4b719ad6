//! What a key has used of one rule, in the smallest form that a shared table can hold.

use crate::time::Micros;

/// The three words that hold a rule's state; their meaning is the algorithm's. All zero is an untouched key.
pub type Words = [u64; 3];

/// Where the state of one key under one rule lives.
///
/// A sliding log also needs one time per unit of its quota; the other algorithms leave `time` and `set_time` alone.
pub trait State {
    /// The three words.
    fn words(&self) -> Words;
    /// Replaces them.
    fn set_words(&mut self, words: Words);
    /// Place `index` of the log, as [`log_word`] wrote it; 0 where nothing was written.
    fn time(&self, index: usize) -> u64;
    /// Writes place `index` of the log.
    fn set_time(&mut self, index: usize, word: u64);
    /// After each change: from when on the key is as good as new, and until when it refuses even a cost of 1
    /// (`Micros::MIN`: it does not). A table may drop the state from the first on, and must keep it until the second.
    fn settled(&mut self, _fresh: Micros, _open: Micros) {}
    /// A cost was refused that will pass from then on: the state must be kept so long.
    fn refused(&mut self, _until: Micros) {}
    /// Receipts of what was taken so far must not be used any more.
    fn void_receipts(&mut self) {}
    /// Changes whenever receipts become worthless.
    fn epoch(&self) -> u8 {
        0
    }
}

impl<S: State> State for &mut S {
    fn words(&self) -> Words {
        (**self).words()
    }
    fn set_words(&mut self, words: Words) {
        (**self).set_words(words);
    }
    fn time(&self, index: usize) -> u64 {
        (**self).time(index)
    }
    fn set_time(&mut self, index: usize, word: u64) {
        (**self).set_time(index, word);
    }
    fn settled(&mut self, fresh: Micros, open: Micros) {
        (**self).settled(fresh, open);
    }
    fn refused(&mut self, until: Micros) {
        (**self).refused(until);
    }
    fn void_receipts(&mut self) {
        (**self).void_receipts();
    }
    fn epoch(&self) -> u8 {
        (**self).epoch()
    }
}

/// A time as the log stores it: ordered like the time, and 0 is before all times.
pub(crate) const fn log_word(time: Micros) -> u64 {
    time.cast_unsigned() ^ (1 << 63)
}

/// The time that [`log_word`] stored.
pub(crate) const fn log_time(word: u64) -> Micros {
    (word ^ (1 << 63)).cast_signed()
}

/// A state in ordinary memory: for simulations and tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryState {
    words: Words,
    log: alloc::vec::Vec<u64>,
    epoch: u8,
}

impl MemoryState {
    /// The places of the log as far as they were written.
    pub(crate) fn times(&self) -> impl Iterator<Item = u64> + '_ {
        self.log.iter().copied()
    }
}

impl State for MemoryState {
    fn words(&self) -> Words {
        self.words
    }
    fn set_words(&mut self, words: Words) {
        self.words = words;
    }
    fn time(&self, index: usize) -> u64 {
        self.log.get(index).copied().unwrap_or(0)
    }
    fn set_time(&mut self, index: usize, word: u64) {
        if self.log.len() <= index {
            self.log.resize(index + 1, 0);
        }
        if let Some(place) = self.log.get_mut(index) {
            *place = word;
        }
    }
    fn void_receipts(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
    }
    fn epoch(&self) -> u8 {
        self.epoch
    }
}
