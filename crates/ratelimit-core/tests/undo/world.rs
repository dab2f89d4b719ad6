//! A key that several transactions use at once, and the history of what stands.

use proptest::prelude::*;
use ratelimit_core::{Micros, Now, RateSpec, State};

use crate::common::{at, cost, gap, Cost, Key};
use crate::transaction::Transaction;
use crate::{charge, outlook, take};

/// What a session does in its transaction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Deed {
    Take,
    /// Takes more than fits.
    Charge,
    /// Gives some of its own back.
    TakeBack,
    Savepoint,
    Release,
    RollbackTo,
    Rollback,
    Commit,
    /// Gives back what others took.
    Refund,
    /// Makes all receipts worthless, as a reset does.
    Void,
}

#[derive(Clone, Copy, Debug)]
pub struct Step {
    session: usize,
    wait: (u64, Micros),
    pub deed: Deed,
    cost: Cost,
}

const SESSIONS: usize = 3;

pub fn steps(deeds: impl Strategy<Value = Deed> + Clone) -> impl Strategy<Value = Vec<Step>> {
    let wait = prop_oneof![4 => Just(0u64), 4 => 0..60u64, 2 => 0..400u64, 1 => 0..2_200u64];
    let step = (0..SESSIONS, (wait, -2..3i64), deeds, cost())
        .prop_map(|(session, wait, deed, cost)| Step { session, wait, deed, cost });
    prop::collection::vec(step, 1..40)
}

/// Only takes and the ends of transactions.
pub fn plain() -> impl Strategy<Value = Deed> + Clone {
    prop_oneof![
        10 => Just(Deed::Take),
        2 => Just(Deed::TakeBack),
        2 => Just(Deed::Savepoint),
        1 => Just(Deed::Release),
        2 => Just(Deed::RollbackTo),
        3 => Just(Deed::Rollback),
        1 => Just(Deed::Commit),
    ]
}

/// Also what overdraws, gives back and forgets.
pub fn wild() -> impl Strategy<Value = Deed> + Clone {
    prop_oneof![
        8 => plain(),
        1 => Just(Deed::Charge),
        1 => Just(Deed::Refund),
        1 => Just(Deed::Void),
    ]
}

/// An entry of the history: what was taken and stands, or was given back.
#[derive(Clone, Copy, Debug)]
pub enum Entry {
    Taken(Now, u64),
    Refunded(Now, u64),
}

#[derive(Debug)]
pub struct Session {
    pub transaction: Transaction,
    /// Of the transaction and of each savepoint, what was taken: places in the history.
    taken: Vec<Vec<usize>>,
}

impl Session {
    fn new() -> Self {
        Session { transaction: Transaction::new(), taken: vec![Vec::new()] }
    }
}

#[derive(Debug)]
pub struct World {
    pub spec: RateSpec,
    pub key: Key,
    pub now: Now,
    pub history: Vec<Entry>,
    pub sessions: Vec<Session>,
}

impl World {
    pub fn new(spec: RateSpec, start: Micros) -> Self {
        let sessions = (0..SESSIONS).map(|_| Session::new()).collect();
        World { spec, key: Key::new(&spec), now: at(start), history: Vec::new(), sessions }
    }

    pub fn live(
        spec: RateSpec,
        start: Micros,
        steps: &[Step],
        mut check: impl FnMut(&World),
    ) -> World {
        let mut world = World::new(spec, start);
        for step in steps {
            world.step(step);
            check(&world);
        }
        world
    }

    fn step(&mut self, step: &Step) {
        self.now = self.now.plus(gap(&self.spec, step.wait.0, step.wait.1));
        let (now, cost) = (self.now, step.cost.of(&self.spec));
        let World { key, history, sessions, .. } = self;
        let Session { transaction, taken } = &mut sessions[step.session];
        let inner = taken.len() - 1;
        match step.deed {
            Deed::Take | Deed::Charge => {
                let make = if step.deed == Deed::Take { take } else { charge };
                let Some(receipt) = make(key, now, cost) else { return };
                assert_eq!((receipt.at, receipt.cost), (now, cost));
                transaction.add(&key.rule, receipt);
                taken[inner].push(history.len());
                history.push(Entry::Taken(now, cost));
            }
            Deed::TakeBack => {
                let rest = transaction.take_back(key, now, cost);
                strike(history, &taken[inner], rest);
            }
            Deed::Savepoint => {
                transaction.savepoint();
                taken.push(Vec::new());
            }
            Deed::Release if transaction.has_savepoint() => {
                transaction.release(&key.rule);
                let released = taken.pop().unwrap();
                taken[inner - 1].extend(released);
            }
            Deed::RollbackTo if transaction.has_savepoint() => {
                transaction.roll_back_to_savepoint(key, now);
                strike(history, &taken.pop().unwrap(), u64::MAX);
            }
            Deed::Rollback => {
                let session = core::mem::replace(&mut sessions[step.session], Session::new());
                session.transaction.roll_back(key, now);
                strike(history, &session.taken.concat(), u64::MAX);
            }
            Deed::Commit => sessions[step.session] = Session::new(),
            Deed::Refund => {
                key.refund(now, cost);
                history.push(Entry::Refunded(now, cost));
            }
            Deed::Void => key.state.void_receipts(),
            Deed::Release | Deed::RollbackTo => {}
        }
    }

    /// What stands, on a fresh key.
    pub fn replay(&self) -> Key {
        let mut key = Key::new(&self.spec);
        for entry in &self.history {
            match *entry {
                Entry::Taken(_, 0) => {}
                Entry::Taken(now, cost) => key.charge(now, cost),
                Entry::Refunded(now, cost) => key.refund(now, cost),
            }
        }
        key
    }

    /// What stands, as numbers.
    pub fn grants(&self) -> Vec<(i128, i128)> {
        let grant = |entry: &Entry| match *entry {
            Entry::Taken(now, cost) if cost > 0 => Some((now.steady.into(), cost.into())),
            _ => None,
        };
        self.history.iter().filter_map(grant).collect()
    }

    pub fn has_no_more_than_its_replay(&self) {
        let replay = outlook(&self.spec, &self.replay(), self.now);
        for (real, replay) in outlook(&self.spec, &self.key, self.now).iter().zip(replay) {
            assert!(real.remaining <= replay.remaining, "{real:?} {replay:?} {self:?}");
            // A cost of 1 that only the replay allows would be in its answer.
            let alike = real.allowed == replay.allowed;
            assert!(
                !alike || real.reset_after >= replay.reset_after,
                "{real:?} {replay:?} {self:?}"
            );
        }
    }

    pub fn is_as_its_replay(&self) {
        let replay = outlook(&self.spec, &self.replay(), self.now);
        assert_eq!(outlook(&self.spec, &self.key, self.now), replay, "{self:?}");
    }
}

/// Takes so much from these places of the history, the latest first.
fn strike(history: &mut [Entry], places: &[usize], mut rest: u64) {
    for place in places.iter().rev() {
        if let Entry::Taken(_, cost) = &mut history[*place] {
            let part = rest.min(*cost);
            *cost -= part;
            rest -= part;
        }
    }
}
