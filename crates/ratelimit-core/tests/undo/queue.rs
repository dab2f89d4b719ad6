//! A bucket as a queue of jobs: what has not been served comes back. And a window that a hit begins.

use proptest::prelude::*;
use ratelimit_core::{Micros, Period, RateSpec, Receipt, Refill, HOUR, MINUTE, SECOND};

use crate::common::{self, at, bucket, cost, first_hit, gap, moment, Cost, Key, NOON};
use crate::transaction::Transaction;
use crate::{charge, outlook, take, undo};

/// How long to wait, and what to do then.
type Timed<M> = ((u64, Micros), M);

/// What is done to a key by many transactions of one take each.
#[derive(Clone, Copy, Debug)]
enum Move {
    Take(Cost),
    /// One of the takes, counted from the first that was not undone.
    Undo(usize),
}

/// What one transaction does, and the next one after it.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Take(Cost),
    TakeBack(Cost),
    Savepoint,
    Release,
    RollbackTo,
    Rollback,
    Commit,
}

fn any_move() -> impl Strategy<Value = Move> {
    prop_oneof![3 => cost().prop_map(Move::Take), 2 => (0..4usize).prop_map(Move::Undo)]
}

fn any_deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        8 => cost().prop_map(Deed::Take),
        2 => cost().prop_map(Deed::TakeBack),
        2 => Just(Deed::Savepoint),
        1 => Just(Deed::Release),
        2 => Just(Deed::RollbackTo),
        1 => Just(Deed::Rollback),
        1 => Just(Deed::Commit),
    ]
}

fn moves<M: core::fmt::Debug>(
    one: impl Strategy<Value = M>,
) -> impl Strategy<Value = Vec<Timed<M>>> {
    let wait = prop_oneof![3 => Just(0u64), 5 => 0..200u64, 2 => 0..700u64, 1 => 0..1_600u64];
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
    fn new(spec: RateSpec, start: Micros) -> Self {
        let period = spec.period.span().unwrap().into();
        Queue { spec, period, jobs: Vec::new(), served: start.into() }
    }

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

    /// Cancels these jobs; says how much may be lost by it.
    fn cancel(&mut self, jobs: &[(usize, u64)]) -> i128 {
        for (job, _) in jobs {
            self.jobs[*job] = 0;
        }
        self.loss() * jobs.len() as i128
    }

    /// What may be lost when a receipt is given back that stands for several takes: the times between them.
    fn loss(&self) -> i128 {
        match self.spec.refill {
            Refill::Continuous => {
                self.step() + i128::from(self.spec.capacity()) * self.period / 1_024
            }
            Refill::Interval => 0,
        }
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
    moves: &[Timed<Move>],
    in_order: bool,
    check: impl Fn(&Queue, u64, i128),
) {
    let mut key = Key::new(&spec);
    let mut now = at(start);
    let mut queue = Queue::new(spec, start);
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
                    queue.jobs.push(i128::from(cost) * queue.period);
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

/// Lives through one transaction after another. `check` gets how much may have been lost by giving back.
fn compare_transactions(
    spec: RateSpec,
    start: Micros,
    deeds: &[Timed<Deed>],
    check: impl Fn(&Queue, u64, i128),
) {
    let mut key = Key::new(&spec);
    let mut now = at(start);
    let mut queue = Queue::new(spec, start);
    let mut transaction = Transaction::new();
    // Of the transaction and of each savepoint, the jobs and how much of them was not taken back.
    let mut levels: Vec<Vec<(usize, u64)>> = vec![Vec::new()];
    let mut lost = 0;
    for (wait, deed) in deeds {
        now = now.plus(gap(&spec, wait.0, wait.1));
        queue.serve(now.steady.into());
        let inner = levels.len() - 1;
        match *deed {
            Deed::Take(cost) => {
                let cost = cost.of(&spec);
                if let Some(receipt) = take(&mut key, now, cost) {
                    transaction.add(&key.rule, receipt);
                    levels[inner].push((queue.jobs.len(), cost));
                    queue.jobs.push(i128::from(cost) * queue.period);
                }
            }
            Deed::TakeBack(cost) => {
                lost += queue.loss() * levels[inner].len() as i128;
                // Of the last receipt only: its rest would count what is given back behind it as if it had been in front.
                let last = transaction.innermost().iter().last().map_or(0, |last| last.cost);
                let cost = cost.of(&spec).min(last);
                let mut rest = transaction.take_back(&mut key, now, cost);
                for (job, cost) in levels[inner].iter_mut().rev() {
                    let part = rest.min(*cost);
                    (rest, *cost) = (rest - part, *cost - part);
                    queue.jobs[*job] = (queue.jobs[*job] - i128::from(part) * queue.period).max(0);
                }
            }
            Deed::Savepoint => {
                transaction.savepoint();
                levels.push(Vec::new());
            }
            Deed::Release if inner > 0 => {
                transaction.release(&key.rule);
                let released = levels.pop().unwrap();
                levels[inner - 1].extend(released);
            }
            Deed::RollbackTo if inner > 0 => {
                transaction.roll_back_to_savepoint(&mut key, now);
                lost += queue.cancel(&levels.pop().unwrap());
            }
            Deed::Rollback => {
                core::mem::replace(&mut transaction, Transaction::new()).roll_back(&mut key, now);
                lost += queue.cancel(&core::mem::replace(&mut levels, vec![Vec::new()]).concat());
            }
            Deed::Commit => (transaction, levels) = (Transaction::new(), vec![Vec::new()]),
            Deed::Release | Deed::RollbackTo => {}
        }
        check(&queue, key.remaining(now), lost);
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
        moves in moves(any_move()),
    ) {
        compare(spec, start, &moves, true, |queue, remaining, undone| {
            let least = queue.remaining(undone * queue.step());
            assert!((least..=queue.remaining(0)).contains(&remaining), "{remaining} {least} {queue:?}");
        });
    }

    /// Of one transaction after another, whatever it takes back or rolls back before it ends.
    #[test]
    fn a_bucket_gives_a_transaction_back_what_has_not_been_served(
        spec in prop_oneof![ordinary_bucket(Refill::Continuous), ordinary_bucket(Refill::Interval)],
        start in NOON..NOON + HOUR,
        deeds in moves(any_deed()),
    ) {
        compare_transactions(spec, start, &deeds, |queue, remaining, lost| {
            let least = queue.remaining(lost);
            assert!((least..=queue.remaining(0)).contains(&remaining), "{remaining} {least} {queue:?}");
        });
    }

    /// Otherwise it may give back less, never more.
    #[test]
    fn a_bucket_gives_back_no_more_than_has_not_been_served(
        spec in ordinary_bucket(Refill::Continuous),
        start in NOON..NOON + HOUR,
        moves in moves(any_move()),
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

    /// A window that begins with a hit stays as long as another take is in it.
    #[test]
    fn a_window_that_an_undone_hit_began_goes_on_for_the_others(quota in 1..20u64, moves in moves(any_move())) {
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
