//! A hot key while another session keeps an old snapshot open, as a report or a backup does: no version of a row that was there when
//! it was taken, or later, may be removed.

use anyhow::Result;
use serde_json::{json, Value};
use testbed::postgres::Client;

use crate::contender::{Contender, Keys};
use crate::durable::CLIENTS;
use crate::house::{House, Kept};
use crate::lab::Lab;
use crate::options::Options;
use crate::pgbench;
use crate::stats::Spread;

/// Ours first and last, so that a trend of the machine can be told from one of ours.
const TURNS: [Contender; 3] = [Contender::Durable, Contender::UpsertLogged, Contender::Durable];

/// How many seconds count at each point; the first second after a change never does.
const COUNTED: usize = 5;

/// One contender's transactions a second: before the snapshot, at the end of it, and after it.
pub struct Course {
    pub contender: Contender,
    pub before: Spread,
    pub during: Spread,
    pub after: Spread,
    seconds: Vec<f64>,
}

/// All that was measured.
pub struct Snapshot {
    pub courses: Vec<Course>,
    /// For how many seconds the snapshot was open.
    pub open: u32,
    pub house: Kept,
}

/// Measures one after the other, while house is kept.
pub fn measure(lab: &mut Lab, options: &Options) -> Result<Snapshot> {
    let house = House::keep(lab.server())?;
    let turns = if options.quick { &TURNS[..2] } else { &TURNS };
    let mut courses = Vec::new();
    for (n, contender) in turns.iter().enumerate() {
        eprintln!("==> old snapshot: {} of {}", n + 1, turns.len());
        courses.push(course(lab, options, *contender)?);
    }
    Ok(Snapshot { courses, open: options.snapshot_seconds, house: house.end()? })
}

fn course(lab: &Lab, options: &Options, contender: Contender) -> Result<Course> {
    // Should a minute begin meanwhile, the upsert would go on with a new row.
    let script = lab.write_script(&contender.script(Keys::Hot).replace("'minute'", "'day'"))?;
    let counted = if options.quick { 2 } else { COUNTED };
    let opened = counted as u32 + 1;
    let closed = opened + options.snapshot_seconds;
    let mut other = lab.server().connect()?;
    let seconds = pgbench::watch(lab.server(), &script, CLIENTS, closed + opened, |second| {
        if second == opened {
            open(&mut other)?;
        } else if second == closed {
            other.batch_execute("COMMIT")?;
        }
        Ok(())
    })?;
    let last = |end: u32| {
        let end = seconds.len().min(end as usize);
        Spread::of(seconds[end.saturating_sub(counted)..end].iter().copied())
    };
    Ok(Course {
        contender,
        before: last(opened),
        during: last(closed),
        after: last(closed + opened),
        seconds,
    })
}

/// After this the session is idle in a transaction, and goes on seeing what it sees now.
fn open(client: &mut Client) -> Result<()> {
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ")?;
    client.batch_execute("SELECT count(*) FROM few_keys")?;
    Ok(())
}

impl Course {
    /// What is left in the last seconds of the snapshot.
    pub fn left(&self) -> f64 {
        self.during.median / self.before.median
    }
}

impl Snapshot {
    /// What is left of one contender's speed.
    pub fn left(&self, contender: Contender) -> Spread {
        let courses = self.courses.iter().filter(|course| course.contender == contender);
        Spread::of(courses.map(Course::left))
    }

    pub fn to_json(&self) -> Value {
        let course = |course: &Course| {
            json!({
                "name": course.contender.name(), "before": course.before.to_json(),
                "during": course.during.to_json(), "after": course.after.to_json(),
                "tps_of_each_second": course.seconds,
            })
        };
        json!({
            "courses": self.courses.iter().map(course).collect::<Vec<_>>(),
            "seconds_open": self.open, "house_keeping": self.house.to_json(),
        })
    }
}
