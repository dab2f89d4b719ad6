//! Savepoints, released and rolled back in all combinations.

use anyhow::{ensure, Context, Result};
use postgres::Client;

use super::ask::Ask;
use super::kinds::{of_each, Case, Kind, KindTest, ALGORITHMS};
use super::FileTest;

pub fn tests() -> Vec<FileTest> {
    of_each(&[Kind::Refund, Kind::Durable], TESTS)
}

const TESTS: &[KindTest] = &[
    ("exactly_what_nested_savepoints_undo", exactly_what_nested_savepoints_undo),
    ("exactly_what_nested_blocks_undo", exactly_what_nested_blocks_undo),
    ("what_was_refunded_in_savepoints", what_was_refunded_in_savepoints),
    ("what_savepoints_took_of_many_keys", what_savepoints_took_of_many_keys),
    ("what_a_savepoint_of_many_took_again_and_again", again_and_again),
];

const DEPTH: u32 = 3;
const QUOTA: i64 = 1_000;

/// Whether each level, the outermost first, is kept.
fn combinations() -> impl Iterator<Item = Vec<bool>> {
    (0..1_u32 << (DEPTH + 1)).map(|bits| (0..=DEPTH).map(|level| bits >> level & 1 == 0).collect())
}

/// What a level takes before and after the one within it.
fn costs(level: u32) -> (i64, i64) {
    (1 << level, 16 << level)
}

/// What the combination takes in the end.
fn taken(kept: &[bool]) -> i64 {
    let within = kept.iter().enumerate().take_while(|(_, kept)| **kept);
    // A level that is rolled back takes with it all that is within.
    within.map(|(level, _)| costs(level as u32)).map(|(before, after)| before + after).sum()
}

fn take(session: &mut Client, limiter: &str, cost: i64) -> Result<()> {
    let taken =
        session.ask::<bool>(&format!("SELECT rl_try_acquire('{limiter}', 'key', {cost})"))?;
    ensure!(taken, "{limiter}: refused {cost}");
    Ok(())
}

fn nested(session: &mut Client, limiter: &str, kept: &[bool], level: u32) -> Result<()> {
    let (before, after) = costs(level);
    if level == 0 {
        session.batch_execute("BEGIN")?;
    } else {
        session.batch_execute(&format!("SAVEPOINT s{level}"))?;
    }
    take(session, limiter, before)?;
    if level < DEPTH {
        nested(session, limiter, kept, level + 1)?;
    }
    take(session, limiter, after)?;
    let end = match (level, kept[level as usize]) {
        (0, true) => "COMMIT".to_owned(),
        (0, false) => "ROLLBACK".to_owned(),
        (_, true) => format!("RELEASE s{level}"),
        (_, false) => format!("ROLLBACK TO s{level}; RELEASE s{level}"),
    };
    Ok(session.batch_execute(&end)?)
}

fn exactly_what_nested_savepoints_undo(case: &Case) -> Result<()> {
    let (mut session, mut observer) = (case.database.connect()?, case.database.connect()?);
    case.kind.create_all(&mut session, QUOTA)?;
    for limiter in ALGORITHMS {
        let mut left = QUOTA;
        for kept in combinations() {
            nested(&mut session, limiter, &kept, 0)
                .and_then(|()| {
                    left -= taken(&kept);
                    let found = observer.left(limiter, "key")?;
                    ensure!(found == left, "{found} left instead of {left}");
                    Ok(())
                })
                .with_context(|| format!("{limiter}, levels kept: {kept:?}"))?;
        }
    }
    Ok(())
}

/// The same as a block of PL/pgSQL, which an exception undoes.
fn block(limiter: &str, kept: &[bool], level: u32) -> String {
    let (before, after) = costs(level);
    let within = if level < DEPTH { block(limiter, kept, level + 1) } else { "NULL;".to_owned() };
    let fail = if kept[level as usize] { "" } else { "RAISE 'no';" };
    format!(
        "BEGIN
             PERFORM rl_enforce('{limiter}', 'key', {before});
             {within}
             PERFORM rl_enforce('{limiter}', 'key', {after});
             {fail}
         EXCEPTION WHEN raise_exception THEN
             NULL;
         END;"
    )
}

fn exactly_what_nested_blocks_undo(case: &Case) -> Result<()> {
    let mut session = case.database.connect()?;
    case.kind.create_all(&mut session, QUOTA)?;
    for limiter in ALGORITHMS {
        let mut left = QUOTA;
        for kept in combinations() {
            session.batch_execute(&format!("DO $$ BEGIN {} END $$", block(limiter, &kept, 0)))?;
            left -= taken(&kept);
            let found = session.left(limiter, "key")?;
            ensure!(found == left, "{limiter}, {kept:?}: {found} left instead of {left}");
        }
    }
    Ok(())
}

/// Statements of one transaction, and how many of 1000 are left after the last.
const REFUNDS: &[(&[&str], i64)] = &[
    (&["BEGIN", "take 4", "refund 1", "ROLLBACK"], 1_000),
    (&["BEGIN", "take 4", "refund 1", "COMMIT"], 997),
    (&["BEGIN", "take 4", "SAVEPOINT s", "refund 1", "ROLLBACK TO s", "COMMIT"], 996),
    (&["BEGIN", "take 4", "SAVEPOINT s", "refund 1", "ROLLBACK TO s", "ROLLBACK"], 1_000),
    (&["BEGIN", "take 4", "SAVEPOINT s", "refund 1", "RELEASE s", "COMMIT"], 997),
    (&["BEGIN", "SAVEPOINT s", "take 4", "RELEASE s", "refund 1", "ROLLBACK"], 1_000),
    (&["BEGIN", "SAVEPOINT s", "take 4", "RELEASE s", "refund 1", "COMMIT"], 997),
    (&["take 9", "BEGIN", "refund 5", "take 3", "ROLLBACK"], 991),
    (&["take 9", "BEGIN", "refund 5", "take 3", "COMMIT"], 993),
    (&["take 9", "BEGIN", "refund 5", "SAVEPOINT s", "refund 2", "ROLLBACK TO s", "COMMIT"], 996),
    (&["take 9", "BEGIN", "take 1", "refund 5", "COMMIT"], 995),
    (&["take 9", "BEGIN", "take 1", "refund 5", "ROLLBACK"], 991),
    (&["take 9", "BEGIN", "refund 2000", "COMMIT"], 1_000),
    // Only what this transaction took itself comes back at once: the rest could not be got back if it rolled back.
    (&["take 9", "BEGIN", "take 1", "refund 5"], 991),
    (&["BEGIN", "penalize 900", "refund 600", "ROLLBACK"], 1_000),
    (&["BEGIN", "penalize 900", "refund 600", "COMMIT"], 700),
];

fn call(statement: &str, limiter: &str) -> String {
    let function = match statement.split_once(' ') {
        Some(("take", _)) => "rl_enforce",
        Some(("refund", _)) => "rl_refund",
        Some(("penalize", _)) => "rl_penalize",
        _ => return statement.to_owned(),
    };
    let cost = statement.rsplit(' ').next().unwrap_or_default();
    format!("SELECT {function}('{limiter}', 'key', {cost})")
}

fn what_was_refunded_in_savepoints(case: &Case) -> Result<()> {
    let mut observer = case.database.connect()?;
    case.kind.create_all(&mut observer, QUOTA)?;
    let mut wrong = Vec::new();
    for limiter in ALGORITHMS {
        for (statements, left) in REFUNDS {
            let mut session = case.database.connect()?;
            for statement in *statements {
                session.batch_execute(&call(statement, limiter))?;
            }
            let found = observer.left(limiter, "key")?;
            if found != *left {
                wrong.push(format!(
                    "{limiter}: {found} left instead of {left} after {statements:?}"
                ));
            }
            session.batch_execute("ROLLBACK")?;
            observer.batch_execute(&format!("SELECT rl_reset('{limiter}', 'key')"))?;
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn what_savepoints_took_of_many_keys(case: &Case) -> Result<()> {
    let mut session = case.session()?;
    session.batch_execute(
        "BEGIN; SELECT rl_take('api', 'key ' || n, 1) FROM generate_series(1, 2000) AS n;
         SAVEPOINT a; SELECT rl_take('api', 'key ' || n, 2) FROM generate_series(1000, 3000) AS n;
         SAVEPOINT b; SELECT rl_take('api', 'key ' || n, 4) FROM generate_series(500, 1500) AS n;
         ROLLBACK TO a; SELECT rl_take('api', 'key ' || n, 3) FROM generate_series(1, 10) AS n; COMMIT",
    )?;
    let left: String = session.ask(
        "SELECT string_agg(remaining || ' times ' || count, ', ' ORDER BY remaining) FROM (
             SELECT remaining, count(*) FROM generate_series(1, 3000) AS n, rl_peek('api', 'key ' || n, 0)
              GROUP BY remaining) AS counts",
    )?;
    ensure!(left == "6 times 10, 9 times 1990, 10 times 1000", "{left}");
    Ok(())
}

fn again_and_again(case: &Case) -> Result<()> {
    let mut session = case.database.connect()?;
    case.kind.create_all(&mut session, QUOTA)?;
    for limiter in ALGORITHMS {
        session.batch_execute(&format!(
            "DO $$ BEGIN
                 FOR n IN 1..20000 LOOP
                     BEGIN
                         PERFORM rl_enforce('{limiter}', 'key', 1 + n % 7);
                         IF n % 100 <> 0 THEN RAISE 'no'; END IF;
                     EXCEPTION WHEN raise_exception THEN NULL;
                     END;
                 END LOOP;
             END $$"
        ))?;
        // 200 of the 20000, of which 100 times n is n times 2 modulo 7.
        let expected = QUOTA - (1..=200).map(|n: i64| 1 + n * 100 % 7).sum::<i64>();
        let left = session.left(limiter, "key")?;
        ensure!(left == expected, "{limiter}: {left} left instead of {expected}");
    }
    Ok(())
}
