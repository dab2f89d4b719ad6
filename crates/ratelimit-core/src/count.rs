//! A count in one word, with room above it to say that the state is booked.

use crate::token_bucket::mark_of;

/// What is counted: far more than any quota, so that it can be overdrawn.
const COUNT: u64 = (1 << 48) - 1;

/// What is above the count of a booked state: never 0, and a few bits that tell one definition from another.
pub(crate) fn booking_mark(definition: [u64; 3]) -> u64 {
    (mark_of(definition) | 1 << 63) & !COUNT
}

/// Whether there is a mark above the count.
#[inline(always)]
pub(crate) const fn is_marked(word: u64) -> bool {
    word > COUNT
}

/// The count, and the mark above it.
pub(crate) const fn split(word: u64) -> (u64, u64) {
    (word & COUNT, word & !COUNT)
}

/// A count as it is stored.
#[inline(always)]
pub(crate) fn counted(count: u64) -> u64 {
    count.min(COUNT)
}
