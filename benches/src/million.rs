//! One key of a durable limiter, granted a million times, each time in a transaction of its own: what the tables keep of it, and
//! whether a call costs more at the end than in the beginning.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{json, Value};

use crate::contender::{Contender, Keys};
use crate::durable::CLIENTS;
use crate::house::{self, House, Kept};
use crate::lab::Lab;
use crate::options::Options;
use crate::pgbench::{self, Length, Slice};

/// In so many parts.
const PARTS: u64 = 10;

/// Whatever is left after so long is not done.
const PATIENCE: Duration = Duration::from_secs(150);

/// All that was measured.
pub struct Million {
    pub grants: u64,
    pub slices: Vec<Slice>,
    /// Bytes of the tables with their indexes: the most that was seen, and after all is summed up.
    pub most: u64,
    pub after: u64,
    pub seconds: f64,
    pub house: Kept,
}

/// Grants, while house is kept. The waits for the disk say nothing here, so there are none: that is three times as fast, and the
/// harder for house-keeping.
pub fn measure(lab: &mut Lab, options: &Options) -> Result<Million> {
    let house = House::keep(lab.server())?;
    lab.client().batch_execute("ALTER DATABASE postgres SET synchronous_commit = off")?;
    let script = lab.script(Contender::Durable, Keys::Hot)?;
    let each = options.grants / PARTS / u64::from(CLIENTS);
    let start = Instant::now();
    let (mut slices, mut most) = (Vec::<Slice>::new(), 0);
    while slices.len() < PARTS as usize && start.elapsed() < PATIENCE {
        eprintln!("==> a hot key, granted again and again: {} of {PARTS}", slices.len() + 1);
        let length = Length::Transactions(each);
        slices.push(pgbench::run(lab.server(), &script, CLIENTS, length)?);
        most = most.max(size(lab)?);
    }
    let seconds = start.elapsed().as_secs_f64();
    lab.client().batch_execute("ALTER DATABASE postgres RESET synchronous_commit")?;
    let house = house.end()?;
    house::clean_up(lab.client())?;
    let grants = slices.len() as u64 * each * u64::from(CLIENTS);
    Ok(Million { grants, slices, most, after: size(lab)?, seconds, house })
}

fn size(lab: &mut Lab) -> Result<u64> {
    let sql = "SELECT sum(pg_total_relation_size(name::regclass))::bigint
                 FROM unnest('{rl_counts, rl_ledger_0, rl_ledger_1}'::text[]) AS name";
    let size: i64 = lab.client().query_one(sql, &[])?.get(0);
    Ok(size.unsigned_abs())
}

impl Million {
    /// How a figure changed from the first part to the last.
    pub fn growth(&self, figure: impl Fn(&Slice) -> f64) -> f64 {
        match (self.slices.first(), self.slices.last()) {
            (Some(first), Some(last)) => figure(last) / figure(first),
            _ => f64::NAN,
        }
    }

    pub fn to_json(&self) -> Value {
        json!({
            "grants": self.grants, "seconds": self.seconds,
            "parts": self.slices.iter().map(|slice| slice.to_json()).collect::<Vec<_>>(),
            "most_bytes": self.most, "bytes_after": self.after, "house_keeping": self.house.to_json(),
        })
    }
}
