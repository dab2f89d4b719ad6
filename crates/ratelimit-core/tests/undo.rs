//! A take that is undone: what comes back, what must not, and what a list of receipts is good for.
//!
//! The measure is the replay: a fresh key on which only those takes are made that were not undone, at their times. A key on which
//! takes were undone never has more left than that.

mod common;

use common::{
    any_spec, at, bucket, cost, every_algorithm, first_hit, gap, interval_bucket, moment, used_key,
    Cost, Key, NOON,
};
use proptest::prelude::*;
use ratelimit_core::{
    Algorithm, Anchor, Decision, Limit, Micros, Now, Period, RateSpec, Receipt, Receipts, Refill,
    State, HOUR, MINUTE, SECOND,
};

/// Takes if it fits, and says what to undo.
fn take(key: &mut Key, now: Now, cost: u64) -> Option<Receipt> {
    let mut limit = Limit::new(&key.rule, &mut key.state, cost);
    limit.try_take_with_receipt(now);
    limit.receipt()
}

/// Takes whether it fits or not.
fn charge(key: &mut Key, now: Now, cost: u64) -> Option<Receipt> {
    let mut limit = Limit::new(&key.rule, &mut key.state, cost);
    limit.charge(now);
    limit.receipt()
}

fn undo(key: &mut Key, now: Now, receipt: &Receipt) {
    Limit::new(&key.rule, &mut key.state, 0).undo(now, receipt);
}

/// Undoes all of them, the earliest first or the latest.
fn undo_all(key: &mut Key, now: Now, receipts: &Receipts, latest_first: bool) {
    let mut list: Vec<_> = receipts.iter().collect();
    if latest_first {
        list.reverse();
    }
    for receipt in list {
        undo(key, now, receipt);
    }
}

fn total(receipts: &Receipts) -> u64 {
    receipts.iter().map(|receipt| receipt.cost).sum()
}

/// What a key answers now and for some time: two keys that agree on it are the same to all who ask.
fn outlook(spec: &RateSpec, key: &Key, now: Now) -> Vec<Decision> {
    let later = [0, 1, 17, 200, 499, 500, 999, 1_000, 1_001, 1_500, 1_999, 2_000];
    later
        .into_iter()
        .flat_map(|part| {
            let then = now.plus(gap(spec, part, 0));
            [key.peek(then, 0), key.peek(then.plus(1), 1)]
        })
        .collect()
}

fn is_fixed(spec: &RateSpec, anchor: Anchor) -> bool {
    spec.algorithm == Algorithm::FixedWindow && spec.anchor == anchor
}

fn is_bucket(spec: &RateSpec, refill: Refill) -> bool {
    spec.algorithm == Algorithm::TokenBucket && spec.refill == refill
}

/// Whether an undone take leaves no trace, whenever it is undone: where every charge is counted by itself.
fn leaves_no_trace(spec: &RateSpec) -> bool {
    is_fixed(spec, Anchor::Clock)
        || matches!(spec.algorithm, Algorithm::SlidingWindow | Algorithm::SlidingLog)
}

/// Whether the moment of a first take decides when what comes later counts no more: undoing that take does not move the moment.
fn has_phase(spec: &RateSpec) -> bool {
    is_fixed(spec, Anchor::FirstHit) || is_bucket(spec, Refill::Interval)
}

/// Definitions so small that a short history fills them.
fn small_spec() -> impl Strategy<Value = RateSpec> {
    let period = prop::sample::select(vec![10_000, 1_009, SECOND, MINUTE, 7 * HOUR]);
    (0..6usize, 1..12u64, 1..30u64, any::<bool>(), period).prop_map(
        |(kind, quota, burst, with_burst, period)| {
            let spec = every_algorithm("1/s")[kind];
            let burst = (with_burst && spec.algorithm == Algorithm::TokenBucket).then_some(burst);
            RateSpec { quota, burst, period: Period::Span(period), ..spec }
        },
    )
}

fn spec() -> impl Strategy<Value = RateSpec> {
    prop_oneof![3 => small_spec(), 1 => any_spec()]
}

/// What a session does in its transaction.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Deed {
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
struct Step {
    session: usize,
    wait: (u64, Micros),
    deed: Deed,
    cost: Cost,
    latest_first: bool,
}

const SESSIONS: usize = 3;

fn steps(deeds: impl Strategy<Value = Deed> + Clone) -> impl Strategy<Value = Vec<Step>> {
    let wait = prop_oneof![4 => Just(0u64), 4 => 0..60u64, 2 => 0..400u64, 1 => 0..2_200u64];
    let wait = (wait, -2..3i64);
    let step = (0..SESSIONS, wait, deeds, cost(), any::<bool>()).prop_map(
        |(session, wait, deed, cost, latest_first)| Step {
            session,
            wait,
            deed,
            cost,
            latest_first,
        },
    );
    prop::collection::vec(step, 1..40)
}

/// Only takes and the ends of transactions.
fn plain() -> impl Strategy<Value = Deed> + Clone {
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
fn wild() -> impl Strategy<Value = Deed> + Clone {
    prop_oneof![
        8 => plain(),
        1 => Just(Deed::Charge),
        1 => Just(Deed::Refund),
        1 => Just(Deed::Void),
    ]
}

/// An entry of the history: what was taken and stands, or was given back.
#[derive(Clone, Copy, Debug)]
enum Entry {
    Taken(Now, u64),
    Refunded(Now, u64),
}

#[derive(Debug, Default)]
struct Level {
    receipts: Receipts,
    /// Places in the history.
    taken: Vec<usize>,
}

/// A key that several transactions use at once.
#[derive(Debug)]
struct World {
    spec: RateSpec,
    key: Key,
    now: Now,
    history: Vec<Entry>,
    /// Per session, the levels of its transaction.
    sessions: Vec<Vec<Level>>,
}

impl World {
    fn new(spec: RateSpec, start: Micros) -> Self {
        let sessions = (0..SESSIONS).map(|_| vec![Level::default()]).collect();
        World { spec, key: Key::new(&spec), now: at(start), history: Vec::new(), sessions }
    }

    fn live(spec: RateSpec, start: Micros, steps: &[Step], mut check: impl FnMut(&World)) -> World {
        let mut world = World::new(spec, start);
        for step in steps {
            world.step(step);
            check(&world);
        }
        world
    }

    fn step(&mut self, step: &Step) {
        self.now = self.now.plus(gap(&self.spec, step.wait.0, step.wait.1));
        let cost = step.cost.of(&self.spec);
        let depth = self.sessions[step.session].len();
        match step.deed {
            Deed::Take | Deed::Charge => {
                let receipt = if step.deed == Deed::Take {
                    take(&mut self.key, self.now, cost)
                } else {
                    charge(&mut self.key, self.now, cost)
                };
                let Some(receipt) = receipt else { return };
                assert_eq!((receipt.at, receipt.cost), (self.now, cost));
                let level = self.sessions[step.session].last_mut().unwrap();
                level.receipts.add(&self.key.rule, receipt);
                level.taken.push(self.history.len());
                self.history.push(Entry::Taken(self.now, cost));
            }
            Deed::TakeBack => self.take_back(step, cost),
            Deed::Savepoint => self.sessions[step.session].push(Level::default()),
            Deed::Release if depth > 1 => {
                let top = self.sessions[step.session].pop().unwrap();
                let below = self.sessions[step.session].last_mut().unwrap();
                below.receipts.append(&self.key.rule, top.receipts);
                below.taken.extend(top.taken);
            }
            Deed::RollbackTo if depth > 1 => {
                let top = self.sessions[step.session].pop().unwrap();
                self.roll_back(&top, step.latest_first);
            }
            Deed::Rollback => {
                let levels =
                    core::mem::replace(&mut self.sessions[step.session], vec![Level::default()]);
                for level in levels.iter().rev() {
                    self.roll_back(level, step.latest_first);
                }
            }
            Deed::Commit => self.sessions[step.session] = vec![Level::default()],
            Deed::Refund => {
                self.key.refund(self.now, cost);
                self.history.push(Entry::Refunded(self.now, cost));
            }
            Deed::Void => self.key.state.void_receipts(),
            Deed::Release | Deed::RollbackTo => {}
        }
    }

    fn roll_back(&mut self, level: &Level, latest_first: bool) {
        undo_all(&mut self.key, self.now, &level.receipts, latest_first);
        for place in &level.taken {
            self.history[*place] = Entry::Taken(self.now, 0);
        }
    }

    fn take_back(&mut self, step: &Step, cost: u64) {
        let level = self.sessions[step.session].last_mut().unwrap();
        let before = total(&level.receipts);
        let taken = level.receipts.take_back(cost);
        assert_eq!(total(&taken), cost.min(before));
        assert_eq!(total(&level.receipts), before - cost.min(before));
        let mut rest = total(&taken);
        for place in level.taken.iter().rev() {
            if let Entry::Taken(_, cost) = &mut self.history[*place] {
                let part = rest.min(*cost);
                *cost -= part;
                rest -= part;
            }
        }
        undo_all(&mut self.key, self.now, &taken, step.latest_first);
    }

    /// What stands, on a fresh key.
    fn replay(&self) -> Key {
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
    fn grants(&self) -> Vec<(i128, i128)> {
        let grant = |entry: &Entry| match *entry {
            Entry::Taken(now, cost) if cost > 0 => Some((now.steady.into(), cost.into())),
            _ => None,
        };
        self.history.iter().filter_map(grant).collect()
    }

    fn has_no_more_than_its_replay(&self) {
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
}

proptest! {
    #![proptest_config(common::cases(250))]

    /// Law 1.
    #[test]
    fn nothing_comes_back_that_others_were_let_in_for(spec in spec(), start in moment(), steps in steps(plain())) {
        prop_assume!(!has_phase(&spec));
        World::live(spec, start, &steps, World::has_no_more_than_its_replay);
    }

    /// Law 1 for a bucket, which can also be overdrawn, refunded and reset without being fooled.
    #[test]
    fn a_bucket_that_is_refunded_and_overdrawn_gives_nothing_twice(spec in spec(), start in moment(), steps in steps(wild())) {
        prop_assume!(is_bucket(&spec, Refill::Continuous));
        World::live(spec, start, &steps, World::has_no_more_than_its_replay);
    }

    /// Law 1 for the others, as far as it goes: they can be overdrawn and reset.
    #[test]
    fn a_window_that_is_overdrawn_gives_nothing_twice(spec in spec(), start in moment(), steps in steps(wild())) {
        prop_assume!(!has_phase(&spec) && spec.algorithm != Algorithm::SlidingLog);
        let steps: Vec<_> = steps.into_iter().filter(|step| step.deed != Deed::Refund).collect();
        World::live(spec, start, &steps, World::has_no_more_than_its_replay);
    }

    /// Law 2.
    #[test]
    fn in_a_window_or_a_log_it_is_as_if_it_had_not_been(spec in spec(), start in moment(), steps in steps(plain())) {
        prop_assume!(leaves_no_trace(&spec));
        World::live(spec, start, &steps, |world| {
            let replay = outlook(&spec, &world.replay(), world.now);
            assert_eq!(outlook(&spec, &world.key, world.now), replay, "{world:?}");
        });
    }

    /// Law 2.
    #[test]
    fn undone_at_once_it_is_as_if_it_had_not_been((spec, key, now) in used_key(), cost in cost()) {
        let mut asked = key.clone();
        let Some(receipt) = take(&mut asked, now, cost.of(&spec)) else { return Ok(()) };
        undo(&mut asked, now, &receipt);
        prop_assert_eq!(outlook(&spec, &asked, now), outlook(&spec, &key, now));
    }

    /// Law 2.
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

/// Law 1's consequence, read off the definitions: what stands was allowed, whatever else came and went.
fn stands_within_the_definition(world: &World) {
    let spec = &world.spec;
    // Weeks do not begin with 1970.
    let weeks = is_fixed(spec, Anchor::Clock) && matches!(spec.period, Period::Weeks(_));
    let Some(period) = spec.period.span().filter(|_| !weeks) else { return };
    let (period, quota) = (i128::from(period), i128::from(spec.quota));
    let burst = i128::from(spec.capacity());
    let grants = world.grants();
    let taken = |counts: &dyn Fn(i128) -> bool| -> i128 {
        grants.iter().filter(|(time, _)| counts(*time)).map(|(_, cost)| cost).sum()
    };
    let window = |time: i128| time.div_euclid(period);
    for (n, (end, _)) in grants.iter().enumerate() {
        let most = match (spec.algorithm, spec.refill, spec.anchor) {
            (Algorithm::TokenBucket, refill, _) => {
                for (start, _) in &grants[..=n] {
                    let sum = taken(&|time| time >= *start && time <= *end);
                    // At most one period end more than whole periods fit.
                    let back = match refill {
                        Refill::Continuous => (end - start) * quota,
                        Refill::Interval => ((end - start) / period + 1) * quota * period,
                    };
                    assert!(sum * period <= burst * period + back, "{start} to {end}: {world:?}");
                }
                continue;
            }
            (Algorithm::FixedWindow, _, Anchor::Clock) => {
                (taken(&|time| window(time) == window(*end)), quota)
            }
            // A period meets two windows at most.
            (Algorithm::FixedWindow, _, Anchor::FirstHit) => {
                (taken(&|time| time > end - period && time <= *end), 2 * quota)
            }
            (Algorithm::SlidingLog, ..) => {
                (taken(&|time| time > end - period && time <= *end), quota)
            }
            (Algorithm::SlidingWindow, ..) => {
                let previous = taken(&|time| window(time) == window(*end) - 1);
                let current = taken(&|time| window(time) == window(*end) && time <= *end);
                let left = period - end.rem_euclid(period);
                (previous * left + current * period, quota * period)
            }
        };
        assert!(most.0 <= most.1, "{most:?} at {end}: {world:?}");
    }
}

proptest! {
    #![proptest_config(common::cases(250))]

    /// Law 1's consequence, at the end and at every moment before, when the open transactions could all commit.
    #[test]
    fn what_is_committed_keeps_to_the_definition(spec in spec(), start in moment(), steps in steps(plain())) {
        World::live(spec, start, &steps, stands_within_the_definition);
    }
}

/// A key of which some takes are undone, and its model: the takes in the order in which they were made.
#[derive(Clone, Copy, Debug)]
enum Move {
    Take(Cost),
    /// One of the takes, counted from the first that was not undone.
    Undo(usize),
}

fn moves() -> impl Strategy<Value = Vec<((u64, Micros), Move)>> {
    let wait = prop_oneof![3 => Just(0u64), 5 => 0..200u64, 2 => 0..700u64, 1 => 0..1_600u64];
    let one = prop_oneof![3 => cost().prop_map(Move::Take), 2 => (0..4usize).prop_map(Move::Undo)];
    prop::collection::vec(((wait, -2..3i64), one), 1..40)
}

/// A bucket as a queue of jobs. Units: token times period.
#[derive(Debug)]
struct Queue {
    spec: RateSpec,
    period: i128,
    jobs: Vec<i128>,
    /// Up to when jobs have been served: at any time, or at a period's end.
    served: i128,
}

impl Queue {
    fn serve(&mut self, now: i128) {
        let quota = i128::from(self.spec.quota);
        match self.spec.refill {
            Refill::Continuous => {
                let work = (now - self.served) * quota;
                self.work(work);
                self.served = now;
            }
            Refill::Interval => {
                while self.left() > 0 && self.served + self.period <= now {
                    self.served += self.period;
                    self.work(quota * self.period);
                }
                if self.left() == 0 {
                    self.served = now;
                }
            }
        }
    }

    fn work(&mut self, mut work: i128) {
        for job in &mut self.jobs {
            let part = work.min(*job);
            *job -= part;
            work -= part;
        }
    }

    fn left(&self) -> i128 {
        self.jobs.iter().sum()
    }

    /// How many tokens are there, if so much more were missing.
    fn remaining(&self, more: i128) -> u64 {
        let burst = i128::from(self.spec.capacity()) * self.period;
        u64::try_from((burst - self.left() - more).max(0) / self.period).unwrap()
    }

    /// What may be lost each time something is given back: the count is in 65536ths of the bucket.
    fn step(&self) -> i128 {
        let burst = i128::from(self.spec.capacity());
        match self.spec.refill {
            Refill::Continuous => burst * self.period / 65_536 + i128::from(self.spec.quota),
            Refill::Interval => 0,
        }
    }
}

/// Lives through the moves with a key and a queue. `check` gets how often something was given back before.
fn compare(
    spec: RateSpec,
    start: Micros,
    moves: &[((u64, Micros), Move)],
    in_order: bool,
    check: impl Fn(&Queue, u64, i128),
) {
    let mut key = Key::new(&spec);
    let mut now = at(start);
    let period = spec.period.span().unwrap().into();
    let mut queue = Queue { spec, period, jobs: Vec::new(), served: start.into() };
    let mut receipts: Vec<Option<Receipt>> = Vec::new();
    let (mut undone, mut last) = (0, 0);
    for (wait, one) in moves {
        now = now.plus(gap(&spec, wait.0, wait.1));
        queue.serve(now.steady.into());
        match *one {
            Move::Take(cost) => {
                let cost = cost.of(&spec);
                if let Some(receipt) = take(&mut key, now, cost) {
                    receipts.push(Some(receipt));
                    queue.jobs.push(i128::from(cost) * period);
                }
            }
            Move::Undo(nth) => {
                let open = (0..receipts.len()).filter(|n| receipts[*n].is_some());
                let Some(n) = open.filter(|n| !in_order || *n >= last).nth(nth) else { continue };
                undo(&mut key, now, &receipts[n].take().unwrap());
                (undone, last) = (undone + 1, n);
                queue.jobs[n] = 0;
            }
        }
        check(&queue, key.remaining(now), undone);
    }
}

fn ordinary_bucket(refill: Refill) -> impl Strategy<Value = RateSpec> {
    let quota = prop_oneof![1..10u64, 1..1_000u64, 60_000..1_000_000u64];
    let burst = prop_oneof![1..10u64, 1..1_000u64, 60_000..1_000_000u64];
    let period = prop_oneof![Just(SECOND), Just(MINUTE), 1_000..HOUR];
    let most = if refill == Refill::Interval { 131_071 } else { u64::MAX };
    (quota, burst, period).prop_map(move |(quota, burst, period)| RateSpec {
        quota,
        // A larger bucket that refills at intervals is counted in more than single tokens. A model of a bucket that takes a million periods to fill would take as long.
        burst: Some(burst.min(quota.saturating_mul(200)).min(most)),
        period: Period::Span(period),
        refill,
        ..bucket("1/s")
    })
}

proptest! {
    #![proptest_config(common::cases(400))]

    /// Law 2 for buckets: what has not been served comes back, as long as nothing that was taken later came back before.
    #[test]
    fn a_bucket_gives_back_what_has_not_been_served(
        spec in prop_oneof![ordinary_bucket(Refill::Continuous), ordinary_bucket(Refill::Interval)],
        start in NOON..NOON + HOUR,
        moves in moves(),
    ) {
        compare(spec, start, &moves, true, |queue, remaining, undone| {
            let least = queue.remaining(undone * queue.step());
            assert!((least..=queue.remaining(0)).contains(&remaining), "{remaining} {least} {queue:?}");
        });
    }

    /// Otherwise it may give back less, never more.
    #[test]
    fn a_bucket_gives_back_no_more_than_has_not_been_served(
        spec in ordinary_bucket(Refill::Continuous),
        start in NOON..NOON + HOUR,
        moves in moves(),
    ) {
        compare(spec, start, &moves, false, |queue, remaining, _| {
            assert!(remaining <= queue.remaining(0), "{remaining} {queue:?}");
        });
    }

    /// A take of which nothing has been served, with nothing given back since, comes back whole: as if it had not been made.
    #[test]
    fn a_bucket_that_is_still_serving_what_was_before_gives_all_back(
        spec in ordinary_bucket(Refill::Continuous), start in moment(), costs in prop::collection::vec(1..60u64, 2..8), undone in 1..7usize,
    ) {
        let (mut key, mut without) = (Key::new(&spec), Key::new(&spec));
        let undone = undone % (costs.len() - 1) + 1;
        // An overdrawn bucket is busy with its first job for all of this time.
        key.charge(at(start), spec.capacity());
        without.charge(at(start), spec.capacity());
        let mut now = at(start);
        let mut receipt = None;
        for (n, cost) in costs.iter().enumerate() {
            now = now.plus(1);
            let made = charge(&mut key, now, *cost);
            if n == undone { receipt = made } else { without.charge(now, *cost) }
        }
        let Some(period) = spec.period.span() else { return Ok(()) };
        prop_assume!(period / 1_000 * spec.capacity() as i64 > 1_000 * spec.quota as i64);
        undo(&mut key, now, &receipt.unwrap());
        prop_assert_eq!(outlook(&spec, &key, now), outlook(&spec, &without, now));
    }

    /// Law 2 for windows that begin with a hit: the window stays as long as another take is in it.
    #[test]
    fn a_window_that_an_undone_hit_began_goes_on_for_the_others(quota in 1..20u64, moves in moves()) {
        let spec = RateSpec { quota, ..first_hit("1/minute") };
        let mut key = Key::new(&spec);
        let mut now = at(NOON);
        let mut window: Option<(Micros, Vec<(usize, u64)>)> = None;
        let mut receipts = Vec::new();
        for (wait, one) in moves {
            now = now.plus(gap(&spec, wait.0, wait.1));
            window = window.filter(|(end, taken)| *end > now.steady && !taken.is_empty());
            match one {
                Move::Take(cost) => {
                    if let Some(receipt) = take(&mut key, now, cost.of(&spec)) {
                        let end = now.steady + MINUTE;
                        let (_, taken) = window.get_or_insert((end, Vec::new()));
                        taken.push((receipts.len(), receipt.cost));
                        receipts.push(Some(receipt));
                    }
                }
                Move::Undo(nth) => {
                    let mut open = (0..receipts.len()).filter(|n| receipts[*n].is_some());
                    let Some(n) = open.nth(nth) else { continue };
                    undo(&mut key, now, &receipts[n].take().unwrap());
                    if let Some((_, taken)) = &mut window {
                        taken.retain(|(place, _)| *place != n);
                    }
                }
            }
            let used: u64 = window.iter().flat_map(|(_, taken)| taken).map(|(_, cost)| cost).sum();
            let end = window.as_ref().filter(|_| used > 0).map_or(now.steady, |(end, _)| *end);
            let answer = key.peek(now, 0);
            prop_assert_eq!((answer.remaining, answer.reset_after), (quota - used, end - now.steady));
        }
    }
}

/// A definition, and a change of it that leaves the algorithm.
fn changed_spec() -> impl Strategy<Value = (RateSpec, RateSpec)> {
    (small_spec(), 1..12u64, prop::sample::select(vec![5_000, 20_000, SECOND, 2 * MINUTE]))
        .prop_map(|(spec, quota, period)| {
            (spec, RateSpec { quota, period: Period::Span(period), burst: None, ..spec })
        })
}

/// Makes takes under one definition and undoes some under the next; says whether the key then never has more left than one
/// on which they were not made.
fn survives_a_change(
    (before, after): (RateSpec, RateSpec),
    takes: &[(u64, bool)],
    later: &[u64],
) -> Result<(), TestCaseError> {
    let (mut key, mut without) = (Key::new(&before), Key::new(&before));
    let mut now = at(NOON);
    let mut receipts = Receipts::default();
    for (wait, undone) in takes {
        now = now.plus(gap(&before, *wait, 0));
        if let Some(receipt) = take(&mut key, now, 1) {
            if *undone {
                receipts.add(&key.rule, receipt);
            } else {
                without.charge(now, 1);
            }
        }
    }
    let (mut key, mut without) = (key.under(&after), without.under(&after));
    if before.algorithm != Algorithm::SlidingLog {
        // Both take the new definition over at the same time.
        key.refund(now, 0);
        without.refund(now, 0);
    }
    for wait in later {
        now = now.plus(gap(&after, *wait, 0));
        if take(&mut key, now, 1).is_some() {
            without.charge(now, 1);
        }
    }
    undo_all(&mut key, now, &receipts, false);
    for part in [0, 1, 300, 900, 1_200, 1_900] {
        let then = now.plus(gap(&after, part, 0));
        prop_assert!(key.remaining(then) <= without.remaining(then), "{} later", part);
    }
    Ok(())
}

proptest! {
    #![proptest_config(common::cases(250))]

    #[test]
    fn a_bucket_or_a_log_whose_definition_changes_gives_back_no_more(
        specs in changed_spec(),
        takes in prop::collection::vec((0..400u64, any::<bool>()), 1..12),
        later in prop::collection::vec(0..400u64, 0..6),
    ) {
        // A take writes over one that has expired, which a longer period would count again.
        let log = specs.0.algorithm == Algorithm::SlidingLog && specs.1.period.longest() <= specs.0.period.longest();
        prop_assume!(log || is_bucket(&specs.0, Refill::Continuous));
        survives_a_change(specs, &takes, &later)?;
    }

    #[test]
    #[ignore = "fails: a receipt of a window does not know of which definition"]
    fn a_window_whose_definition_changes_gives_back_no_more(
        specs in changed_spec(),
        takes in prop::collection::vec((0..400u64, any::<bool>()), 1..12),
        later in prop::collection::vec(0..400u64, 0..6),
    ) {
        prop_assume!(is_fixed(&specs.0, Anchor::Clock) || specs.0.algorithm == Algorithm::SlidingWindow);
        survives_a_change(specs, &takes, &later)?;
    }
}

/// One transaction takes as often as it likes, another a little now and then.
fn a_long_transaction(spec: &RateSpec, takes: usize, wait: Micros) -> (World, Receipts, u64) {
    let mut world = World::new(*spec, NOON);
    let (mut receipts, mut added) = (Receipts::default(), 0);
    for n in 0..takes {
        world.now = world.now.plus(wait);
        let cost = 1 + n as u64 % 3;
        if n % 7 == 0 {
            if take(&mut world.key, world.now, cost).is_some() {
                world.history.push(Entry::Taken(world.now, cost));
            }
        } else if let Some(receipt) = take(&mut world.key, world.now, cost) {
            added += cost;
            receipts.add(&world.key.rule, receipt);
        }
    }
    (world, receipts, added)
}

/// Law 3.
#[test]
fn the_receipts_of_a_long_transaction_are_few_and_give_back_no_more() {
    for spec in every_algorithm("1000/minute") {
        // In all, from a second to three hours.
        for wait in [100, 10_000, MINUTE / 1_000, SECOND] {
            let (mut world, receipts, added) = a_long_transaction(&spec, 10_000, wait);
            assert!(receipts.iter().count() <= 2_048, "{spec:?}");
            assert!(total(&receipts) <= added);
            if spec.algorithm == Algorithm::TokenBucket {
                assert_eq!(total(&receipts), added, "{spec:?}");
            }
            let mut key = world.key.clone();
            undo_all(&mut world.key, world.now, &receipts, true);
            undo_all(&mut key, world.now, &receipts, false);
            for key in [world.key.clone(), key] {
                world.key = key;
                if leaves_no_trace(&spec) {
                    let replay = world.replay();
                    assert_eq!(
                        outlook(&spec, &world.key, world.now),
                        outlook(&spec, &replay, world.now)
                    );
                } else if !has_phase(&spec) {
                    world.has_no_more_than_its_replay();
                }
            }
        }
    }
}

/// Law 3.
#[test]
fn a_million_receipts_are_few() {
    for spec in every_algorithm("1000/s") {
        for wait in [1, 3_000, 100_000, SECOND] {
            let mut key = Key::new(&spec);
            let mut receipts = Receipts::default();
            let mut now = at(NOON);
            for _ in 0..250_000 {
                now = now.plus(wait);
                if let Some(receipt) = charge(&mut key, now, 1) {
                    receipts.add(&key.rule, receipt);
                }
            }
            assert!(receipts.iter().count() < 2_048, "{spec:?}");
            assert!(receipts.iter().map(|receipt| receipt.at.steady).is_sorted());
            let spare = is_bucket(&spec, spec.refill) || receipts.iter().count() < 1_024;
            assert!(!spare || total(&receipts) == 250_000, "{spec:?}");
        }
    }
}

/// A bucket counts what is given back only so far, and then from the beginning.
#[test]
fn a_receipt_that_outlived_the_count_is_worth_nothing() {
    for spec in [bucket("655360/hour"), interval_bucket("655360/hour")] {
        let mut key = Key::new(&spec);
        let receipt = charge(&mut key, at(NOON), 327_680).unwrap();
        key.refund(at(NOON), 327_680);
        for round in 0..300 {
            key.charge(at(NOON), 327_680);
            let mut asked = key.clone();
            undo(&mut asked, at(NOON), &receipt);
            assert_eq!(asked.remaining(at(NOON)), 327_680, "{round} {spec:?}");
            key.refund(at(NOON), 327_680);
        }
    }
}

/// A state put together from receipts, in the order of their times, as it is after a crash.
fn rebuilt(spec: &RateSpec, receipts: &[&Receipts]) -> Key {
    let mut all: Vec<&Receipt> = receipts.iter().flat_map(|receipts| receipts.iter()).collect();
    all.sort_by_key(|receipt| receipt.at.steady);
    let mut key = Key::new(spec);
    for receipt in all {
        key.charge(receipt.at, receipt.cost);
    }
    key
}

fn survives_a_crash(spec: RateSpec, start: Micros, steps: &[Step]) -> (World, Key) {
    let takes: Vec<_> = steps.iter().copied().filter(|step| step.deed == Deed::Take).collect();
    let world = World::live(spec, start, &takes, |_| {});
    let lists: Vec<_> = world.sessions.iter().map(|levels| &levels[0].receipts).collect();
    let key = rebuilt(&spec, &lists);
    (world, key)
}

proptest! {
    #![proptest_config(common::cases(250))]

    /// Law 4.
    #[test]
    fn what_is_rebuilt_from_receipts_is_what_was(spec in spec(), start in moment(), steps in steps(plain())) {
        prop_assume!(leaves_no_trace(&spec));
        let (world, key) = survives_a_crash(spec, start, &steps);
        prop_assert_eq!(outlook(&spec, &key, world.now), outlook(&spec, &world.key, world.now));
    }

    /// Law 4.
    #[test]
    fn a_bucket_rebuilt_from_receipts_has_no_more(spec in spec(), start in moment(), steps in steps(plain())) {
        prop_assume!(is_bucket(&spec, Refill::Continuous));
        let (mut world, key) = survives_a_crash(spec, start, &steps);
        world.key = key;
        world.has_no_more_than_its_replay();
    }

    /// Law 4.
    #[test]
    #[ignore = "fails: of merged receipts the last time is kept, which moves the window"]
    fn a_window_rebuilt_from_receipts_begins_with_its_first_hit(spec in small_spec(), start in moment(), steps in steps(plain())) {
        prop_assume!(is_fixed(&spec, Anchor::FirstHit));
        let (world, key) = survives_a_crash(spec, start, &steps);
        prop_assert_eq!(outlook(&spec, &key, world.now), outlook(&spec, &world.key, world.now));
    }

    /// Law 5. That undoing what was taken back is safe is part of all histories above.
    #[test]
    fn what_is_taken_back_is_the_newest(costs in prop::collection::vec(1..9u64, 0..9), back in 0..60u64) {
        for spec in every_algorithm("1000/hour") {
            let mut key = Key::new(&spec);
            let (mut receipts, mut now) = (Receipts::default(), at(NOON));
            let mut made = Vec::new();
            for cost in &costs {
                // Too far apart to become one, but for windows.
                now = now.plus(2 * MINUTE);
                let receipt = take(&mut key, now, *cost).unwrap();
                receipts.add(&key.rule, receipt);
                made.extend(core::iter::repeat_n(now.steady, *cost as usize));
            }
            let before: u64 = costs.iter().sum();
            let taken = receipts.take_back(back);
            prop_assert_eq!((total(&taken), total(&receipts)), (back.min(before), before - back.min(before)));
            prop_assert_eq!(receipts.is_empty(), back >= before);
            if !matches!(spec.algorithm, Algorithm::FixedWindow | Algorithm::SlidingWindow) {
                let times = |list: &Receipts| -> Vec<_> {
                    let units = |one: &Receipt| core::iter::repeat_n(one.at.steady, one.cost as usize);
                    list.iter().flat_map(units).collect()
                };
                let rest = made.len() - total(&taken) as usize;
                prop_assert_eq!(times(&receipts), &made[..rest]);
                prop_assert_eq!(times(&taken), &made[rest..]);
            }
        }
    }

    /// Law 5: in parts or at once, at one moment, it is the same.
    #[test]
    fn what_is_taken_back_in_parts_comes_back_whole(cost in 1..100u64, part in 0..100u64, held in 0..100u64) {
        for spec in every_algorithm("1000/hour") {
            let mut key = Key::new(&spec);
            key.charge(at(NOON), held);
            let before = key.clone();
            let mut receipts = Receipts::default();
            let receipt = take(&mut key, at(NOON), cost).unwrap();
            receipts.add(&key.rule, receipt);
            let taken = receipts.take_back(part.min(cost));
            undo_all(&mut key, at(NOON), &taken, false);
            prop_assert_eq!(key.remaining(at(NOON)), 1_000 - held - cost + part.min(cost));
            undo_all(&mut key, at(NOON), &receipts, false);
            // But for 65536ths of the bucket.
            let remaining = key.remaining(at(NOON));
            let expected = before.remaining(at(NOON));
            prop_assert!(remaining == expected || is_bucket(&spec, Refill::Continuous) && remaining + 1 == expected);
        }
    }
}

/// What does not hold yet, or cannot: each by its smallest example.
mod limits {
    use super::*;

    fn kept(key: &mut Key, receipts: &mut Receipts, now: Now, cost: u64) {
        let receipt = charge(key, now, cost).unwrap();
        receipts.add(&key.rule, receipt);
    }

    #[test]
    #[ignore = "fails for buckets: what came back from behind counts as if it had been in front"]
    fn a_savepoint_that_was_rolled_back_takes_nothing_from_what_was_before() {
        for spec in every_algorithm("10/minute") {
            let mut key = Key::new(&spec);
            let (mut outer, mut inner) = (Receipts::default(), Receipts::default());
            kept(&mut key, &mut outer, at(NOON), 5);
            kept(&mut key, &mut inner, at(NOON), 5);
            undo_all(&mut key, at(NOON), &inner, true);
            undo_all(&mut key, at(NOON), &outer, true);
            assert_eq!(key.remaining(at(NOON)), 10, "{spec:?}");
        }
    }

    #[test]
    #[ignore = "fails for buckets: the latest first gives back less than the earliest first"]
    fn two_takes_that_are_rolled_back_latest_first_come_back_whole() {
        for spec in every_algorithm("10/minute") {
            let mut key = Key::new(&spec);
            let mut receipts = Receipts::default();
            kept(&mut key, &mut receipts, at(NOON), 5);
            kept(&mut key, &mut receipts, at(NOON + SECOND), 5);
            undo_all(&mut key, at(NOON + SECOND), &receipts, true);
            assert_eq!(key.remaining(at(NOON + SECOND)), 10, "{spec:?}");
        }
    }

    #[test]
    fn two_takes_that_are_rolled_back_earliest_first_come_back_whole() {
        for spec in every_algorithm("10/minute") {
            let mut key = Key::new(&spec);
            let mut receipts = Receipts::default();
            kept(&mut key, &mut receipts, at(NOON), 5);
            kept(&mut key, &mut receipts, at(NOON + SECOND), 5);
            undo_all(&mut key, at(NOON + SECOND), &receipts, false);
            // But for a 65536th of the bucket.
            assert_eq!(key.remaining(at(NOON + SECOND + 1_000)), 10, "{spec:?}");
        }
    }

    #[test]
    #[ignore = "fails for a log: a charge that does not fit pushes out what others took"]
    fn a_charge_that_overdraws_and_is_undone_leaves_what_others_took() {
        for spec in every_algorithm("5/minute") {
            let mut key = Key::new(&spec);
            key.charge(at(NOON), 3);
            let receipt = charge(&mut key, at(NOON + SECOND), 5).unwrap();
            undo(&mut key, at(NOON + SECOND), &receipt);
            assert_eq!(key.remaining(at(NOON + SECOND)), 2, "{spec:?}");
        }
    }

    #[test]
    #[ignore = "fails for windows: a count does not know whose part was refunded"]
    fn what_somebody_else_refunded_is_not_given_back_again() {
        for spec in every_algorithm("5/minute") {
            let mut key = Key::new(&spec);
            let receipt = charge(&mut key, at(NOON), 5).unwrap();
            key.refund(at(NOON + 1), 5);
            key.charge(at(NOON + 2), 5);
            undo(&mut key, at(NOON + 3), &receipt);
            assert_eq!(key.remaining(at(NOON + 3)), 0, "{spec:?}");
        }
    }

    #[test]
    #[ignore = "fails for windows: a receipt does not know of which definition it is"]
    fn a_take_of_a_shorter_window_is_not_given_back_in_a_longer_one() {
        let pairs = every_algorithm("5/minute").into_iter().zip(every_algorithm("5 per 2 minutes"));
        for (before, after) in pairs.filter(|(spec, _)| leaves_no_trace(spec)) {
            let start = NOON - NOON % (2 * MINUTE);
            let mut key = Key::new(&before);
            // It has expired when the other is taken.
            let receipt = charge(&mut key, at(start), 5).unwrap();
            key.charge(at(start + 2 * MINUTE - 1), 5);
            let mut key = key.under(&after);
            let now = at(start + 2 * MINUTE - 1);
            undo(&mut key, now, &receipt);
            assert_eq!(key.remaining(now), 0, "{after:?}");
        }
    }

    /// A session that rolls back may know the definition only as it was when it took.
    #[test]
    #[ignore = "fails for a fixed window: it is written back with the end of the earlier definition"]
    fn who_undoes_by_an_earlier_definition_does_not_bring_it_back() {
        let pairs = every_algorithm("5/minute").into_iter().zip(every_algorithm("5 per 2 minutes"));
        for (before, after) in pairs.filter(|(spec, _)| leaves_no_trace(spec)) {
            let start = NOON - NOON % (2 * MINUTE);
            let mut key = Key::new(&before);
            let receipt = charge(&mut key, at(start), 1).unwrap();
            let mut key = key.under(&after);
            key.charge(at(start + SECOND), 4);
            let mut key = key.under(&before);
            undo(&mut key, at(start + 2 * SECOND), &receipt);
            let key = key.under(&after);
            let now = at(start + 90 * SECOND);
            assert!(key.remaining(now) <= 1, "{after:?}");
        }
    }

    #[test]
    #[ignore = "fails: the ring is left out of order where the earlier period has expired and the later has not"]
    fn a_log_that_is_undone_by_a_shorter_period_keeps_what_counts_in_a_longer() {
        let [before, after] = ["10 per 10 seconds", "10/hour"].map(common::log);
        let mut key = Key::new(&before);
        key.charge(at(NOON), 5);
        let receipt = charge(&mut key, at(NOON + 20 * SECOND), 5).unwrap();
        undo(&mut key, at(NOON + 21 * SECOND), &receipt);
        let key = key.under(&after);
        assert_eq!(key.remaining(at(NOON + 21 * SECOND)), 5);
    }

    #[test]
    #[ignore = "fails for a bucket: a smaller definition cuts off what it does not count as given back"]
    fn a_definition_that_was_smaller_for_a_while_gives_back_no_more() {
        let (large, small) = (bucket("10/hour"), bucket("2/hour"));
        let mut key = Key::new(&large);
        let receipt = charge(&mut key, at(NOON), 5).unwrap();
        key.charge(at(NOON), 5);
        let mut key = key.under(&small);
        key.refund(at(NOON), 0);
        let left = key.remaining(at(NOON));
        let mut key = key.under(&large);
        key.refund(at(NOON), 0);
        let before = key.remaining(at(NOON));
        undo(&mut key, at(NOON), &receipt);
        assert_eq!((left, key.remaining(at(NOON))), (0, before));
    }

    #[test]
    #[ignore = "fails: periods that begin later can end just after a take instead of just before"]
    fn an_interval_bucket_rebuilt_from_receipts_has_no_more() {
        let spec = RateSpec { burst: Some(4), ..interval_bucket("3 per 10 seconds") };
        // Two that become one, which then seems to have been taken at the second's time.
        let start = NOON - NOON % (1 << 14);
        let mut key = Key::new(&spec);
        let mut receipts = Receipts::default();
        kept(&mut key, &mut receipts, at(start), 1);
        kept(&mut key, &mut receipts, at(start + 10_000), 3);
        kept(&mut key, &mut receipts, at(start + 20 * SECOND + 5_000), 1);
        let now = at(start + 20 * SECOND + 20_000);
        assert!(rebuilt(&spec, &[&receipts]).remaining(now) <= key.remaining(now));
    }

    #[test]
    #[ignore = "fails: the periods of an interval bucket and a window of a first hit go on from the take that was undone"]
    fn what_begins_with_a_take_that_is_undone_begins_with_the_next() {
        for spec in [first_hit("5/minute"), interval_bucket("5/minute")] {
            let (mut key, mut without) = (Key::new(&spec), Key::new(&spec));
            let receipt = charge(&mut key, at(NOON), 1).unwrap();
            key.charge(at(NOON + 30 * SECOND), 4);
            without.charge(at(NOON + 30 * SECOND), 4);
            undo(&mut key, at(NOON + 31 * SECOND), &receipt);
            let now = at(NOON + 70 * SECOND);
            assert!(key.remaining(now) <= without.remaining(now), "{spec:?}");
        }
    }

    #[test]
    #[ignore = "fails: what is charged beyond what can be counted is given back from what others took"]
    fn a_charge_beyond_all_numbers_is_given_back_alone() {
        for spec in every_algorithm("10 per 360000 days") {
            if spec.algorithm == Algorithm::SlidingLog {
                continue;
            }
            let mut key = Key::new(&spec);
            key.charge(at(NOON), 3);
            let most = i64::MAX as u64;
            let receipts = [(); 2].map(|()| charge(&mut key, at(NOON), most).unwrap());
            for receipt in receipts {
                undo(&mut key, at(NOON), &receipt);
            }
            assert_eq!(key.remaining(at(NOON)), 7, "{spec:?}");
        }
    }
}
