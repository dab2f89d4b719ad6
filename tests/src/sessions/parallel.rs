//! Parallel queries: decisions are made by the leader.

use anyhow::{ensure, Result};
use postgres::Client;

use super::ask::{ensure_code, Ask};
use super::Test;
use crate::bed::Bed;

pub const TESTS: &[Test] = &[
    ("a_parallel_worker_is_refused", a_parallel_worker_is_refused),
    ("a_parallel_plan_decides_in_the_leader", a_parallel_plan_decides_in_the_leader),
    ("a_large_parallel_scan_is_limited_exactly", a_large_parallel_scan_is_limited_exactly),
];

/// A session whose plans are parallel wherever they may be.
fn parallel(bed: &Bed, name: &str) -> Result<Client> {
    let database = bed.database(name)?;
    let mut session = database.connect()?;
    let force = if bed.tree().major >= 16 { "debug_parallel_query" } else { "force_parallel_mode" };
    session.batch_execute(&format!("SET {force} = on"))?;
    Ok(session)
}

fn a_parallel_worker_is_refused(bed: &Bed) -> Result<()> {
    let mut session = parallel(bed, "a_parallel_worker")?;
    session.limiter("api", 10)?;
    session.batch_execute(
        "CREATE FUNCTION wrong() RETURNS boolean LANGUAGE plpgsql PARALLEL SAFE
            AS $$ BEGIN RETURN rl_try_acquire('api', 'key'); END $$",
    )?;
    let error = session.refused("SELECT wrong()")?;
    ensure_code(&error, "0A000")?;
    ensure!(error.hint().is_some_and(|hint| hint.contains("PARALLEL SAFE")), "no hint");
    ensure!(session.left("api", "key")? == 10, "the worker took one");
    Ok(())
}

fn a_parallel_plan_decides_in_the_leader(bed: &Bed) -> Result<()> {
    let mut session = parallel(bed, "a_parallel_plan")?;
    session.limiter("api", 10)?;
    for left in (0..10).rev() {
        ensure!(session.takes("api", "key")?);
        ensure!(session.left("api", "key")? == left);
    }
    ensure!(!session.takes("api", "key")?);
    Ok(())
}

fn a_large_parallel_scan_is_limited_exactly(bed: &Bed) -> Result<()> {
    let database = bed.database("a_large_parallel_scan")?;
    let mut session = database.connect()?;
    session.limiter("api", 10)?;
    session.batch_execute(
        "CREATE TABLE calls AS SELECT n % 5 AS key FROM generate_series(1, 20000) AS n;
         ANALYZE calls;
         SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0",
    )?;
    let query = "SELECT count(*) FILTER (WHERE rl_try_acquire('api', key::text)) FROM calls WHERE sqrt(key) >= 0";
    let plan = session.query(&format!("EXPLAIN {query}"), &[])?;
    let parallel = plan.iter().any(|line| line.get::<_, String>(0).contains("Gather"));
    ensure!(parallel, "the plan is not parallel: {plan:?}");
    let admitted: i64 = session.ask(query)?;
    ensure!(admitted == 50, "{admitted} admitted of 10 for each of 5 keys");
    Ok(())
}
