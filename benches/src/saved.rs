//! How long it takes to save a million keys of shared memory and to load them, and what other sessions notice of a save.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};

use crate::lab::{Lab, KEYS};
use crate::options::Options;
use crate::stats::Spread;

/// In the data directory; what is being written has `.new` added.
const FILE: &str = "ratelimit.state";
const INTERVAL: &str = "ratelimit.save_interval";

/// How long to wait for a save that should come each second.
const PATIENCE: Duration = Duration::from_secs(5);

/// Says in milliseconds how long the longest of many calls took, each for another key.
const LONGEST: &str = "
    CREATE OR REPLACE FUNCTION pg_temp.longest_call(seconds integer) RETURNS float8 LANGUAGE plpgsql AS $$
    DECLARE
        until timestamptz := clock_timestamp() + make_interval(secs => seconds);
        longest interval := '0';
        called timestamptz;
        key text;
    BEGIN
        FOR n IN 1 .. 1000000000 LOOP
            key := 'user:' || (n * 7919::bigint) % 1000000 + 1;
            called := clock_timestamp();
            PERFORM rl_try_acquire('api', key);
            longest := greatest(longest, clock_timestamp() - called);
            EXIT WHEN called > until;
        END LOOP;
        RETURN extract(epoch FROM longest) * 1000;
    END $$";

/// All that was measured.
pub struct Saved {
    pub keys: u64,
    pub bytes: u64,
    /// Seconds from the first byte of the file until it is in place, at shutdown.
    pub save: Spread,
    /// Seconds by which the server starts later than without the file.
    pub load: Spread,
    /// None where nothing is saved but at shutdown.
    pub meanwhile: Option<Meanwhile>,
}

/// Calls of a session, in milliseconds, while another process saves each second.
pub struct Meanwhile {
    pub longest: Spread,
    pub longest_without: Spread,
    /// Round by round.
    pub difference: Spread,
    /// Seconds that these saves took.
    pub save: Spread,
}

/// Measures with all keys of the table live, and leaves a server that has been restarted.
pub fn measure(lab: &mut Lab, options: &Options) -> Result<Saved> {
    let file = lab.server().pgdata().join(FILE);
    let kept = file.with_extension("kept");
    let keys = lab.live_keys()?;
    let (mut save, mut load, mut bytes) = (Vec::new(), Vec::new(), 0);
    for round in 1..=options.restarts {
        eprintln!("==> saving and loading: round {round} of {}", options.restarts);
        let watch = Watch::new(&file);
        lab.stop()?;
        save.extend(watch.end()?);
        bytes = std::fs::metadata(&file).context("nothing was saved")?.len();
        std::fs::rename(&file, &kept)?;
        let without = start(lab)?;
        lab.stop()?;
        std::fs::rename(&kept, &file)?;
        load.push(start(lab)? - without);
        let loaded = lab.live_keys()?;
        ensure!(loaded >= KEYS, "only {loaded} of {keys} keys were loaded");
    }
    let meanwhile = meanwhile(lab, options, &file)?;
    lab.set(INTERVAL, None)?;
    Ok(Saved { keys, bytes, save: Spread::of(save), load: Spread::of(load), meanwhile })
}

/// Starts the server; says after how many seconds it had its shared memory.
fn start(lab: &mut Lab) -> Result<f64> {
    let before = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() % DAY;
    lab.start()?;
    let log = lab.server().log();
    let line = log.lines().rfind(|line| line.contains("LOG:  listening on Unix socket"));
    let logged = line.and_then(time_of_day).context("the server's log does not say when")?;
    Ok((logged - before).rem_euclid(DAY))
}

const DAY: f64 = 86_400.0;

/// Of a line that begins with a moment, as `2026-11-23 01:06:46.123 UTC`. The log is in UTC.
fn time_of_day(line: &str) -> Option<f64> {
    let mut seconds = 0.0;
    for part in line.split(' ').nth(1)?.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>().ok()?;
    }
    Some(seconds)
}

/// Compares the longest calls in turns. How long a call takes is measured in the session, so clients and the protocol are left out.
fn meanwhile(lab: &mut Lab, options: &Options, file: &Path) -> Result<Option<Meanwhile>> {
    lab.client().batch_execute(LONGEST)?;
    let call = format!("SELECT pg_temp.longest_call({})", options.saving_seconds);
    let (mut with, mut without, mut saves) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=options.saving_rounds {
        eprintln!("==> calls during a save: round {round} of {}", options.saving_rounds);
        lab.set(INTERVAL, Some("0"))?;
        without.push(lab.client().query_one(&call, &[])?.get::<_, f64>(0));
        lab.set(INTERVAL, Some("1s"))?;
        if !is_saved(file)? {
            return Ok(None);
        }
        let watch = Watch::new(file);
        with.push(lab.client().query_one(&call, &[])?.get(0));
        saves.extend(watch.end()?);
    }
    let difference = Spread::of(with.iter().zip(&without).map(|(with, without)| with - without));
    Ok((!saves.is_empty()).then(|| Meanwhile {
        difference,
        longest: Spread::of(with),
        longest_without: Spread::of(without),
        save: Spread::of(saves),
    }))
}

/// Waits until the file is replaced.
fn is_saved(file: &Path) -> Result<bool> {
    let written = || std::fs::metadata(file).and_then(|about| about.modified());
    let (start, before) = (Instant::now(), written()?);
    while start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
        if written()? != before {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Looks each millisecond whether a new file is being written.
struct Watch(Sender<()>, JoinHandle<Vec<f64>>);

impl Watch {
    fn new(file: &Path) -> Watch {
        let new = PathBuf::from(format!("{}.new", file.display()));
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let (mut saves, mut since) = (Vec::new(), None);
            while stopped.recv_timeout(Duration::from_millis(1)) == Err(RecvTimeoutError::Timeout) {
                match (new.exists(), since) {
                    (true, None) => since = Some(Instant::now()),
                    (false, Some(start)) => {
                        saves.push(start.elapsed().as_secs_f64());
                        since = None;
                    }
                    _ => (),
                }
            }
            saves
        });
        Watch(stop, thread)
    }

    /// How many seconds each took that has ended.
    fn end(self) -> Result<Vec<f64>> {
        drop(self.0);
        self.1.join().ok().context("the watch has ended")
    }
}

impl Saved {
    pub fn to_json(&self) -> Value {
        let meanwhile = self.meanwhile.as_ref().map(|found| {
            json!({
                "longest_ms": found.longest.to_json(),
                "longest_without_ms": found.longest_without.to_json(),
                "difference_ms": found.difference.to_json(),
                "save_seconds": found.save.to_json(),
            })
        });
        json!({
            "keys": self.keys, "bytes": self.bytes, "save_seconds": self.save.to_json(),
            "load_seconds": self.load.to_json(), "meanwhile": meanwhile,
        })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_time_of_a_log_line() {
        let line = "2026-11-23 01:06:46.250 UTC [7] LOG:  listening";
        assert_eq!(super::time_of_day(line), Some(4_006.25));
        assert_eq!(super::time_of_day("no time"), None);
    }
}
