//! What the extension promises, and whether it keeps it.

use serde_json::{json, Value};

use crate::clients::{Clients, CLIENTS};
use crate::contender::{Contender, Keys};
use crate::inside::{self, Inside};
use crate::lab::Memory;
use crate::pgbench::Slice;
use crate::stats::Spread;

/// One promise.
pub struct Target {
    pub name: String,
    pub figure: Spread,
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
    /// By the median.
    pub fn met(&self) -> bool {
        match self.bound {
            Bound::AtMost(bound) => self.figure.median <= bound,
            Bound::AtLeast(bound) => self.figure.median >= bound,
        }
    }

    pub fn to_json(&self) -> Value {
        let (at_most, at_least) = match self.bound {
            Bound::AtMost(bound) => (Some(bound), None),
            Bound::AtLeast(bound) => (None, Some(bound)),
        };
        json!({
            "name": self.name, "figure": self.figure.to_json(), "at_most": at_most,
            "at_least": at_least, "met": self.met(),
            "cpu_ratio": self.cpu_ratio.map(Spread::to_json),
        })
    }
}

/// All promises.
pub fn all(inside: &Inside, clients: &Clients, memory: &Memory) -> Vec<Target> {
    let mut targets = Vec::new();
    for (call, million, bound) in [
        (inside::ACQUIRE, false, 100.0),
        (inside::ACQUIRE, true, 300.0),
        (inside::CHECK, false, 500.0),
    ] {
        if let Some(row) = inside.find(call, million) {
            let keys = if million { "a million keys" } else { "hot key" };
            targets.push(Target {
                name: format!("{call}, {keys}: ns of CPU over the empty function"),
                figure: row.over_empty,
                bound: Bound::AtMost(bound),
                cpu_ratio: None,
            });
        }
    }
    for count in CLIENTS {
        let plural = if count == 1 { "" } else { "s" };
        for keys in [Keys::Hot, Keys::Spread] {
            let name = format!(
                "{count} client{plural}, {} key: tps of rl_try_acquire / empty function",
                keys.name()
            );
            let cells = [(Contender::Acquire, keys), (Contender::Empty, keys)];
            targets.extend(ratio(clients, count, name, cells));
        }
        let name = format!("{count} client{plural}: tps of rl_try_acquire with hot / spread keys");
        let cells = [(Contender::Acquire, Keys::Hot), (Contender::Acquire, Keys::Spread)];
        targets.extend(ratio(clients, count, name, cells));
    }
    targets.push(Target {
        name: "bytes of shared memory for each key".to_owned(),
        figure: Spread::of([memory.bytes_per_key()]),
        bound: Bound::AtMost(128.0),
        cpu_ratio: None,
    });
    targets
}

fn ratio(
    clients: &Clients,
    count: u32,
    name: String,
    [of, to]: [(Contender, Keys); 2],
) -> Option<Target> {
    let of = clients.find(of.0, of.1, count)?;
    let to = clients.find(to.0, to.1, count)?;
    Some(Target {
        name,
        figure: clients.ratio(of, to, |slice| slice.tps),
        bound: Bound::AtLeast(0.95),
        // As tps: the more CPU a transaction takes, the smaller.
        cpu_ratio: Some(clients.ratio(of, to, |slice: &Slice| 1.0 / slice.cpu())),
    })
}
