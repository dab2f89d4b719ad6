//! What durable limiters count survives every crash, whatever was folded, refunded or reset before.

use anyhow::{ensure, Result};
use postgres::Client;
use testbed::{Builder, Server, Stop};

use super::ask::{Ask, AGE};
use super::kinds::{Kind, ALGORITHMS};
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("durable_counts_survive_an_immediate_stop", counts_survive_an_immediate_stop),
    ("durable_counts_survive_an_immediate_stop_without_preload", |bed| {
        survive(builder(bed).preload(false).start()?)
    }),
    ("durable_refunds_and_resets_survive_and_roll_back", refunds_and_resets),
    ("durable_resets_forget_what_was_before_them", resets_forget),
    ("a_row_that_comes_after_a_fold_is_counted", a_row_that_comes_after_a_fold),
    ("folding_waits_for_nobody_and_loses_nothing", folding_waits_for_nobody),
    ("a_long_log_survives_folding", a_long_log_survives_folding),
];

const NAME: &str = "durability";

/// A server whose worker leaves folding to the test.
fn builder(bed: &Bed) -> Builder {
    bed.private().setting("ratelimit.purge_interval", "1 d")
}

fn start(bed: &Bed) -> Result<Server> {
    builder(bed).start()
}

/// A limiter of 100 of each algorithm, and one of two rules.
pub fn limiters(server: &Server) -> Result<Client> {
    let mut session = Database::new(server, NAME)?.connect()?;
    Kind::Durable.create_all(&mut session, 100)?;
    let rates = format!("50 per {AGE}, 100 per 73000 days");
    Kind::Durable.create(&mut session, "two_rules", &rates, "fixed_window")?;
    Ok(session)
}

fn names() -> impl Iterator<Item = &'static str> {
    ALGORITHMS.into_iter().chain(["two_rules"])
}

fn connect(server: &Server) -> Result<Client> {
    server.connect_to(NAME, "postgres")
}

/// What is left of some keys, as one text.
fn standing(session: &mut Client) -> Result<String> {
    let limiters: Vec<_> = names().map(|name| format!("'{name}'")).collect();
    session.ask(&format!(
        "SELECT string_agg(concat_ws(' ', limiter, key, remaining), ', ' ORDER BY limiter, key)
           FROM unnest(ARRAY[{}]) AS limiter, unnest('{{a,b,c}}'::text[]) AS key, rl_peek(limiter, key, 0)",
        limiters.join(", ")
    ))
}

/// Stops as in a crash, and sees what is left afterwards.
fn ensure_survives(server: &mut Server, when: &str) -> Result<Client> {
    let before = standing(&mut connect(server)?)?;
    server.restart(Stop::Immediate)?;
    let mut session = connect(server)?;
    let after = standing(&mut session)?;
    ensure!(after == before, "{when}: before the crash\n{before}\nafter\n{after}");
    Ok(session)
}

/// One transaction for each limiter, with KEY and LIMITER in the statement.
fn each(session: &mut Client, key: &str, statements: &str) -> Result<()> {
    for name in names() {
        session.batch_execute(&statements.replace("LIMITER", name).replace("KEY", key))?;
    }
    Ok(())
}

fn ensure_left(session: &mut Client, key: &str, left: i64) -> Result<()> {
    for name in names() {
        // Of the two rules the first one binds.
        let expected = if name == "two_rules" { left - 50 } else { left };
        let found = session.left(name, key)?;
        ensure!(found == expected, "{name}, {key}: {found} left instead of {expected}");
    }
    Ok(())
}

fn counts_survive_an_immediate_stop(bed: &Bed) -> Result<()> {
    survive(start(bed)?)
}

fn survive(mut server: Server) -> Result<()> {
    let mut session = limiters(&server)?;
    each(&mut session, "a", "SELECT rl_enforce('LIMITER', 'KEY', 10)")?;
    each(&mut session, "b", "BEGIN; SELECT rl_enforce('LIMITER', 'KEY', 10); ROLLBACK")?;
    each(
        &mut session,
        "b",
        "BEGIN; SELECT rl_enforce('LIMITER', 'KEY', 1); SAVEPOINT s; SELECT rl_enforce('LIMITER', 'KEY', 9);
         ROLLBACK TO s; SELECT rl_enforce('LIMITER', 'KEY', 2); COMMIT",
    )?;
    // In the crash this is open.
    let mut open = connect(&server)?;
    open.batch_execute("BEGIN")?;
    each(&mut open, "c", "SELECT rl_enforce('LIMITER', 'KEY', 20)")?;
    for (key, left) in [("a", 90), ("b", 97)] {
        ensure_left(&mut session, key, left)?;
    }
    server.restart(Stop::Immediate)?;
    let mut session = connect(&server)?;
    for (key, left) in [("a", 90), ("b", 97), ("c", 100)] {
        ensure_left(&mut session, key, left)?;
    }
    for round in 1..=3 {
        each(&mut session, "a", "SELECT rl_enforce('LIMITER', 'KEY', 2)")?;
        session.ask::<i64>("SELECT rl_purge()")?;
        session = ensure_survives(&mut server, "after folding")?;
        each(&mut session, "a", "SELECT rl_enforce('LIMITER', 'KEY', 3)")?;
        session = ensure_survives(&mut server, "with counts and a ledger")?;
        ensure_left(&mut session, "a", 90 - 5 * round)?;
    }
    // The quota is used up exactly, and a clean stop changes nothing.
    server.restart(Stop::Fast)?;
    let mut session = connect(&server)?;
    for name in names() {
        let taken: i64 = session.ask(&format!("SELECT rl_take('{name}', 'a', 1000)"))?;
        ensure!(taken == if name == "two_rules" { 25 } else { 75 }, "{name}: {taken} taken");
    }
    server.restart(Stop::Immediate)?;
    let mut session = connect(&server)?;
    for name in names() {
        ensure!(!session.takes(name, "a")?, "{name}: more than the quota");
    }
    Ok(())
}

/// Statements after 40 were taken, and what they leave of 100 in the end.
const DEEDS: &[(&str, i64)] = &[
    ("SELECT rl_refund('LIMITER', 'KEY', 10)", 70),
    ("BEGIN; SELECT rl_refund('LIMITER', 'KEY', 10); ROLLBACK", 60),
    ("SELECT rl_refund('LIMITER', 'KEY', 1000)", 100),
    ("BEGIN; SELECT rl_enforce('LIMITER', 'KEY', 5), rl_refund('LIMITER', 'KEY', 10); COMMIT", 65),
    ("BEGIN; SELECT rl_enforce('LIMITER', 'KEY', 5), rl_refund('LIMITER', 'KEY', 3); COMMIT", 58),
    ("SELECT rl_penalize('LIMITER', 'KEY', 5)", 55),
    ("BEGIN; SELECT rl_penalize('LIMITER', 'KEY', 5); ROLLBACK", 60),
    ("SELECT rl_reset('LIMITER', 'KEY')", 100),
    ("BEGIN; SELECT rl_reset('LIMITER', 'KEY'); ROLLBACK", 60),
    ("BEGIN; SAVEPOINT s; SELECT rl_reset('LIMITER', 'KEY'); ROLLBACK TO s; COMMIT", 60),
    ("BEGIN; SAVEPOINT s; SELECT rl_reset('LIMITER', 'KEY'); RELEASE s; COMMIT", 100),
    ("SELECT rl_reset_all('LIMITER')", 100),
    ("BEGIN; SELECT rl_reset_all('LIMITER'); ROLLBACK", 60),
    ("BEGIN; SELECT rl_reset_all('LIMITER'), rl_enforce('LIMITER', 'KEY', 1); COMMIT", 99),
];

fn refunds_and_resets(bed: &Bed) -> Result<()> {
    deeds(bed, DEEDS)
}

/// A reset forgets what its transaction did before, and nothing that it does afterwards.
const RESETS: &[(&str, i64)] = &[
    ("BEGIN; SELECT rl_enforce('LIMITER', 'KEY', 4); SELECT rl_reset('LIMITER', 'KEY'); COMMIT", 100),
    ("BEGIN; SELECT rl_reset('LIMITER', 'KEY'); SELECT rl_enforce('LIMITER', 'KEY', 4); COMMIT", 96),
    (
        "BEGIN; SELECT rl_enforce('LIMITER', 'KEY', 4); SELECT rl_reset('LIMITER', 'KEY');
         SELECT rl_enforce('LIMITER', 'KEY', 1); COMMIT",
        99,
    ),
    (
        "BEGIN; SELECT rl_refund('LIMITER', 'KEY', 9); SELECT rl_reset('LIMITER', 'KEY');
         SELECT rl_enforce('LIMITER', 'KEY', 4); COMMIT",
        96,
    ),
    (
        "BEGIN; SELECT rl_refund('LIMITER', 'KEY', 9); SAVEPOINT s; SELECT rl_reset('LIMITER', 'KEY');
         SELECT rl_enforce('LIMITER', 'KEY', 4); RELEASE s; COMMIT",
        96,
    ),
    (
        "BEGIN; SELECT rl_reset('LIMITER', 'KEY'); SELECT rl_enforce('LIMITER', 'KEY', 4);
         SELECT rl_refund('LIMITER', 'KEY', 1); COMMIT",
        97,
    ),
];

fn resets_forget(bed: &Bed) -> Result<()> {
    deeds(bed, RESETS)
}

fn deeds(bed: &Bed, deeds: &[(&str, i64)]) -> Result<()> {
    let mut server = start(bed)?;
    let mut session = limiters(&server)?;
    let mut wrong = Vec::new();
    let mut check = |session: &mut Client, key: &str, deed: &str, left: i64| {
        if let Err(error) = ensure_left(session, key, left) {
            wrong.push(format!("{error} after {deed}"));
        }
    };
    let key = |n: usize| format!("key {n}");
    let alone = |deed: &str| deed.contains("rl_reset_all");
    for (n, (deed, left)) in deeds.iter().enumerate() {
        if !alone(deed) {
            each(&mut session, &key(n), "SELECT rl_enforce('LIMITER', 'KEY', 40)")?;
            each(&mut session, &key(n), deed)?;
            check(&mut session, &key(n), deed, *left);
        }
    }
    for folded in [false, true] {
        if folded {
            session.ask::<i64>("SELECT rl_purge()")?;
        }
        server.restart(Stop::Immediate)?;
        session = connect(&server)?;
        for (n, (deed, left)) in deeds.iter().enumerate().filter(|(_, (deed, _))| !alone(deed)) {
            check(&mut session, &key(n), &format!("a crash and {deed}"), *left);
        }
    }
    for (n, (deed, left)) in deeds.iter().enumerate().filter(|(_, (deed, _))| alone(deed)) {
        each(&mut session, &key(n), "SELECT rl_enforce('LIMITER', 'KEY', 40)")?;
        each(&mut session, &key(n), deed)?;
        check(&mut session, &key(n), deed, *left);
        server.restart(Stop::Immediate)?;
        session = connect(&server)?;
        check(&mut session, &key(n), &format!("a crash and {deed}"), *left);
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// The rows of both ledgers.
pub fn ledgers(session: &mut Client) -> Result<(i64, i64)> {
    let mut rows = |n| session.ask::<i64>(&format!("SELECT count(*) FROM rl_ledger_{n}"));
    Ok((rows(0)?, rows(1)?))
}

fn a_row_that_comes_after_a_fold(bed: &Bed) -> Result<()> {
    let mut server = start(bed)?;
    let mut session = limiters(&server)?;
    for round in 1..=2 {
        let mut long = connect(&server)?;
        long.batch_execute("BEGIN")?;
        each(&mut long, "a", "SELECT rl_enforce('LIMITER', 'KEY', 1)")?;
        each(&mut session, "a", "SELECT rl_enforce('LIMITER', 'KEY', 2)")?;
        ensure!(session.ask::<i64>("SELECT rl_purge()")? == 0, "a ledger in use was folded");
        each(&mut session, "a", "SELECT rl_enforce('LIMITER', 'KEY', 3)")?;
        each(&mut long, "a", "SELECT rl_enforce('LIMITER', 'KEY', 4)")?;
        long.batch_execute("COMMIT")?;
        let (one, other) = ledgers(&mut session)?;
        ensure!(one > 0 && other > 0, "one ledger is empty: {one} and {other} rows");
        ensure_left(&mut session, "a", 100 - 10 * round)?;
        session = ensure_survives(&mut server, "both ledgers have rows")?;
        for _ in 0..3 {
            session.ask::<i64>("SELECT rl_purge()")?;
            session = ensure_survives(&mut server, "folded")?;
        }
        ensure!(ledgers(&mut session)? == (0, 0), "{:?} rows are left", ledgers(&mut session)?);
    }
    ensure_left(&mut session, "a", 80)
}

fn folding_waits_for_nobody(bed: &Bed) -> Result<()> {
    let mut server = start(bed)?;
    let mut session = limiters(&server)?;
    let mut long = connect(&server)?;
    long.batch_execute("BEGIN; SELECT rl_enforce('token_bucket', 'b', 1)")?;
    for n in 1..=5 {
        each(&mut session, "a", "SELECT rl_enforce('LIMITER', 'KEY', 2)")?;
        let start = std::time::Instant::now();
        ensure!(session.ask::<i64>("SELECT rl_purge()")? == 0, "a ledger in use was folded");
        ensure!(start.elapsed().as_secs() < 5, "folding waited");
        ensure_left(&mut session, "a", 100 - 2 * n)?;
    }
    long.batch_execute("ROLLBACK")?;
    ensure!(session.ask::<i64>("SELECT rl_purge()")? > 0, "nothing was folded");
    session = ensure_survives(&mut server, "the first ledger is folded")?;
    ensure!(session.ask::<i64>("SELECT rl_purge()")? > 0, "nothing was folded");
    session = ensure_survives(&mut server, "both are folded")?;
    ensure!(ledgers(&mut session)? == (0, 0));
    ensure_left(&mut session, "a", 90)
}

fn a_long_log_survives_folding(bed: &Bed) -> Result<()> {
    let mut server = start(bed)?;
    let mut session = limiters(&server)?;
    Kind::Durable.create(&mut session, "long", &format!("1000 per {AGE}"), "sliding_log")?;
    // Both in few transactions and in many, so that times are equal and differ.
    for left in [600, 500, 100, 0] {
        let statement = if left % 500 == 0 {
            "DO $$ BEGIN FOR n IN 1..100 LOOP PERFORM rl_enforce('long', 'key'); COMMIT; END LOOP; END $$"
        } else {
            "SELECT rl_enforce('long', 'key', 400)"
        };
        session.batch_execute(statement)?;
        session.ask::<i64>("SELECT rl_purge()")?;
        server.restart(Stop::Immediate)?;
        session = connect(&server)?;
        let found = session.left("long", "key")?;
        ensure!(found == left, "{found} left instead of {left}");
    }
    Ok(())
}
