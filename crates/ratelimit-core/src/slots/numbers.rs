//! Slots that share no memory: each has a number, which one holder has at a time.
//!
//! Whoever wants a slot looks which numbers are taken, chooses one, and takes it unless somebody was faster. What it has seen may be old
//! by then. Still there are never more holders than the capacity, also after that was lowered, when holders have numbers above it: see
//! [`free_number`].

/// A number that a newcomer may try to take, of 0 to `capacity - 1`; `taken` are those that are, ascending, each once. The search
/// begins at `start`: newcomers with different ones seldom want the same.
///
/// None: as many as `capacity` are taken.
///
/// A newcomer may take numbers below a limit `L`, the largest for which `L` and the numbers taken from `L` on are no more than the
/// capacity. If all choose so, `L` never falls: who takes a number below it changes nothing above. So whoever looked earlier saw an `L`
/// that still holds, and there are never more than `L` holders below it and `capacity - L` above. A newcomer finds a number if, and
/// only if, there are fewer holders than `capacity`.
pub fn free_number(taken: &[u32], capacity: u32, start: u32) -> Option<u32> {
    let limit = limit(taken, capacity)?;
    let start = start.checked_rem(limit)?;
    (start..limit).chain(0..start).find(|number| taken.binary_search(number).is_err())
}

/// The limit, from above: each step excludes only what is too large.
fn limit(taken: &[u32], capacity: u32) -> Option<u32> {
    let mut limit = capacity;
    loop {
        let below = taken.partition_point(|number| *number < limit);
        let above = u32::try_from(taken.len() - below).unwrap_or(u32::MAX);
        let lower = capacity.checked_sub(above)?;
        if lower >= limit {
            return Some(limit);
        }
        limit = lower;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeSet;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_newcomer_gets_a_free_number_from_its_start_on() {
        assert_eq!(free_number(&[], 3, 0), Some(0));
        assert_eq!(free_number(&[0, 1], 3, 0), Some(2));
        assert_eq!(free_number(&[1], 3, 1), Some(2));
        assert_eq!(free_number(&[1, 2], 3, 1), Some(0));
        assert_eq!(free_number(&[0, 1, 2], 3, 1), None);
        assert_eq!(free_number(&[], 3, 7), Some(1), "a start is taken round the capacity");
        assert_eq!(free_number(&[], 0, 7), None);
    }

    #[test]
    fn holders_above_a_lowered_capacity_count() {
        assert_eq!(free_number(&[7, 8, 9], 3, 0), None);
        assert_eq!(free_number(&[8, 9], 3, 0), Some(0));
        assert_eq!(
            free_number(&[4, 5, 8, 9], 6, 2),
            Some(0),
            "2 to 5 would be too many with 8 and 9"
        );
        assert_eq!(free_number(&[0, 1, 8, 9], 5, 0), Some(2));
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// A session looks, for later.
        Look(usize),
        /// It tries to take what it has chosen by what it has seen.
        Take(usize, u32),
        Release(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4_usize).prop_map(Step::Look),
            (0..4_usize, any::<u32>()).prop_map(|(session, start)| Step::Take(session, start)),
            (0..12_u32).prop_map(Step::Release),
        ]
    }

    proptest! {
        #[test]
        fn there_are_never_more_holders_than_the_capacity_however_old_what_was_seen(
            before in prop::collection::btree_set(0..12_u32, 0..12),
            capacity in 0..8_u32,
            steps in prop::collection::vec(step(), 0..60),
        ) {
            let mut held: BTreeSet<u32> = before;
            // Some hold more than a lowered capacity allows. Their number may only fall.
            let mut most = held.len().max(capacity as usize);
            let mut seen: [Option<Vec<u32>>; 4] = Default::default();
            for step in steps {
                match step {
                    Step::Look(session) => seen[session] = Some(held.iter().copied().collect()),
                    Step::Take(session, start) => {
                        let choice = seen[session].as_deref().and_then(|seen| free_number(seen, capacity, start));
                        held.extend(choice);
                    }
                    Step::Release(number) => {
                        held.remove(&number);
                    }
                }
                prop_assert!(held.len() <= most);
                most = held.len().max(capacity as usize);
            }
        }

        #[test]
        fn a_newcomer_is_refused_only_if_all_are_taken(
            taken in prop::collection::btree_set(0..12_u32, 0..12),
            capacity in 0..12_u32,
            start in any::<u32>(),
        ) {
            let taken: Vec<u32> = taken.into_iter().collect();
            let number = free_number(&taken, capacity, start);
            prop_assert_eq!(number.is_some(), taken.len() < capacity as usize);
            prop_assert!(number.is_none_or(|n| n < capacity && !taken.contains(&n)));
        }
    }
}
