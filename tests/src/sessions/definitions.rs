//! When a changed definition is obeyed, and what it leaves of the counts. Interleavings of two sessions are in
//! `isolation/specs`.

use anyhow::{ensure, Result};
use postgres::Client;
use testbed::Stop;

use super::ask::{ensure_code, eventually, Ask, AGE};
use super::kinds::{Kind, ALGORITHMS};
use super::purging::{connect, durable, start};
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("a_running_statement_sees_a_change", a_running_statement_sees_a_change),
    ("a_change_with_triggers_off_is_seen", a_change_with_triggers_off_is_seen),
    ("a_prepared_transaction_changes_when_it_commits", a_prepared_transaction_changes),
    ("truncate_is_seen", truncate_is_seen),
    ("a_new_quota_keeps_what_was_used", a_new_quota_keeps_what_was_used),
    ("a_new_algorithm_starts_afresh", a_new_algorithm_starts_afresh),
    ("a_limiter_created_again_starts_afresh", a_limiter_created_again_starts_afresh),
    ("an_extension_created_again_starts_afresh", an_extension_created_again_starts_afresh),
    ("a_database_created_again_starts_afresh", a_database_created_again_starts_afresh),
    ("a_database_made_from_a_template_starts_afresh", a_database_made_from_a_template),
    ("databases_do_not_share_limiters", databases_do_not_share_limiters),
    ("a_renamed_limiter_keeps_its_counts", a_renamed_limiter_keeps_its_counts),
    ("a_changed_storage_begins_afresh_and_undoes_nothing_twice", a_changed_storage),
];

/// A limiter of which one key has nothing left.
fn used_up(session: &mut Client) -> Result<()> {
    session.limiter("api", 2)?;
    ensure!(session.takes("api", "key")? && session.takes("api", "key")?);
    ensure!(!session.takes("api", "key")?);
    Ok(())
}

fn a_running_statement_sees_a_change(bed: &Bed) -> Result<()> {
    let database = bed.database("a_running_statement")?;
    let (mut admin, mut worker) = (database.connect()?, database.connect()?);
    admin.limiter("api", 10)?;
    let seen = std::thread::scope(|scope| {
        let running = scope.spawn(move || {
            worker.batch_execute(
                "DO $$
                 BEGIN
                     PERFORM rl_try_acquire('api', 'started');
                     FOR n IN 1..300 LOOP
                         EXIT WHEN (rl_peek('api', 'key')).quota = 20;
                         PERFORM pg_sleep(0.1);
                     END LOOP;
                     ASSERT (rl_peek('api', 'key')).quota = 20;
                 END $$",
            )
        });
        eventually("the statement runs", || Ok(admin.left("api", "started")? == 9))?;
        admin.batch_execute("UPDATE rl_rules SET quota = 20")?;
        running.join().map_err(|_| anyhow::anyhow!("the statement panicked"))
    })?;
    Ok(seen?)
}

fn a_change_with_triggers_off_is_seen(bed: &Bed) -> Result<()> {
    let database = bed.database("a_change_with_triggers_off")?;
    let (mut admin, mut session) = (database.connect()?, database.connect()?);
    admin.limiter("api", 10)?;
    ensure!(session.quota("api")? == 10);
    // As logical replication and pg_restore --disable-triggers do.
    admin
        .batch_execute("SET session_replication_role = replica; UPDATE rl_rules SET quota = 20")?;
    ensure!(session.quota("api")? == 20, "the change was not seen");
    Ok(())
}

fn a_prepared_transaction_changes(bed: &Bed) -> Result<()> {
    let server = bed.private().setting("max_prepared_transactions", "2").start()?;
    let database = Database::new(&server, "prepared")?;
    let (mut admin, mut session) = (database.connect()?, database.connect()?);
    admin.limiter("api", 10)?;
    let quotas = |admin: &mut Client, session: &mut Client| -> Result<_> {
        Ok((admin.quota("api")?, session.quota("api")?))
    };
    ensure!(quotas(&mut admin, &mut session)? == (10, 10));
    let prepare = "BEGIN; UPDATE rl_rules SET quota = 20; SELECT rl_peek('api', 'key'); PREPARE TRANSACTION 'change'";
    admin.batch_execute(prepare)?;
    ensure!(quotas(&mut admin, &mut session)? == (10, 10), "seen when prepared");
    admin.batch_execute("ROLLBACK PREPARED 'change'")?;
    ensure!(quotas(&mut admin, &mut session)? == (10, 10), "seen when rolled back");
    admin.batch_execute(prepare)?;
    admin.batch_execute("COMMIT PREPARED 'change'")?;
    ensure!(quotas(&mut admin, &mut session)? == (20, 20), "not seen when committed");
    Ok(())
}

fn truncate_is_seen(bed: &Bed) -> Result<()> {
    let database = bed.database("truncate_is_seen")?;
    let (mut admin, mut session) = (database.connect()?, database.connect()?);
    admin.limiter("api", 10)?;
    ensure!(session.takes("api", "key")?);
    admin.batch_execute("TRUNCATE rl_rules")?;
    ensure_code(&session.refused("SELECT rl_try_acquire('api', 'key')")?, "55000")?;
    admin.batch_execute("TRUNCATE rl_limiters CASCADE")?;
    ensure_code(&session.refused("SELECT rl_try_acquire('api', 'key')")?, "42704")
}

fn a_new_quota_keeps_what_was_used(bed: &Bed) -> Result<()> {
    let database = bed.database("a_new_quota")?;
    let mut session = database.connect()?;
    for algorithm in ["fixed_window", "sliding_window", "sliding_log"] {
        session.execute(
            "SELECT rl_create_limiter($1, '10 per 36500 days', $1::text::rl_algorithm)",
            &[&algorithm],
        )?;
        session.ask::<i64>(&format!("SELECT rl_take('{algorithm}', 'key', 7)"))?;
        for (quota, left) in [(20, 13), (8, 1), (5, 0), (10, 3)] {
            session.execute(
                "UPDATE rl_rules SET quota = $1 WHERE limiter = $2",
                &[&i64::from(quota), &algorithm],
            )?;
            let found = session.left(algorithm, "key")?;
            ensure!(found == left, "{algorithm}: {found} left of {quota} after 7");
        }
    }
    Ok(())
}

fn a_new_algorithm_starts_afresh(bed: &Bed) -> Result<()> {
    let database = bed.database("a_new_algorithm")?;
    let mut session = database.connect()?;
    used_up(&mut session)?;
    for algorithm in ["sliding_log", "fixed_window", "sliding_window", "token_bucket"] {
        session.batch_execute(&format!("UPDATE rl_rules SET algorithm = '{algorithm}'"))?;
        ensure!(session.left("api", "key")? == 2, "{algorithm} does not start afresh");
        session.ask::<i64>("SELECT rl_take('api', 'key', 2)")?;
    }
    Ok(())
}

fn a_limiter_created_again_starts_afresh(bed: &Bed) -> Result<()> {
    let database = bed.database("a_limiter_created_again")?;
    let (mut session, mut other) = (database.connect()?, database.connect()?);
    used_up(&mut session)?;
    ensure!(!other.takes("api", "key")?);
    session.ask::<bool>("SELECT rl_drop_limiter('api')")?;
    ensure_code(&other.refused("SELECT rl_try_acquire('api', 'key')")?, "42704")?;
    session.limiter("api", 2)?;
    ensure!(other.takes("api", "key")?, "it inherits from the old one");
    Ok(())
}

fn an_extension_created_again_starts_afresh(bed: &Bed) -> Result<()> {
    let database = bed.database("an_extension_created_again")?;
    let (mut session, mut other) = (database.connect()?, database.connect()?);
    used_up(&mut session)?;
    ensure!(!other.takes("api", "key")?);
    session.batch_execute("DROP EXTENSION ratelimit; CREATE EXTENSION ratelimit")?;
    ensure_code(&other.refused("SELECT rl_try_acquire('api', 'key')")?, "42704")?;
    session.limiter("api", 2)?;
    ensure!(other.takes("api", "key")?, "it inherits from the old one");
    ensure!(session.takes("api", "key")? && !session.takes("api", "key")?);
    Ok(())
}

fn a_database_created_again_starts_afresh(bed: &Bed) -> Result<()> {
    let database = bed.database("a_database_created_again")?;
    used_up(&mut database.connect()?)?;
    let mut admin = database.server().connect()?;
    admin.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", database.name()))?;
    let again = Database::new(database.server(), database.name())?;
    used_up(&mut again.connect()?)
}

fn a_database_made_from_a_template(bed: &Bed) -> Result<()> {
    let database = bed.database("the_template")?;
    used_up(&mut database.connect()?)?;
    let mut admin = database.server().connect()?;
    let create = format!("CREATE DATABASE made_from_a_template TEMPLATE {}", database.name());
    // The session above may still be on its way out.
    eventually("nobody uses the template", || Ok(admin.batch_execute(&create).is_ok()))?;
    let mut copy = database.server().connect_to("made_from_a_template", "postgres")?;
    ensure!(copy.left("api", "key")? == 2, "it inherits from its template");
    Ok(())
}

fn databases_do_not_share_limiters(bed: &Bed) -> Result<()> {
    let one = bed.database("one_database")?;
    let other = Database::new(one.server(), "another_database")?;
    used_up(&mut one.connect()?)?;
    let mut other = other.connect()?;
    ensure_code(&other.refused("SELECT rl_try_acquire('api', 'key')")?, "42704")?;
    used_up(&mut other)
}

fn a_renamed_limiter_keeps_its_counts(bed: &Bed) -> Result<()> {
    let (mut server, mut session) = start(bed, true)?;
    durable(&mut session, "api", &format!("10 per {AGE}"))?;
    let mut open = connect(&server)?;
    open.batch_execute("BEGIN; SELECT rl_enforce('api', 'key', 3)")?;
    session.batch_execute("SELECT rl_enforce('api', 'key', 1)")?;
    session.batch_execute("UPDATE rl_limiters SET name = 'public'")?;
    ensure!(session.left("public", "key")? == 6);
    open.batch_execute("SELECT rl_enforce('public', 'key', 1); COMMIT")?;
    for _ in 0..2 {
        ensure!(session.left("public", "key")? == 5, "{} left", session.left("public", "key")?);
        session.ask::<i64>("SELECT rl_purge()")?;
        server.restart(Stop::Immediate)?;
        session = connect(&server)?;
    }
    Ok(())
}

fn a_changed_storage(bed: &Bed) -> Result<()> {
    let database = bed.database("changed_storage")?;
    let (mut session, mut open) = (database.connect()?, database.connect()?);
    for name in ALGORITHMS {
        Kind::Refund.create(&mut session, name, &format!("10 per {AGE}"), name)?;
        let mut change = |storage: &str| {
            session.batch_execute(&format!(
                "UPDATE rl_limiters SET storage = '{storage}' WHERE name = '{name}'"
            ))
        };
        let take = |cost: i64| format!("SELECT rl_enforce('{name}', 'key', {cost})");
        open.batch_execute(&format!("BEGIN; {}", take(5)))?;
        change("durable")?;
        let mut other = database.connect()?;
        other.batch_execute(&take(3))?;
        open.batch_execute(&take(1))?;
        ensure!(other.left(name, "key")? == 6, "{name}: {} left", other.left(name, "key")?);
        open.batch_execute("ROLLBACK")?;
        ensure!(other.left(name, "key")? == 7, "{name}: {} left", other.left(name, "key")?);
        // Back in memory, nothing of the first transaction is there any more.
        change("memory")?;
        ensure!(other.left(name, "key")? == 10, "{name}: {} left", other.left(name, "key")?);
        change("durable")?;
        ensure!(other.left(name, "key")? == 7, "{name}: {} left", other.left(name, "key")?);
    }
    Ok(())
}
