//! Deadlocks in which processes wait for slots, for locks, or for both.
//!
//! Who waits for a lock goes on when all who are in its way have let go; who waits for a slot, as soon as one of its holders has. So a
//! cycle alone is no deadlock (R. C. Holt, "Some deadlock properties of computer systems", 1972). Those who are stuck are the largest set
//! of processes in which each waits for a lock that somebody of the set has, or for a slot of which the set has all.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

/// The operating system's name for a process.
type Pid = i32;

/// Why a process does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// What for.
    pub wanted: Wanted,
    /// Who is in its way.
    pub blockers: Vec<Pid>,
    /// Tells this wait from any other of the same process.
    pub since: i64,
}

/// What a process waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A lock: all blockers must let go.
    Lock,
    /// A slot: it suffices if one of them does.
    Slot,
}

impl Wait {
    fn is_stuck(&self, stuck: &BTreeSet<Pid>) -> bool {
        let mut blockers = self.blockers.iter();
        match self.wanted {
            Wanted::Lock => blockers.any(|pid| stuck.contains(pid)),
            Wanted::Slot => !self.blockers.is_empty() && blockers.all(|pid| stuck.contains(pid)),
        }
    }
}

/// Who waits, for whom. Who is not in it does not wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waits(BTreeMap<Pid, Wait>);

impl Waits {
    /// All that can keep this process waiting, as far as is needed; `wait` says what one of them waits for, if anything. A process
    /// that waits for a slot is not stuck if one of the holders goes on: then no more is asked.
    pub fn collect(me: Pid, mut wait: impl FnMut(Pid) -> Option<Wait>) -> Self {
        let mut waits = Waits::default();
        let mut seen = BTreeSet::from([me]);
        let mut next = VecDeque::from([me]);
        while let Some(pid) = next.pop_front() {
            match wait(pid) {
                Some(wait) => {
                    next.extend(wait.blockers.iter().filter(|pid| seen.insert(**pid)));
                    waits.0.insert(pid, wait);
                }
                None if waits.is_slot_of(pid, me) => return Waits::default(),
                None => {}
            }
        }
        waits
    }

    fn is_slot_of(&self, holder: Pid, waiter: Pid) -> bool {
        let wait = self.0.get(&waiter).filter(|wait| wait.wanted == Wanted::Slot);
        wait.is_some_and(|wait| wait.blockers.contains(&holder))
    }

    /// A cycle of processes that are all stuck, from this one on, each in the way of the one before it. None: this one is in no
    /// deadlock, or only behind one that its end would not resolve.
    pub fn deadlock(&self, me: Pid) -> Option<Vec<(Pid, Wanted)>> {
        let stuck = self.stuck();
        let mut before = BTreeMap::new();
        let mut next = VecDeque::from([me]);
        while let Some(pid) = next.pop_front() {
            let blockers = &self.0.get(&pid).filter(|_| stuck.contains(&pid))?.blockers;
            for blocker in blockers.iter().filter(|blocker| stuck.contains(blocker)) {
                if *blocker == me {
                    return self.path(me, pid, &before);
                }
                before.entry(*blocker).or_insert_with(|| {
                    next.push_back(*blocker);
                    pid
                });
            }
        }
        None
    }

    fn path(&self, me: Pid, last: Pid, before: &BTreeMap<Pid, Pid>) -> Option<Vec<(Pid, Wanted)>> {
        let step = |pid: &Pid| before.get(pid).copied().filter(|_| *pid != me);
        let back: Vec<Pid> = core::iter::successors(Some(last), step).collect();
        back.into_iter().rev().map(|pid| Some((pid, self.0.get(&pid)?.wanted))).collect()
    }

    /// All are thought to be stuck, until those who are not have been taken out.
    fn stuck(&self) -> BTreeSet<Pid> {
        let mut stuck: BTreeSet<Pid> = self.0.keys().copied().collect();
        loop {
            let still = |pid: &&Pid| self.0.get(pid).is_some_and(|wait| wait.is_stuck(&stuck));
            let rest: BTreeSet<Pid> = stuck.iter().filter(still).copied().collect();
            if rest.len() == stuck.len() {
                return stuck;
            }
            stuck = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;

    use proptest::prelude::*;

    use super::*;

    fn wait(wanted: Wanted, blockers: &[Pid]) -> Wait {
        Wait { wanted, blockers: blockers.to_vec(), since: 0 }
    }
    fn lock(blockers: &[Pid]) -> Wait {
        wait(Wanted::Lock, blockers)
    }
    fn slot(blockers: &[Pid]) -> Wait {
        wait(Wanted::Slot, blockers)
    }
    fn waits<const N: usize>(waits: [(Pid, Wait); N]) -> Waits {
        Waits(BTreeMap::from(waits))
    }
    fn cycle(waits: &Waits, me: Pid) -> Option<Vec<Pid>> {
        Some(waits.deadlock(me)?.into_iter().map(|(pid, _)| pid).collect())
    }

    #[test]
    fn a_slot_against_a_lock_is_a_deadlock() {
        let waits = waits([(1, slot(&[2])), (2, lock(&[1]))]);
        assert_eq!(waits.deadlock(1), Some(vec![(1, Wanted::Slot), (2, Wanted::Lock)]));
        assert_eq!(cycle(&waits, 2), Some(vec![2, 1]));
    }

    #[test]
    fn who_holds_the_slot_that_it_waits_for_is_a_deadlock_of_its_own() {
        assert_eq!(cycle(&waits([(1, slot(&[1]))]), 1), Some(vec![1]));
    }

    #[test]
    fn one_of_several_holders_who_goes_on_ends_the_wait() {
        let circle = [(1, slot(&[2, 3])), (2, lock(&[1]))];
        assert_eq!(waits(circle.clone()).deadlock(1), None);
        let [one, two] = circle;
        let stuck = waits([one, two, (3, slot(&[2]))]);
        assert_eq!(cycle(&stuck, 1), Some(vec![1, 2]));
        assert_eq!(cycle(&stuck, 3), Some(vec![3, 2, 1]));
    }

    #[test]
    fn a_lock_needs_all_in_its_way_to_let_go() {
        let waits = waits([(1, slot(&[2])), (2, lock(&[1, 3]))]);
        assert_eq!(cycle(&waits, 1), Some(vec![1, 2]));
    }

    #[test]
    fn who_waits_behind_a_deadlock_is_not_in_it() {
        let waits = waits([(1, slot(&[2])), (2, lock(&[1])), (3, slot(&[1]))]);
        assert_eq!((waits.deadlock(3), waits.deadlock(4)), (None, None));
    }

    #[test]
    fn a_slot_that_no_process_holds_is_no_deadlock() {
        assert_eq!(waits([(1, slot(&[]))]).deadlock(1), None);
    }

    #[test]
    fn no_more_is_asked_than_is_needed() {
        let all = waits([(1, slot(&[2, 3])), (3, lock(&[1, 4]))]);
        let mut asked = vec![];
        let mut ask = |pid| {
            asked.push(pid);
            all.0.get(&pid).cloned()
        };
        assert_eq!(Waits::collect(1, &mut ask), Waits::default());
        assert_eq!(Waits::collect(3, &mut ask), all);
        assert_eq!(asked, [1, 2, 3, 1, 4, 2]);
    }

    const PROCESSES: Pid = 5;

    fn any_wait() -> impl Strategy<Value = Option<Wait>> {
        let wanted = prop_oneof![Just(Wanted::Lock), Just(Wanted::Slot)];
        let blockers = prop::collection::btree_set(0..PROCESSES, 0..4);
        let wait = (wanted, blockers).prop_map(|(wanted, blockers)| {
            let blockers: Vec<Pid> = blockers.into_iter().collect();
            wait(wanted, &blockers)
        });
        prop::option::weighted(0.8, wait)
    }

    /// Each set of processes, looked at on its own: is there one with this process, in which nobody can go on before another does?
    fn is_stuck(waits: &Waits, me: Pid) -> bool {
        (0..1_u32 << PROCESSES).any(|set| {
            let has = |pid: Pid| set & 1 << pid != 0;
            let waits_within = |pid: Pid| match waits.0.get(&pid) {
                None => false,
                Some(Wait { wanted: Wanted::Lock, blockers, .. }) => {
                    blockers.iter().any(|pid| has(*pid))
                }
                Some(Wait { blockers, .. }) => {
                    !blockers.is_empty() && blockers.iter().all(|pid| has(*pid))
                }
            };
            has(me) && (0..PROCESSES).all(|pid| !has(pid) || waits_within(pid))
        })
    }

    /// Whether there is a way of so many steps, from one stuck process to the next.
    fn leads(waits: &Waits, from: Pid, to: Pid, steps: Pid) -> bool {
        let blockers =
            |pid| waits.0.get(&pid).map(|wait| wait.blockers.clone()).unwrap_or_default();
        steps > 0
            && is_stuck(waits, from)
            && blockers(from).into_iter().any(|pid| pid == to || leads(waits, pid, to, steps - 1))
    }

    proptest! {
        #[test]
        fn a_deadlock_is_a_cycle_of_processes_that_can_never_go_on(
            all in prop::collection::vec(any_wait(), PROCESSES as usize),
        ) {
            let all = Waits((0..PROCESSES).zip(all).filter_map(|(pid, wait)| Some((pid, wait?))).collect());
            for me in 0..PROCESSES {
                let waits = Waits::collect(me, |pid| all.0.get(&pid).cloned());
                let found = waits.deadlock(me);
                prop_assert_eq!(found.is_some(), leads(&all, me, me, PROCESSES));
                let Some(found) = found else { continue };
                prop_assert_eq!(found[0].0, me);
                for (n, (pid, wanted)) in found.iter().enumerate() {
                    let wait = &all.0[pid];
                    prop_assert!(is_stuck(&all, *pid));
                    prop_assert_eq!(*wanted, wait.wanted);
                    prop_assert!(wait.blockers.contains(&found[(n + 1) % found.len()].0));
                }
            }
        }
    }
}
