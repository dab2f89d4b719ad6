//! More keys than there is memory for.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{ensure, Result};
use testbed::Server;

use super::ask::{Ask, AGE};
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("a_denied_key_stays_denied_in_a_flood", a_denied_key_stays_denied_in_a_flood),
    ("nothing_live_is_evicted_before_memory_is_full", |bed| {
        nothing_live_is_evicted(bed, "2 per 36500 days", 1)
    }),
    ("nothing_live_of_several_rules_is_evicted_before_memory_is_full", |bed| {
        // A key takes one place for each rule.
        nothing_live_is_evicted(bed, "2 per 36500 days, 5 per 73000 days", 2)
    }),
    ("on_full_deny_refuses_new_keys", on_full_deny_refuses_new_keys),
    ("on_full_allow_lets_new_keys_pass_uncounted", on_full_allow_lets_new_keys_pass_uncounted),
    ("keys_that_are_all_denied_make_no_room", keys_that_are_all_denied_make_no_room),
    ("expired_keys_make_room", expired_keys_make_room),
    ("logs_that_refuse_nothing_make_room", logs_that_refuse_nothing_make_room),
    ("a_log_can_be_reset_again_and_again", a_log_can_be_reset_again_and_again),
];

const MAX_KEYS: i64 = 1_000;
const FLOOD: i64 = 10 * MAX_KEYS;

fn small_server(bed: &Bed) -> Result<Server> {
    bed.private().setting("ratelimit.max_keys", &MAX_KEYS.to_string()).start()
}

fn evictions(session: &mut impl Ask) -> Result<i64> {
    session.ask("SELECT evictions FROM rl_info()")
}

fn keys(session: &mut impl Ask) -> Result<i64> {
    session.ask("SELECT keys FROM rl_info()")
}

/// So many keys take one each; returns how many passed.
fn flood(session: &mut impl Ask, limiter: &str, keys: i64) -> Result<i64> {
    session.ask(&format!(
        "SELECT count(*) FROM generate_series(1, {keys}) AS n WHERE rl_try_acquire('{limiter}', 'key ' || n)"
    ))
}

fn a_denied_key_stays_denied_in_a_flood(bed: &Bed) -> Result<()> {
    let server = small_server(bed)?;
    let database = Database::new(&server, "flood")?;
    let mut session = database.connect()?;
    session.limiter("api", 5)?;
    ensure!(session.ask::<i64>("SELECT rl_take('api', 'victim', 100)")? == 5);

    const FLOODERS: usize = 4;
    let flooding = AtomicUsize::new(FLOODERS);
    let (mut looks, mut passed) = (0, 0);
    let flooder = |number: usize| {
        let flooded = database.connect().and_then(|mut session| {
            session.ask::<i64>(&format!(
                "SELECT count(*) FROM generate_series(1, {FLOOD})
                  WHERE rl_try_acquire('api', '{number} ' || gen_random_uuid())"
            ))
        });
        flooding.fetch_sub(1, Ordering::Relaxed);
        flooded
    };
    std::thread::scope(|scope| -> Result<()> {
        let flooder = &flooder;
        let threads: Vec<_> = (0..FLOODERS).map(|n| scope.spawn(move || flooder(n))).collect();
        while flooding.load(Ordering::Relaxed) > 0 {
            looks += 1;
            passed += i32::from(session.takes("api", "victim")?);
        }
        for thread in threads {
            let admitted = thread.join().unwrap_or_else(|_| anyhow::bail!("a flooder panicked"))?;
            ensure!(admitted == FLOOD, "{admitted} of {FLOOD} new keys passed");
        }
        Ok(())
    })?;
    ensure!(passed == 0, "the denied key passed {passed} times in {looks}");
    ensure!(!session.takes("api", "victim")?, "the denied key passes after the flood");
    let (evictions, keys) = (evictions(&mut session)?, keys(&mut session)?);
    ensure!(evictions > 0, "there were no evictions");
    ensure!((1..=2 * MAX_KEYS).contains(&keys), "{keys} keys");
    Ok(())
}

fn nothing_live_is_evicted(bed: &Bed, rates: &str, places: i64) -> Result<()> {
    let server = small_server(bed)?;
    let mut session = Database::new(&server, "flood")?.connect()?;
    session.execute("SELECT rl_create_limiter('twice', $1)", &[&rates])?;
    let live = MAX_KEYS * 9 / 10 / places;
    for round in 1..=2 {
        let admitted = flood(&mut session, "twice", live)?;
        ensure!(admitted == live, "round {round}: {admitted} of {live} passed");
    }
    let admitted = flood(&mut session, "twice", live)?;
    ensure!(admitted == 0, "{admitted} keys were forgotten");
    ensure!(keys(&mut session)? == live, "{} keys", keys(&mut session)?);
    ensure!(evictions(&mut session)? == 0, "{} evictions", evictions(&mut session)?);
    Ok(())
}

fn on_full_deny_refuses_new_keys(bed: &Bed) -> Result<()> {
    let server = small_server(bed)?;
    let mut session = Database::new(&server, "flood")?.connect()?;
    session.limiter("twice", 2)?;
    session.batch_execute("SET ratelimit.on_full = deny")?;
    let admitted = flood(&mut session, "twice", FLOOD)?;
    ensure!((MAX_KEYS * 9 / 10..=2 * MAX_KEYS).contains(&admitted), "{admitted} keys passed");
    // Those that are known go on as before.
    let again = flood(&mut session, "twice", FLOOD)?;
    ensure!(again == admitted, "{admitted} keys passed, then {again}");
    ensure!(flood(&mut session, "twice", FLOOD)? == 0, "keys were forgotten");
    ensure!(evictions(&mut session)? == 0, "keys were evicted");
    let denied =
        "SELECT reason = 'rate' AND retry_after > '0' FROM rl_check('twice', 'key ' || 9999)";
    ensure!(session.ask::<bool>(denied)?, "the denial does not say how long");
    Ok(())
}

fn on_full_allow_lets_new_keys_pass_uncounted(bed: &Bed) -> Result<()> {
    let server = small_server(bed)?;
    let mut session = Database::new(&server, "flood")?.connect()?;
    session.limiter("once", 1)?;
    session.batch_execute("SET ratelimit.on_full = allow")?;
    ensure!(flood(&mut session, "once", FLOOD)? == FLOOD, "a new key was denied");
    let counted = keys(&mut session)?;
    ensure!(counted <= 2 * MAX_KEYS, "{counted} keys");
    // Those that are known are denied, the others pass again.
    let again = flood(&mut session, "once", FLOOD)?;
    ensure!(again == FLOOD - counted, "{again} passed again, {counted} keys are known");
    ensure!(evictions(&mut session)? == 0, "keys were evicted");
    Ok(())
}

fn keys_that_are_all_denied_make_no_room(bed: &Bed) -> Result<()> {
    let server = small_server(bed)?;
    let mut session = Database::new(&server, "flood")?.connect()?;
    session.limiter("once", 1)?;
    let admitted = flood(&mut session, "once", FLOOD)?;
    ensure!((MAX_KEYS * 9 / 10..=2 * MAX_KEYS).contains(&admitted), "{admitted} keys passed");
    ensure!(flood(&mut session, "once", FLOOD)? == 0, "a denied key passed again");
    ensure!(evictions(&mut session)? == 0, "a denied key was evicted");
    Ok(())
}

fn expired_keys_make_room(bed: &Bed) -> Result<()> {
    let server = small_server(bed)?;
    let mut session = Database::new(&server, "flood")?.connect()?;
    session.batch_execute("SELECT rl_create_limiter('short', '2 per 2 ms')")?;
    session.limiter("long", 2)?;
    session.ask::<i64>("SELECT rl_take('long', 'key', 1)")?;
    // Each batch outlives the one before it by far, and what is expired goes before anything that is live.
    for batch in 1..=20 {
        let admitted: i64 = session.ask(&format!(
            "SELECT count(*) FROM generate_series(1, 500) AS n WHERE rl_try_acquire('short', '{batch} ' || n)"
        ))?;
        ensure!(admitted == 500, "batch {batch}: {admitted} of 500 passed");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    ensure!(session.left("long", "key")? == 1, "the live key was forgotten");
    ensure!(evictions(&mut session)? == 0, "{} evictions", evictions(&mut session)?);
    let _ = AGE;
    Ok(())
}

fn logs_that_refuse_nothing_make_room(bed: &Bed) -> Result<()> {
    let server = small_server(bed)?;
    let mut session = Database::new(&server, "flood")?.connect()?;
    session.batch_execute("SELECT rl_create_limiter('log', '20 per 36500 days', 'sliding_log')")?;
    // Ten each, half of what the log holds.
    let taken: i64 = session.ask(&format!(
        "SELECT sum(rl_take('log', 'key ' || n, 10))::bigint FROM generate_series(1, {FLOOD}) AS n"
    ))?;
    ensure!(taken == 10 * FLOOD, "{taken} of {} passed", 10 * FLOOD);
    Ok(())
}

fn a_log_can_be_reset_again_and_again(bed: &Bed) -> Result<()> {
    let database = bed.database("a_log_can_be_reset")?;
    let mut session = database.connect()?;
    session
        .batch_execute("SELECT rl_create_limiter('log', '1000 per 36500 days', 'sliding_log')")?;
    for round in 1..=100 {
        let taken: i64 = session.ask("SELECT rl_take('log', 'key', 1000)")?;
        ensure!(taken == 1_000, "round {round}: {taken} of 1000 left");
        ensure!(session.ask::<bool>("SELECT rl_reset('log', 'key')")?);
    }
    Ok(())
}
