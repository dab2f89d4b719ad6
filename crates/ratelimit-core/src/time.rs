//! Instants and spans, all in microseconds.

/// Microseconds: a span, or an instant counted from 1970-01-01 00:00 UTC.
pub type Micros = i64;

/// One millisecond.
pub const MILLISECOND: Micros = 1_000;
/// One second.
pub const SECOND: Micros = 1_000_000;
/// One minute.
pub const MINUTE: Micros = 60 * SECOND;
/// One hour.
pub const HOUR: Micros = 60 * MINUTE;
/// A day of 24 hours.
pub const DAY: Micros = 24 * HOUR;

/// The moment of a decision, on the two time lines that a limiter needs.
///
/// They agree until somebody sets the machine's clock: the steady line goes on, the wall line follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Never steps back or jumps. All that is measured as "so long after" uses it.
    pub steady: Micros,
    /// What a clock on the wall shows. Only windows that begin at a time of day use it.
    pub wall: Micros,
}

impl Now {
    /// A moment at which both lines agree, as in a simulation.
    pub const fn at(time: Micros) -> Self {
        Now { steady: time, wall: time }
    }

    /// The moment `span` later.
    pub const fn plus(self, span: Micros) -> Self {
        Now { steady: self.steady.saturating_add(span), wall: self.wall.saturating_add(span) }
    }

    /// The moment at which the lines go on that stood still here, when a clock on the wall shows `wall`. If that was set back
    /// meanwhile, nobody knows how long it was: then it counts as nothing.
    pub fn resumed(self, wall: Micros) -> Self {
        let pause = wall.saturating_sub(self.wall).max(0);
        Now { steady: self.steady.saturating_add(pause), wall }
    }
}

/// A non-negative span that fits, or the longest there is.
pub(crate) fn span(value: i128) -> Micros {
    Micros::try_from(value.max(0)).unwrap_or(Micros::MAX)
}

/// `a / b` rounded up, for a positive `b`.
pub(crate) fn div_ceil(a: i128, b: i128) -> i128 {
    a.div_euclid(b) + i128::from(a.rem_euclid(b) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_counts_by_the_wall_but_never_backwards() {
        // The wall clock had been set ahead by 500 before.
        let saved = Now { steady: 1_000, wall: 1_500 };
        assert_eq!(saved.resumed(1_600), Now { steady: 1_100, wall: 1_600 });
        assert_eq!(saved.resumed(1_200), Now { steady: 1_000, wall: 1_200 });
        assert_eq!(saved.resumed(Micros::MAX).resumed(Micros::MIN).wall, Micros::MIN);
    }
}
