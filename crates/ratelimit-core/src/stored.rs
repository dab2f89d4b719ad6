//! What a key has used of a rule, as tables keep it: put together from events, one after the other.

use alloc::vec::Vec;

use crate::decide::Limit;
use crate::fixed_window;
use crate::rule::{Rule, LOG_KIND};
use crate::state::{log_time, log_word, MemoryState, State};
use crate::time::{Micros, Now};
use crate::token_bucket;

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// So much was taken.
    Take(u64),
    /// So much was booked, for a moment that was so long ahead.
    Book(u64, Micros),
    /// So much was given back, not by undoing a take.
    Refund(u64),
    /// All was forgotten.
    Reset,
}

/// A state, and when it was last changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    kind: u8,
    at: Micros,
    state: MemoryState,
}

/// The first byte of the encoded form: what follows is kind, time, three words and the log, all in eights of bytes, lowest first.
const VERSION: u8 = 1;
const HEAD: usize = 8;

impl Stored {
    /// An untouched key.
    pub fn new(rule: &Rule) -> Self {
        Stored { kind: rule.kind(), at: Micros::MIN, state: MemoryState::default() }
    }

    /// When it was last changed, on the wall.
    pub fn at(&self) -> Micros {
        self.at
    }

    /// The state.
    pub fn state(&self) -> &MemoryState {
        &self.state
    }

    /// What [`encode`](Self::encode) wrote, if it is for this algorithm: another one begins afresh.
    pub fn decode(rule: &Rule, bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(HEAD)?;
        if head.first() != Some(&VERSION) || head.get(1) != Some(&rule.kind()) {
            return None;
        }
        let mut numbers =
            rest.chunks_exact(8).map(|eight| eight.try_into().map_or(0, u64::from_le_bytes));
        let at = numbers.next()?.cast_signed();
        let mut stored = Stored { at, ..Stored::new(rule) };
        stored.state.set_words([numbers.next()?, numbers.next()?, numbers.next()?]);
        for (place, word) in numbers.enumerate() {
            stored.state.set_time(place, word);
        }
        if let Rule::SlidingLog(log) = rule {
            log.fit(&mut stored.state);
        }
        Some(stored)
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = alloc::vec![VERSION, self.kind];
        bytes.resize(HEAD, 0);
        let words = self.state.words();
        let numbers = [self.at.cast_unsigned()].into_iter().chain(words).chain(self.state.times());
        bytes.extend(numbers.flat_map(u64::to_le_bytes));
        bytes
    }

    /// Moves the state on the steady time line.
    pub fn shift(&mut self, by: Micros) {
        if by == 0 || self.at == Micros::MIN {
            return;
        }
        let moved = |time: u64| time.cast_signed().saturating_add(by).cast_unsigned();
        let words = self.state.words();
        self.state.set_words(match self.kind {
            1 => token_bucket::shifted(words, by),
            // When the period began that runs.
            2 => [words[0], moved(words[1]), words[2]],
            3 => fixed_window::shifted(words, by),
            // When the window ends, or up to when it is booked.
            4 => [moved(words[0]), words[1], words[2]],
            // A log has its times elsewhere.
            _ => words,
        });
        if self.kind == LOG_KIND {
            for place in 0..self.state.times().count() {
                let word = self.state.time(place);
                if word != 0 {
                    self.state.set_time(place, log_word(log_time(word).saturating_add(by)));
                }
            }
        }
    }

    /// What happened at `at`, which is no earlier than what happened before. What lies behind the bookings that are there comes behind
    /// them.
    pub fn apply(&mut self, rule: &Rule, at: Now, event: Event) {
        self.at = self.at.max(at.wall);
        let state = &mut self.state;
        match event {
            Event::Take(cost) => Limit::new(rule, state, cost).charge(at),
            Event::Book(cost, wait) => Limit::new(rule, state, cost).book(at, at.plus(wait)),
            Event::Refund(cost) => Limit::new(rule, state, cost).refund(at),
            Event::Reset => *state = MemoryState::default(),
        }
    }

    /// When the key will be as good as new, if nothing is taken any more. For a state whose time lines agree.
    pub fn fresh_from(&mut self, rule: &Rule) -> Micros {
        let now = Now::at(self.at);
        let after = Limit::new(rule, &mut self.state, 0).reset_after(now);
        self.at.saturating_add(after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decide, parse_rates, reserve, Algorithm, Operation, SECOND};

    const NOON: Micros = 1_700_000_000_000_000;

    fn rules() -> impl Iterator<Item = Rule> {
        Algorithm::NAMES.into_iter().map(|(_, algorithm)| {
            parse_rates("7 per minute", algorithm).unwrap()[0].rule().unwrap()
        })
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        for rule in rules() {
            let mut stored = Stored::new(&rule);
            stored.apply(&rule, Now::at(NOON), Event::Take(3));
            stored.apply(&rule, Now::at(NOON + 5), Event::Take(2));
            assert_eq!(Stored::decode(&rule, &stored.encode()), Some(stored));
        }
    }

    #[test]
    fn another_algorithm_or_version_begins_afresh() {
        let [bucket, window, ..] = &rules().collect::<Vec<_>>()[..] else { unreachable!() };
        let mut bytes = Stored::new(bucket).encode();
        assert_eq!(Stored::decode(window, &bytes), None);
        bytes[0] = 2;
        assert_eq!(Stored::decode(bucket, &bytes), None);
        assert_eq!(Stored::decode(bucket, &[]), None);
    }

    #[test]
    fn a_shifted_state_answers_as_the_same_state_so_much_later() {
        // Whole periods, so that windows lie alike.
        let by = 3 * 60 * crate::SECOND;
        for rule in rules() {
            let [mut early, late] = [NOON, NOON + by].map(|steady| {
                let now = Now { steady, wall: NOON };
                let mut stored = Stored::new(&rule);
                stored.apply(&rule, now, Event::Take(5));
                stored.apply(&rule, now, Event::Book(4, 60 * SECOND));
                stored
            });
            early.shift(by);
            assert_eq!(early, late, "{rule:?}");
        }
    }

    /// What was taken is written down when it is certain, in the order of the moments for which it was.
    #[test]
    fn bookings_lie_ahead() {
        for rule in rules() {
            let now = Now::at(NOON);
            let (mut stored, mut live) = (Stored::new(&rule), MemoryState::default());
            let mut waits = Vec::new();
            for _ in 0..20 {
                let booking = reserve(&mut [Limit::new(&rule, &mut live, 1)], now, None);
                waits.push(booking.wait.unwrap());
            }
            for wait in waits {
                stored.apply(&rule, now, Event::Book(1, wait));
            }
            let mut stored = Stored::decode(&rule, &stored.encode()).unwrap();
            for _ in 0..2 {
                let peek = |state: &mut MemoryState| {
                    let later = [0, 60, 90, 120, 180, 300].map(|wait| now.plus(wait * SECOND));
                    later.map(|now| {
                        decide(&mut [Limit::new(&rule, &mut *state, 1)], now, Operation::Peek)
                    })
                };
                assert_eq!(peek(&mut stored.state), peek(&mut live), "{rule:?}");
                // What was earlier comes behind what was booked.
                stored.apply(&rule, now, Event::Take(1));
                Limit::new(&rule, &mut live, 1).charge(now);
            }
        }
    }
}
