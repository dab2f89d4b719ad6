//! Whatever is taken, booked and cancelled: what stands was allowed, nobody passes before who was first, and all waits are exact.

use proptest::prelude::*;
use ratelimit_core::{Algorithm, Micros, Now, Period, RateSpec, HOUR, MINUTE, SECOND};

use crate::common::definition::keeps_to_the_definition;
use crate::common::{self, at, every_algorithm, gap, moment, NOON};
use crate::{Held, Keys};

#[derive(Clone, Copy, Debug)]
enum Deed {
    Take,
    /// Books within so many thousandths of the first rule's period.
    Reserve(u64),
    /// Of those that stand, counted from the last.
    Cancel(usize),
    /// Takes whether it fits or not.
    Penalize,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    wait: (u64, Micros),
    deed: Deed,
    cost: u64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wait = prop_oneof![5 => Just(0u64), 4 => 0..60u64, 2 => 0..400u64, 1 => 0..2_200u64];
    let deed = prop_oneof![
        4 => Just(Deed::Take),
        6 => prop_oneof![0..5_000u64, Just(100_000)].prop_map(Deed::Reserve),
        3 => prop_oneof![Just(0), 0..5usize].prop_map(Deed::Cancel),
        1 => Just(Deed::Penalize),
    ];
    let step =
        ((wait, -2..3i64), deed, 1..8u64).prop_map(|(wait, deed, cost)| Step { wait, deed, cost });
    prop::collection::vec(step, 1..30)
}

/// Definitions so small that a short history fills them.
fn small_spec() -> impl Strategy<Value = RateSpec> {
    let period = prop::sample::select(vec![10_000, 1_009, SECOND, MINUTE, 7 * HOUR]);
    (0..6usize, 1..12u64, 1..30u64, any::<bool>(), period).prop_map(
        |(kind, quota, burst, with_burst, period)| {
            let spec = every_algorithm("1/s")[kind];
            let burst = (with_burst && kind < 2).then_some(burst);
            RateSpec { quota, burst, period: Period::Span(period), ..spec }
        },
    )
}

fn specs() -> impl Strategy<Value = Vec<RateSpec>> {
    prop_oneof![small_spec().prop_map(|spec| vec![spec]), prop::collection::vec(small_spec(), 2..4),]
}

/// What passes, or will.
#[derive(Debug)]
struct Pass {
    at: Now,
    cost: u64,
    held: Held,
}

#[derive(Debug)]
struct World {
    specs: Vec<RateSpec>,
    keys: Keys,
    now: Now,
    /// What stands, in the order in which it was asked for.
    passes: Vec<Pass>,
}

impl World {
    fn live(specs: Vec<RateSpec>, start: Micros, steps: &[Step], mut check: impl FnMut(&World)) {
        let keys = Keys::new(&specs);
        let mut world = World { specs, keys, now: at(start), passes: Vec::new() };
        for step in steps {
            world.step(*step);
            check(&world);
        }
    }

    fn step(&mut self, Step { wait, deed, cost }: Step) {
        let spec = self.specs[0];
        self.now = self.now.plus(gap(&spec, wait.0, wait.1));
        let capacity = self.specs.iter().map(RateSpec::capacity).min().unwrap();
        let (now, cost) = (self.now, 1 + (cost - 1) % capacity);
        match deed {
            Deed::Take => {
                let (answer, held) = self.keys.take(now, cost);
                if answer.allowed {
                    self.pass(Pass { at: now, cost, held });
                }
            }
            Deed::Reserve(max_wait) => {
                let before = self.keys.peek(now, cost).retry_after;
                let max_wait = gap(&spec, max_wait, 0);
                let (booking, held) = self.keys.reserve(now, cost, Some(max_wait));
                assert_eq!(booking.wait, before.filter(|wait| *wait <= max_wait), "{self:?}");
                if let Some(wait) = booking.wait {
                    self.pass(Pass { at: now.plus(wait), cost, held });
                }
            }
            Deed::Cancel(nth) => {
                if let Some(n) = self.passes.len().checked_sub(1 + nth) {
                    let pass = self.passes.remove(n);
                    self.keys.undo(now, &pass.held);
                }
            }
            // A log that is overdrawn forgets who was let in before.
            Deed::Penalize
                if self.specs.iter().any(|spec| spec.algorithm == Algorithm::SlidingLog) => {}
            Deed::Penalize => {
                for limit in &mut self.keys.limits(cost) {
                    limit.charge(now);
                }
            }
        }
    }

    /// Nobody passes before who was first.
    fn pass(&mut self, pass: Pass) {
        let last = self.passes.iter().map(|pass| pass.at.steady).max();
        assert!(last.is_none_or(|last| last <= pass.at.steady), "{pass:?} {self:?}");
        self.passes.push(pass);
    }

    fn keeps_to_its_definitions(&self) {
        let grant = |pass: &Pass| (i128::from(pass.at.steady), i128::from(pass.cost));
        for spec in &self.specs {
            keeps_to_the_definition(spec, self.passes.iter().map(grant).collect());
        }
    }

    /// Rule 3, also where others wait.
    fn tells_waits_that_are_exact(&self) {
        let answer = self.keys.peek(self.now, 1);
        let Some(wait) = answer.retry_after.filter(|wait| *wait > 0) else { return };
        let early = self.keys.peek(self.now.plus(wait - 1), 1);
        assert_eq!((early.allowed, early.retry_after), (false, Some(1)), "{self:?}");
        assert!(self.keys.clone().take(self.now.plus(wait), 1).0.allowed, "{self:?}");
    }
}

proptest! {
    #![proptest_config(common::cases(500))]

    #[test]
    fn what_stands_keeps_to_the_definitions(specs in specs(), start in moment(), steps in steps()) {
        World::live(specs, start, &steps, World::keeps_to_its_definitions);
    }

    #[test]
    fn all_waits_are_exact_and_first_come_is_first_served(specs in specs(), start in moment(), steps in steps()) {
        World::live(specs, start, &steps, World::tells_waits_that_are_exact);
    }

    /// The second one is the same as the first, so nothing is lost by changing one's mind.
    #[test]
    fn who_cancels_and_books_again_gets_the_same_moment(
        specs in specs(), start in NOON..NOON + HOUR, steps in steps(), cost in 1..8u64, wait in 0..100u64,
    ) {
        World::live(specs, start, &steps, |world| {
            let mut keys = world.keys.clone();
            let (now, later) = (world.now, world.now.plus(gap(&world.specs[0], wait, 0)));
            let (first, held) = keys.reserve(now, cost, None);
            let Some(wait) = first.wait else { return };
            keys.undo(later, &held);
            let again = keys.wait(later, cost).unwrap();
            let expected = now.plus(wait).steady.max(later.steady);
            assert!(later.plus(again).steady <= expected || wait == 0, "{again} {first:?} {world:?}");
        });
    }
}
