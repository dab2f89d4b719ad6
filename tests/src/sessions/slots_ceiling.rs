//! How many slots a server can hold: when there are no more it says so itself, long before others find the lock table full.

use anyhow::{ensure, Result};
use postgres::Client;
use testbed::Server;

use super::ask::{ensure_code, Ask};
use super::queue::{queued, Waiting};
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("slots_leave_most_of_a_small_lock_table_to_others", |bed| {
        leave_room(&bed.private().setting("max_locks_per_transaction", "10").start()?)
    }),
    ("slots_leave_half_of_the_lock_table_whatever_the_setting", |bed| {
        let server = bed
            .private()
            .setting("max_locks_per_transaction", "10")
            .setting("ratelimit.max_slots", "1000000")
            .start()?;
        leave_room(&server)
    }),
    ("a_waiter_hears_that_the_server_can_hold_no_more_slots", a_waiter_hears),
];

/// Takes slots until there are none; returns how many.
fn take_all(session: &mut Client, limiter: &str) -> Result<i64> {
    let mut taken = 0;
    loop {
        match session
            .ask::<bool>(&format!("SELECT rl_try_session_slot('{limiter}', 'key {taken}')"))
        {
            Ok(_) => taken += 1,
            Err(_) => return Ok(taken),
        }
    }
}

fn leave_room(server: &Server) -> Result<()> {
    let database = Database::new(server, "ceiling")?;
    let mut holder = database.connect()?;
    let mut others = (0..10).map(|_| database.connect()).collect::<Result<Vec<_>>>()?;
    holder.batch_execute(
        "SELECT rl_create_limiter('many', max_concurrent => 1000000);
         SELECT rl_create_limiter('rates', '10 per day', max_concurrent => 5)",
    )?;
    for n in 0..10 {
        holder.batch_execute(&format!("CREATE TABLE table_{n} ()"))?;
    }
    let most: i64 = holder.ask("SELECT max_slots FROM rl_info()")?;
    ensure!(most > 100, "only {most} slots");

    let taken = take_all(&mut holder, "many")?;
    ensure!(taken == most, "{taken} of {most} slots were taken");
    for call in [
        "SELECT rl_try_slot('many', 'another')",
        "SELECT rl_slot('many', 'another')",
        "SELECT rl_try_session_slot('many', 'another')",
        "SELECT rl_try_lease('many', 'another', '1 s')",
        "SELECT rl_lease('many', 'another', '1 s')",
        "SELECT rl_try_acquire('rates', 'key')",
        "SELECT rl_check_all('{rates,many}', '{key,key}')",
    ] {
        for session in [&mut holder, &mut others[0]] {
            let error = session.refused(call)?;
            ensure_code(&error, "53400")?;
            ensure!(error.hint().is_some_and(|hint| hint.contains("ratelimit.max_slots")));
        }
    }
    ensure!(holder.left("rates", "key")? == 10, "a cost was taken without its slot");

    // The others have as many locks as the server promises to each: ten, and some more.
    for session in &mut others {
        session.batch_execute("BEGIN")?;
        for n in 0..10 {
            session.batch_execute(&format!("LOCK TABLE table_{n} IN ACCESS SHARE MODE; SELECT pg_advisory_xact_lock_shared({n})"))?;
        }
        session.batch_execute(
            "SELECT count(*) FROM pg_class JOIN pg_locks ON relation = pg_class.oid",
        )?;
    }
    // What one gives back another can have.
    ensure!(holder.ask::<bool>("SELECT rl_release_session_slot('many', 'key 0')")?);
    ensure!(others[0].ask::<bool>("SELECT rl_try_slot('many', 'key')")?);
    ensure_code(&holder.refused("SELECT rl_try_slot('many', 'key')")?, "53400")?;
    for session in &mut others {
        session.batch_execute("ROLLBACK")?;
    }
    holder.batch_execute("DISCARD ALL")?;
    ensure!(holder.ask::<i64>("SELECT slots FROM rl_info()")? == 0, "some were not given back");
    ensure!(take_all(&mut holder, "many")? == most, "fewer can be taken again");
    Ok(())
}

fn a_waiter_hears(bed: &Bed) -> Result<()> {
    let server = bed.private().setting("ratelimit.max_slots", "3").start()?;
    let database = Database::new(&server, "ceiling")?;
    let (mut holder, mut observer) = (database.connect()?, database.connect()?);
    holder.batch_execute(
        "SELECT rl_create_limiter('one', max_concurrent => 1), rl_create_limiter('many', max_concurrent => 9)",
    )?;
    holder.batch_execute("BEGIN; SELECT rl_try_slot('one', 'key'), rl_try_slot('many', 'key')")?;
    let waiter = Waiting::<bool>::start(database.connect()?, "SELECT rl_slot('one', 'key')")?;
    queued(&mut observer, 1)?;
    // The place that the holder leaves is for the waiter, and not for somebody else who wants the server's last.
    holder.batch_execute("SELECT rl_try_slot('many', 'key')")?;
    ensure_code(&observer.refused("SELECT rl_try_slot('many', 'key')")?, "53400")?;
    holder.batch_execute("COMMIT")?;
    ensure!(waiter.answer()?.1, "the waiter gave up");

    // Where a limit is raised and there is room for the waiter, but none in the server, nothing would ever wake it.
    holder.batch_execute(
        "BEGIN; SELECT rl_try_slot('one', 'key'), rl_try_slot('many', 'key'), rl_try_slot('many', 'key')",
    )?;
    let waiter = Waiting::<bool>::start(database.connect()?, "SELECT rl_slot('one', 'key')")?;
    queued(&mut observer, 1)?;
    observer.batch_execute("UPDATE rl_limiters SET max_concurrent = 2 WHERE name = 'one'")?;
    waiter.ensure_refused("53400")
}
