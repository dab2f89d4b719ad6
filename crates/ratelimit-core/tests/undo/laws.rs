//! Whatever transactions do at once: what stands was allowed, and what was undone is not missing.

use proptest::prelude::*;
use ratelimit_core::{Algorithm, Anchor, RateSpec, State};

use crate::common::definition::keeps_to_the_definition;
use crate::common::{self, cost, gap, moment, used_key};
use crate::world::{plain, steps, wild, Deed, World};
use crate::{
    charge, has_phase, is_continuous, is_fixed, leaves_no_trace, outlook, spec, spec_that, take,
    undo,
};

fn is_window(spec: &RateSpec) -> bool {
    is_fixed(spec, Anchor::Clock) || spec.algorithm == Algorithm::SlidingWindow
}

proptest! {
    #![proptest_config(common::cases(250))]

    #[test]
    fn nothing_comes_back_that_others_were_let_in_for(spec in spec_that(|spec| !has_phase(spec)), start in moment(), steps in steps(plain())) {
        World::live(spec, start, &steps, World::has_no_more_than_its_replay);
    }

    /// All but a log can be overdrawn and reset without being fooled. They do not know whose part somebody refunds who took nothing.
    #[test]
    fn what_is_overdrawn_gives_nothing_twice(
        spec in spec_that(|spec| is_continuous(spec) || is_window(spec)), start in moment(), steps in steps(wild()),
    ) {
        let steps: Vec<_> = steps.into_iter().filter(|step| step.deed != Deed::Refund).collect();
        World::live(spec, start, &steps, World::has_no_more_than_its_replay);
    }

    #[test]
    fn in_a_window_or_a_log_it_is_as_if_it_had_not_been(spec in spec_that(leaves_no_trace), start in moment(), steps in steps(plain())) {
        World::live(spec, start, &steps, World::is_as_its_replay);
    }

    #[test]
    fn undone_at_once_it_is_as_if_it_had_not_been((spec, key, now) in used_key(), cost in cost()) {
        let mut asked = key.clone();
        let Some(receipt) = take(&mut asked, now, cost.of(&spec)) else { return Ok(()) };
        undo(&mut asked, now, &receipt);
        prop_assert_eq!(outlook(&spec, &asked, now), outlook(&spec, &key, now));
    }

    #[test]
    fn undone_before_anything_else_happens_it_is_as_if_it_had_not_been((spec, key, now) in used_key(), cost in cost(), wait in 0..2_500u64) {
        let mut asked = key.clone();
        let Some(receipt) = take(&mut asked, now, cost.of(&spec)) else { return Ok(()) };
        let then = now.plus(gap(&spec, wait, 0));
        undo(&mut asked, then, &receipt);
        prop_assert_eq!(outlook(&spec, &asked, then), outlook(&spec, &key, then));
    }

    #[test]
    fn undone_twice_it_gives_back_no_more_than_its_cost_each_time((spec, mut key, now) in used_key(), cost in cost(), wait in 0..2_500u64) {
        let Some(receipt) = take(&mut key, now, cost.of(&spec)) else { return Ok(()) };
        let then = now.plus(gap(&spec, wait, 0));
        for _ in 0..2 {
            let before = key.remaining(then);
            undo(&mut key, then, &receipt);
            prop_assert!(key.remaining(then) <= (before + receipt.cost).min(spec.capacity()));
        }
    }

    #[test]
    fn a_receipt_of_another_epoch_is_worth_nothing((spec, mut key, now) in used_key(), cost in cost()) {
        let Some(receipt) = take(&mut key, now, cost.of(&spec)) else { return Ok(()) };
        key.state.void_receipts();
        let before = key.clone();
        undo(&mut key, now, &receipt);
        prop_assert_eq!(key.state, before.state);
    }

    #[test]
    fn what_takes_nothing_has_no_receipt((_, mut key, now) in used_key()) {
        prop_assert_eq!(take(&mut key, now, 0), None);
        prop_assert_eq!(charge(&mut key, now, 0), None);
        let above = key.rule.capacity() + 1;
        prop_assert_eq!(take(&mut key, now, above), None);
    }
}

proptest! {
    #![proptest_config(common::cases(250))]

    /// At the end and at every moment before, when the open transactions could all commit.
    #[test]
    fn what_is_committed_keeps_to_the_definition(spec in spec(), start in moment(), steps in steps(plain())) {
        World::live(spec, start, &steps, |world| {
            keeps_to_the_definition(&world.spec, world.grants());
        });
    }
}
