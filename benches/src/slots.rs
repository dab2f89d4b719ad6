//! What concurrency slots cost: those of a transaction beside a bare advisory lock, all within one backend, while another session holds nearly
//! all of them; and leases.

use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};
use testbed::postgres::SimpleQueryMessage;

use crate::cpu;
use crate::lab::Lab;
use crate::options::Options;
use crate::stats::Spread;

/// Leases in one row of the hot loop, so that making the row hardly counts.
const LEASES: u64 = 10;

/// A round is so many short slices, of which the least counts: what else the machine does can only add to it, and the difference of two
/// long ones would be mostly that.
const SLICES: usize = 20;

/// How many there are, and how many are taken.
const FEW: (u32, u32) = (10, 9);
const MANY: (u32, u32) = (1_000, 990);

const OBJECTS: &str = "
    SELECT rl_create_limiter('few_slots', max_concurrent => 10);
    SELECT rl_create_limiter('many_slots', max_concurrent => 1000);";

/// CPU nanoseconds of each round, in the order of the rounds.
pub struct Slots {
    /// Of a transaction without a call, and all others less it.
    alone: Vec<f64>,
    empty: Vec<f64>,
    lock: Vec<f64>,
    few: Vec<f64>,
    many: Vec<f64>,
    /// A lease taken and released, less two calls of the empty function.
    lease: Vec<f64>,
}

/// Measures all in turns.
pub fn measure(lab: &mut Lab, options: &Options) -> Result<Slots> {
    lab.client().batch_execute(OBJECTS)?;
    let mut holder = lab.server().connect()?;
    holder.batch_execute("BEGIN")?;
    for (limiter, (_, taken)) in [("few_slots", FEW), ("many_slots", MANY)] {
        let take = format!(
            "SELECT count(*) FROM generate_series(1, {taken}) WHERE rl_try_slot('{limiter}', 'key')"
        );
        let count: i64 = holder.query_one(&take, &[])?.get(0);
        ensure!(count == i64::from(taken), "only {count} of {taken} slots could be taken");
    }

    let times = options.rows / SLICES as u64;
    let mut slots = Slots {
        alone: vec![],
        empty: vec![],
        lock: vec![],
        few: vec![],
        many: vec![],
        lease: vec![],
    };
    for round in 1..=options.inside_rounds {
        eprintln!("==> slots: round {round} of {}", options.inside_rounds);
        let mut least = [f64::INFINITY; 7];
        for _ in 0..SLICES {
            let slice = [
                transactions(lab, "i > 0", times)?,
                transactions(lab, "bench_empty('few_slots', 'key')", times)?,
                transactions(lab, "pg_try_advisory_xact_lock(1)", times)?,
                transactions(lab, "rl_try_slot('few_slots', 'key')", times)?,
                transactions(lab, "rl_try_slot('many_slots', 'key')", times)?,
                calls(
                    lab,
                    "bench_empty('few_slots', 'key') AND bench_empty('few_slots', 'key')",
                    times,
                )?,
                calls(
                    lab,
                    "rl_release_lease(rl_try_lease('few_slots', 'key', '1 minute'))",
                    times,
                )?,
            ];
            least.iter_mut().zip(slice).for_each(|(least, cost)| *least = least.min(cost));
        }
        let [alone, empty, lock, few, many, none, lease] = least;
        slots.alone.push(alone);
        slots.empty.push(empty - alone);
        slots.lock.push(lock - alone);
        slots.few.push(few - alone);
        slots.many.push(many - alone);
        slots.lease.push(lease - none);
    }
    holder.batch_execute("ROLLBACK")?;
    Ok(slots)
}

/// What one transaction costs that checks this condition.
fn transactions(lab: &mut Lab, call: &str, times: u64) -> Result<f64> {
    let sql = format!(
        "DO $$ BEGIN FOR i IN 1..{times} LOOP
            IF NOT {call} THEN RAISE 'refused'; END IF;
            COMMIT;
        END LOOP; END $$"
    );
    let before = cpu::of_process(lab.backend())?;
    lab.client().batch_execute(&sql).with_context(|| call.to_owned())?;
    let taken = cpu::of_process(lab.backend())?.saturating_sub(before);
    Ok(taken.as_nanos() as f64 / times as f64)
}

/// What this condition costs.
fn calls(lab: &mut Lab, condition: &str, times: u64) -> Result<f64> {
    let row = vec![condition; LEASES as usize].join(" AND ");
    let rows = times / LEASES;
    let sql = format!("SELECT count(*) FROM generate_series(1, {rows}) WHERE {row}");
    let before = cpu::of_process(lab.backend())?;
    let messages = lab.client().simple_query(&sql)?;
    let taken = cpu::of_process(lab.backend())?.saturating_sub(before);
    let all = messages.iter().any(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0) == Some(rows.to_string().as_str()),
        _ => false,
    });
    ensure!(all, "refused: {condition}");
    Ok(taken.as_nanos() as f64 / (rows * LEASES) as f64)
}

impl Slots {
    /// What slots cost beside the advisory lock, round by round: of 10, and of 1,000.
    pub fn ratios(&self) -> [Spread; 2] {
        [&self.few, &self.many]
            .map(|slots| Spread::of(slots.iter().zip(&self.lock).map(|(slot, lock)| slot / lock)))
    }

    /// A lease, in microseconds.
    pub fn lease(&self) -> Spread {
        Spread::of(self.lease.iter().map(|ns| ns / 1_000.0))
    }

    /// What each is called, and its nanoseconds.
    pub fn rows(&self) -> [(&'static str, Spread); 6] {
        [
            ("a transaction", &self.alone),
            ("empty function", &self.empty),
            ("pg_try_advisory_xact_lock", &self.lock),
            ("rl_try_slot, 9 of 10 taken", &self.few),
            ("rl_try_slot, 990 of 1,000 taken", &self.many),
            ("rl_try_lease, rl_release_lease", &self.lease),
        ]
        .map(|(name, rounds)| (name, Spread::of(rounds.iter().copied())))
    }

    pub fn to_json(&self) -> Value {
        json!({
            "transaction_ns": self.alone, "empty_ns": self.empty, "advisory_lock_ns": self.lock, "slot_of_10_ns": self.few,
            "slot_of_1000_ns": self.many, "lease_ns": self.lease,
        })
    }
}
