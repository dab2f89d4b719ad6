//! What calls cost inside one backend, in CPU time of its process: no client, no protocol, no planning.

use std::time::Instant;

use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};

use crate::cpu;
use crate::lab::{Lab, FEW_KEYS, KEYS, TOO_MUCH};
use crate::options::Options;
use crate::stats::Spread;

/// Calls in one row of the hot loop, so that making the row hardly counts.
const CALLS: u64 = 20;

/// One thing to measure.
struct Case {
    name: &'static str,
    million: bool,
    /// Run before each measurement, without being measured.
    before: Option<&'static str>,
    sql: String,
    calls: u64,
    kind: Kind,
}

/// What a case is compared with.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Rows, and no call.
    Source,
    /// The empty function over these rows.
    Empty,
    /// Something else over these rows.
    Rows,
    /// Something that needs no such rows.
    Alone,
}

/// What was measured of one case.
pub struct Row {
    /// What was called.
    pub name: &'static str,
    /// Whether with a million keys or with one.
    pub million: bool,
    /// CPU nanoseconds a call, without the making of rows.
    pub net: Spread,
    /// Those without what the empty function takes.
    pub over_empty: Spread,
    /// Wall clock nanoseconds a call, all included.
    pub wall: Spread,
    rounds: Vec<Round>,
}

struct Round {
    cpu: f64,
    wall: f64,
    net: f64,
    over_empty: f64,
}

/// All that was measured inside a backend.
pub struct Inside {
    pub rows: Vec<Row>,
}

/// Names that the targets look for.
pub const ACQUIRE: &str = "rl_try_acquire";
pub const CHECK: &str = "rl_check";
pub const REFUND: &str = "rl_try_acquire, refund";
pub const UNCOUNTED: &str = "rl_try_acquire, no statistics";
pub const LISTED: &str = "rl_try_acquire, others listed";
pub const OVERRIDDEN: &str = "rl_try_acquire, overridden";
pub const ACQUIRE_ALONE: &str = "rl_try_acquire, each committed";
pub const REFUND_ALONE: &str = "rl_try_acquire, refund, each committed";

fn hot(rows: u64, name: &'static str, kind: Kind, call: &str) -> Case {
    let condition = match kind {
        Kind::Source => "true".to_owned(),
        _ => vec![call; CALLS as usize].join(" AND "),
    };
    let sql = format!("SELECT count(*) FROM generate_series(1, {rows}) WHERE {condition}");
    Case { name, million: false, before: None, sql, calls: rows * CALLS, kind }
}

fn million(name: &'static str, kind: Kind, call: &str) -> Case {
    let sql = format!("SELECT count(*) FROM keys WHERE {call}");
    Case { name, million: true, before: None, sql, calls: KEYS, kind }
}

/// The hot key cannot be upserted twice by one statement, so a loop commits each upsert, as calls from clients would.
fn upsert_loop(name: &'static str, table: &str, times: u64) -> Case {
    let sql = format!(
        "DO $$ BEGIN FOR i IN 1..{times} LOOP
            INSERT INTO {table} AS w VALUES ('user:1', date_trunc('minute', now()), 1)
                ON CONFLICT (k, win) DO UPDATE SET n = w.n + 1 WHERE w.n < {TOO_MUCH};
            COMMIT;
        END LOOP; END $$"
    );
    Case { name, million: false, before: None, sql, calls: times, kind: Kind::Alone }
}

/// The same with a decision: all that goes with a transaction counts, too.
fn decision_loop(name: &'static str, limiter: &str, times: u64) -> Case {
    let sql = format!(
        "DO $$ BEGIN FOR i IN 1..{times} LOOP
            PERFORM rl_try_acquire('{limiter}', 'user:12345');
            COMMIT;
        END LOOP; END $$"
    );
    Case { name, million: false, before: None, sql, calls: times, kind: Kind::Alone }
}

fn upsert_keys(name: &'static str, table: &str) -> Case {
    let sql = format!(
        "INSERT INTO {table} AS w SELECT key, date_trunc('minute', now()), 1 FROM few_keys
            ON CONFLICT (k, win) DO UPDATE SET n = w.n + 1 WHERE w.n < {TOO_MUCH}"
    );
    Case { name, million: true, before: None, sql, calls: FEW_KEYS, kind: Kind::Alone }
}

fn cases(rows: u64) -> Vec<Case> {
    use Kind::{Empty, Rows, Source};
    let denied = |key: &str| format!("NOT rl_try_acquire('api', {key}, {TOO_MUCH})");
    let lock = |key: &str| format!("pg_try_advisory_lock({key}) AND pg_advisory_unlock({key})");
    let hashed = "hashtextextended(key, 0)";
    // A pair of calls counts as one.
    let mut hot_lock = hot(rows / 4, "advisory lock, and unlock", Rows, &lock("1"));
    hot_lock.kind = Kind::Alone;
    let mut new_keys = million("rl_try_acquire, new keys", Rows, "rl_try_acquire('api', key)");
    new_keys.before = Some("SELECT rl_reset_all('api')");
    vec![
        hot(rows, "rows alone", Source, ""),
        hot(rows, "empty function", Empty, "bench_empty('api', 'user:12345')"),
        hot(rows, ACQUIRE, Rows, "rl_try_acquire('api', 'user:12345')"),
        hot(rows, UNCOUNTED, Rows, "rl_try_acquire('uncounted', 'user:12345')"),
        // Of a limiter with 100,000 overrides and 1,000 bans, and then of a key that has one.
        hot(rows, LISTED, Rows, "rl_try_acquire('listed', 'user:12345')"),
        hot(rows, OVERRIDDEN, Rows, "rl_try_acquire('listed', 'vip:12345')"),
        // Here all calls share one transaction, as those of a statement do.
        hot(rows, REFUND, Rows, "rl_try_acquire('refund', 'user:12345')"),
        hot(rows, "rl_try_acquire, denied", Rows, &denied("'user:12345'")),
        hot(rows, "rl_try_acquire, durable", Rows, "rl_try_acquire('durable', 'user:12345')"),
        hot(
            rows,
            "rl_try_acquire, durable, denied",
            Rows,
            &format!("NOT rl_try_acquire('durable', 'user:12345', {TOO_MUCH})"),
        ),
        hot(rows, "rl_try_acquire, two rules", Rows, "rl_try_acquire('two_rules', 'user:12345')"),
        hot(
            rows,
            "rl_try_acquire, fixed_window",
            Rows,
            "rl_try_acquire('fixed_window', 'user:12345')",
        ),
        hot(
            rows,
            "rl_try_acquire, sliding_window",
            Rows,
            "rl_try_acquire('sliding_window', 'user:12345')",
        ),
        // The quota of a log is small: nearly all calls are denied.
        hot(
            rows,
            "rl_try_acquire, sliding_log, denied",
            Rows,
            "NOT rl_try_acquire('sliding_log', 'user:12345', 100)",
        ),
        hot(rows, CHECK, Rows, "(rl_check('api', 'user:12345')).allowed"),
        hot(
            rows,
            "rl_check, denied",
            Rows,
            &format!("NOT (rl_check('api', 'user:12345', {TOO_MUCH})).allowed"),
        ),
        hot_lock,
        decision_loop(ACQUIRE_ALONE, "api", rows),
        decision_loop(REFUND_ALONE, "refund", rows),
        decision_loop("rl_try_acquire, durable, each committed", "durable", rows / 200),
        upsert_loop("upsert, unlogged", "unlogged", rows / 20),
        upsert_loop("upsert, logged", "logged", rows / 100),
        million("rows alone", Source, "key IS NOT NULL"),
        million("empty function", Empty, "bench_empty('api', key)"),
        new_keys,
        million(ACQUIRE, Rows, "rl_try_acquire('api', key)"),
        million("rl_try_acquire, denied", Rows, &denied("key")),
        million(CHECK, Rows, "(rl_check('api', key)).allowed"),
        million("advisory lock, and unlock", Rows, &lock(hashed)),
        upsert_keys("upsert, unlogged, 50,000 keys", "unlogged"),
        upsert_keys("upsert, logged, 50,000 keys", "logged"),
    ]
}

/// Measures all cases in turns.
pub fn measure(lab: &mut Lab, options: &Options) -> Result<Inside> {
    prepare(lab)?;
    let cases = cases(options.rows);
    let mut rounds: Vec<Vec<Round>> = cases.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.inside_rounds {
        eprintln!("==> inside a backend: round {round} of {}", options.inside_rounds);
        let (mut source, mut empty) = (0.0, 0.0);
        for (case, rounds) in cases.iter().zip(&mut rounds) {
            let (cpu, wall) = run(lab, case).with_context(|| case.name)?;
            // The source comes first, then the empty function.
            let net = match case.kind {
                Kind::Source => {
                    source = cpu;
                    cpu
                }
                Kind::Alone => cpu,
                Kind::Empty | Kind::Rows => cpu - source,
            };
            if case.kind == Kind::Empty {
                empty = net;
            }
            rounds.push(Round { cpu, wall, net, over_empty: net - empty });
        }
    }
    lab.check_statistics()?;
    Ok(Inside { rows: cases.iter().zip(rounds).map(row).collect() })
}

/// Makes each limiter known to the session, and some keys such that the next call with a great cost is denied.
fn prepare(lab: &mut Lab) -> Result<()> {
    let limiters =
        "VALUES ('api'), ('uncounted'), ('refund'), ('durable'), ('two_rules'), ('listed'), ('fixed_window'), ('sliding_window'), ('sliding_log')";
    lab.client().batch_execute(&format!(
        "SELECT rl_try_acquire(name, 'user:12345') FROM ({limiters}) AS l (name);
         SELECT bench_empty('api', 'x'), count(*) FROM keys"
    ))?;
    Ok(())
}

/// CPU and wall clock nanoseconds a call.
fn run(lab: &mut Lab, case: &Case) -> Result<(f64, f64)> {
    if let Some(sql) = case.before {
        lab.client().batch_execute(sql)?;
    }
    let process = lab.backend();
    let (start, before) = (Instant::now(), cpu::of_process(process)?);
    if case.kind == Kind::Alone && !case.sql.starts_with("SELECT") {
        lab.client().batch_execute(&case.sql)?;
    } else {
        let messages = lab.client().simple_query(&case.sql)?;
        check(&messages, case)?;
    }
    let (after, wall) = (cpu::of_process(process)?, start.elapsed());
    let each = |time: std::time::Duration| time.as_nanos() as f64 / case.calls as f64;
    Ok((each(after.saturating_sub(before)), each(wall)))
}

/// A condition that was false once would have cut the row's other calls short.
fn check(messages: &[testbed::postgres::SimpleQueryMessage], case: &Case) -> Result<()> {
    let count = messages.iter().find_map(|message| match message {
        testbed::postgres::SimpleQueryMessage::Row(row) => row.get(0)?.parse::<u64>().ok(),
        _ => None,
    });
    let per_row = if case.million { 1 } else { CALLS };
    let rows = case.calls / per_row;
    ensure!(count == Some(rows), "{count:?} rows of {rows}");
    Ok(())
}

fn row((case, rounds): (&Case, Vec<Round>)) -> Row {
    Row {
        name: case.name,
        million: case.million,
        net: Spread::of(rounds.iter().map(|round| round.net)),
        over_empty: Spread::of(rounds.iter().map(|round| round.over_empty)),
        wall: Spread::of(rounds.iter().map(|round| round.wall)),
        rounds,
    }
}

impl Inside {
    pub fn find(&self, name: &str, million: bool) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name && row.million == million)
    }

    /// How many CPU nanoseconds a call of one takes more than a call of the other, round by round.
    pub fn difference(&self, of: &str, to: &str) -> Option<Spread> {
        let pairs = self.find(of, false)?.rounds.iter().zip(&self.find(to, false)?.rounds);
        Some(Spread::of(pairs.map(|(of, to)| of.net - to.net)))
    }

    /// How many more calls of one fit into the same CPU time than of the other, round by round.
    pub fn speed(&self, of: &str, to: &str) -> Option<Spread> {
        let pairs = self.find(of, false)?.rounds.iter().zip(&self.find(to, false)?.rounds);
        Some(Spread::of(pairs.map(|(of, to)| to.net / of.net)))
    }

    pub fn to_json(&self) -> Value {
        let round = |round: &Round| {
            json!({
                "cpu_ns": round.cpu, "wall_ns": round.wall, "net_cpu_ns": round.net,
                "over_empty_ns": round.over_empty,
            })
        };
        let row = |row: &Row| {
            json!({
                "name": row.name,
                "keys": if row.million { "million" } else { "hot" },
                "net_cpu_ns": row.net.to_json(),
                "over_empty_ns": row.over_empty.to_json(),
                "wall_ns": row.wall.to_json(),
                "rounds": row.rounds.iter().map(round).collect::<Vec<_>>(),
            })
        };
        self.rows.iter().map(row).collect()
    }
}
