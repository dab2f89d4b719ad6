//! Decisions write nothing that PostgreSQL would call a write.

use anyhow::{ensure, Result};

use super::ask::Ask;
use super::Test;
use crate::bed::Bed;

pub const TESTS: &[Test] = &[
    ("read_only_transactions_are_limited", read_only_transactions_are_limited),
    ("default_transaction_read_only_is_limited", default_transaction_read_only_is_limited),
    ("a_call_takes_no_transaction_id_and_no_lock", a_call_takes_no_transaction_id_and_no_lock),
    ("planning_takes_nothing", planning_takes_nothing),
];

/// A call of each function that takes.
const TAKE_ONE: [&str; 6] = [
    "SELECT rl_try_acquire('api', 'key')",
    "SELECT (rl_check('api', 'key')).allowed",
    "SELECT (rl_check_all('{api}', '{key}')).allowed",
    "SELECT (rl_try_acquire_many('api', '{key}'))[1]",
    "SELECT rl_take('api', 'key', 1) = 1",
    "SELECT rl_enforce('api', 'key') IS NOT NULL",
];

fn read_only_transactions_are_limited(bed: &Bed) -> Result<()> {
    let database = bed.database("read_only_transactions")?;
    let mut session = database.connect()?;
    session.limiter("api", TAKE_ONE.len() as i64)?;
    let mut transaction = session.build_transaction().read_only(true).start()?;
    for call in TAKE_ONE {
        ensure!(transaction.ask::<bool>(call)?, "refused: {call}");
    }
    ensure!(!transaction.takes("api", "key")?, "more than the quota passed");
    transaction.rollback()?;
    ensure!(!session.takes("api", "key")?, "a read-only transaction was not counted");
    Ok(())
}

fn default_transaction_read_only_is_limited(bed: &Bed) -> Result<()> {
    let database = bed.database("default_transaction_read_only")?;
    let mut session = database.connect()?;
    session.limiter("api", 1)?;
    session.batch_execute("SET default_transaction_read_only = on")?;
    ensure!(session.takes("api", "key")?);
    ensure!(!session.takes("api", "key")?);
    Ok(())
}

fn a_call_takes_no_transaction_id_and_no_lock(bed: &Bed) -> Result<()> {
    let database = bed.database("no_transaction_id")?;
    database.connect()?.limiter("api", 100)?;
    let mut session = database.connect()?;
    let mut transaction = session.transaction()?;
    // The first call reads the definition, the second knows it, the last ones are denied.
    for _ in 0..20 {
        for call in TAKE_ONE {
            let call = call.replace("rl_enforce", "rl_peek");
            transaction.ask::<bool>(&call)?;
        }
    }
    let assigned = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL";
    ensure!(!transaction.ask::<bool>(assigned)?, "a transaction id was assigned");
    let locks: Option<String> = transaction.ask(
        "SELECT string_agg(concat_ws(' ', locktype, relation::regclass, mode), ', ') FROM pg_locks
          WHERE pid = pg_backend_pid() AND locktype <> 'virtualxid'
            AND NOT (locktype = 'relation' AND relation::regclass::text LIKE 'pg\\_%')",
    )?;
    ensure!(locks.is_none(), "locks are held: {locks:?}");
    Ok(())
}

fn planning_takes_nothing(bed: &Bed) -> Result<()> {
    let database = bed.database("planning_takes_nothing")?;
    let mut session = database.connect()?;
    session.limiter("api", 1)?;
    session.batch_execute("EXPLAIN (VERBOSE) SELECT rl_try_acquire('api', 'key')")?;
    session.batch_execute("EXPLAIN SELECT FROM rl_check('api', 'key') WHERE allowed")?;
    session.prepare("SELECT rl_try_acquire('api', 'key')")?;
    ensure!(session.left("api", "key")? == 1, "planning took one");
    Ok(())
}
