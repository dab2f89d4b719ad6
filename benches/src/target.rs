//! What the extension promises, and whether it keeps it.

use serde_json::{json, Value};

use crate::asleep::Asleep;
use crate::clients::{Clients, CLIENTS};
use crate::contender::{Contender, Keys};
use crate::durable;
use crate::inside::{self, Inside};
use crate::million::Million;
use crate::pgbench::Slice;
use crate::saved::Saved;
use crate::slots::Slots;
use crate::stats::Spread;
use crate::waiters::Waiters;
use crate::Results;

/// One promise.
pub struct Target {
    pub name: String,
    /// None where it could not be measured.
    pub figure: Option<Spread>,
    pub bound: Bound,
    /// The same ratio in CPU time, which is less disturbed by other load; only for what is a ratio.
    pub cpu_ratio: Option<Spread>,
}

/// Where the figure should be.
#[derive(Clone, Copy)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    fn new(name: &str, figure: impl Into<Option<Spread>>, bound: Bound) -> Self {
        Target { name: name.to_owned(), figure: figure.into(), bound, cpu_ratio: None }
    }

    /// By the median.
    pub fn met(&self) -> Option<bool> {
        self.figure.map(|figure| match self.bound {
            Bound::AtMost(bound) => figure.median <= bound,
            Bound::AtLeast(bound) => figure.median >= bound,
        })
    }

    pub fn to_json(&self) -> Value {
        let (at_most, at_least) = match self.bound {
            Bound::AtMost(bound) => (Some(bound), None),
            Bound::AtLeast(bound) => (None, Some(bound)),
        };
        json!({
            "name": self.name, "figure": self.figure.map(Spread::to_json), "at_most": at_most,
            "at_least": at_least, "met": self.met(),
            "cpu_ratio": self.cpu_ratio.map(Spread::to_json),
        })
    }
}

/// All promises.
pub fn all(results: &Results) -> Vec<Target> {
    let mut targets = decisions(&results.inside);
    targets.extend(shares(&results.clients));
    let bytes = Spread::of([results.memory.bytes_per_key()]);
    targets.push(Target::new("bytes of shared memory for each key", bytes, Bound::AtMost(128.0)));
    targets.extend(durable(results));
    targets.extend(million(&results.million));
    targets.extend(saved(&results.saved));
    targets.extend(waiters(&results.waiters));
    targets.extend(slots(&results.slots));
    targets.push(asleep(&results.asleep));
    targets
}

/// Nanoseconds inside a backend.
fn decisions(inside: &Inside) -> Vec<Target> {
    let over_empty = |call, million, bound| {
        let keys = if million { "a million keys" } else { "hot key" };
        let name = format!("{call}, {keys}: ns of CPU over the empty function");
        let row = inside.find(call, million);
        Target::new(&name, row.map(|row| row.over_empty), Bound::AtMost(bound))
    };
    let refund = |what, of, to| {
        let name = format!("on_rollback => 'refund' over 'keep', {what}: ns of CPU");
        Target::new(&name, inside.difference(of, to), Bound::AtMost(20.0))
    };
    vec![
        over_empty(inside::ACQUIRE, false, 100.0),
        over_empty(inside::ACQUIRE, true, 300.0),
        over_empty(inside::CHECK, false, 500.0),
        refund("in one transaction", inside::REFUND, inside::ACQUIRE),
        refund("each committed", inside::REFUND_ALONE, inside::ACQUIRE_ALONE),
        Target::new(
            "speed with statistics, 100,000 overrides and 1,000 bans / without",
            inside.speed(inside::LISTED, inside::UNCOUNTED),
            Bound::AtLeast(0.9),
        ),
        Target::new(
            "a key with an override over one without a list: ns of CPU",
            inside.difference(inside::OVERRIDDEN, inside::ACQUIRE),
            Bound::AtMost(50.0),
        ),
    ]
}

/// Transactions a second beside the empty function's.
fn shares(clients: &Clients) -> Vec<Target> {
    let mut targets = Vec::new();
    for count in CLIENTS {
        let plural = if count == 1 { "" } else { "s" };
        for keys in [Keys::Hot, Keys::Spread] {
            let name = format!(
                "{count} client{plural}, {} key: tps of rl_try_acquire / empty function",
                keys.name()
            );
            let cells = [(Contender::Acquire, keys), (Contender::Empty, keys)];
            targets.extend(ratio(clients, count, &name, cells, 0.95));
        }
        let name = format!("{count} client{plural}: tps of rl_try_acquire with hot / spread keys");
        let cells = [(Contender::Acquire, Keys::Hot), (Contender::Acquire, Keys::Spread)];
        targets.extend(ratio(clients, count, &name, cells, 0.95));
    }
    targets
}

/// Transactions a second of durable limits.
fn durable(results: &Results) -> Vec<Target> {
    use Contender::{Commit, Denied, Durable, DurableDenied, UpsertLogged};
    use Keys::{Hot, Some};
    let mut targets = Vec::new();
    for (name, cells, bound) in [
        ("hot key / logged upsert", [(Durable, Hot), (UpsertLogged, Hot)], 5.0),
        // What the server's own way of committing leaves to reach.
        ("hot key / commit alone", [(Durable, Hot), (Commit, Hot)], 0.9),
        ("hot key / 5,000 keys", [(Durable, Hot), (Durable, Some)], 0.8),
        ("denied / denied in memory", [(DurableDenied, Hot), (Denied, Hot)], 0.9),
    ] {
        let name = format!("durable, 8 clients: tps of {name}");
        let clients = &results.durable.clients;
        targets.extend(ratio(clients, durable::CLIENTS, &name, cells, bound));
    }
    let snapshot = &results.snapshot;
    let name = format!(
        "durable, 8 clients, hot key: tps after {} s of an old snapshot / before",
        snapshot.open
    );
    targets.push(Target::new(&name, snapshot.left(Durable), Bound::AtLeast(0.9)));
    targets
}

fn million(million: &Million) -> [Target; 2] {
    let kind = format!("durable, hot key granted {} times", million.grants);
    let size = Spread::of([million.after as f64 / 1e6]);
    let growth = Spread::of([million.growth(|slice| slice.server_cpu)]);
    [
        Target::new(&format!("{kind}: MB of tables and indexes"), size, Bound::AtMost(10.0)),
        // Ten percent are not told from none on a machine that does other things as well.
        Target::new(&format!("{kind}: CPU of last / first tenth"), growth, Bound::AtMost(1.1)),
    ]
}

fn saved(saved: &Saved) -> [Target; 3] {
    let keys = saved.keys;
    let longest = saved.meanwhile.as_ref().map(|found| found.difference);
    [
        Target::new(&format!("saving {keys} keys: s"), saved.save, Bound::AtMost(2.0)),
        Target::new(&format!("loading {keys} keys: s"), saved.load, Bound::AtMost(1.0)),
        Target::new("longest call while keys are saved: ms more", longest, Bound::AtMost(10.0)),
    ]
}

fn waiters(waiters: &Waiters) -> [Target; 2] {
    // Half of a clock's microsecond, and what lies between reading two clocks.
    const AT_ONCE: f64 = -0.05;
    let name = |who| format!("100 waiters, 1000 turns a second: ms after its turn, the {who} one");
    [
        Target::new(&name("latest"), waiters.latest, Bound::AtMost(2.0)),
        Target::new(&name("earliest"), waiters.earliest, Bound::AtLeast(AT_ONCE)),
    ]
}

fn slots(slots: &Slots) -> [Target; 3] {
    let [few, many] = slots.ratios();
    let name = |slots| format!("rl_try_slot, {slots}: CPU / pg_try_advisory_xact_lock");
    [
        Target::new(&name("9 of 10 taken"), few, Bound::AtMost(3.0)),
        Target::new(&name("990 of 1,000 taken"), many, Bound::AtMost(3.0)),
        Target::new(
            "a lease taken and released: us over two empty functions",
            slots.lease(),
            Bound::AtMost(1.0),
        ),
    ]
}

fn asleep(asleep: &Asleep) -> Target {
    // Less than a look into /proc costs.
    let share = Spread::of([100.0 * asleep.share]);
    Target::new("500 waiters for a slot: percent of a processor", share, Bound::AtMost(1.0))
}

fn ratio(
    clients: &Clients,
    count: u32,
    name: &str,
    [of, to]: [(Contender, Keys); 2],
    bound: f64,
) -> Option<Target> {
    let of = clients.find(of.0, of.1, count)?;
    let to = clients.find(to.0, to.1, count)?;
    let tps = clients.ratio(of, to, |slice| slice.tps);
    // As tps: the more CPU a transaction takes, the smaller.
    let cpu_ratio = clients.ratio(of, to, |slice: &Slice| 1.0 / slice.cpu());
    let target = Target::new(name, tps, Bound::AtLeast(bound));
    Some(Target { cpu_ratio: Some(cpu_ratio), ..target })
}
