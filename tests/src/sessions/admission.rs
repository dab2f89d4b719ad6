//! However many sessions ask for one key, exactly what the definition allows is admitted.

use anyhow::{ensure, Result};

use super::ask::{Ask, AGE};
use super::crowd::Crowd;
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("token_bucket_admits_exactly_its_quota", |bed| admits_exactly(bed, "token_bucket")),
    ("fixed_window_admits_exactly_its_quota", |bed| admits_exactly(bed, "fixed_window")),
    ("sliding_window_admits_exactly_its_quota", |bed| admits_exactly(bed, "sliding_window")),
    ("sliding_log_admits_exactly_its_quota", |bed| admits_exactly(bed, "sliding_log")),
    ("several_rules_admit_exactly_the_least_quota", several_rules_admit_exactly_the_least_quota),
    ("a_cost_is_taken_whole_or_not_at_all", a_cost_is_taken_whole_or_not_at_all),
    ("rl_take_shares_out_exactly_the_quota", rl_take_shares_out_exactly_the_quota),
    ("rl_try_acquire_many_admits_exactly_the_quota", rl_try_acquire_many_admits_exactly_the_quota),
    ("rl_check_all_in_opposite_orders_is_exact", rl_check_all_in_opposite_orders_is_exact),
    ("what_is_refunded_can_be_taken_again", what_is_refunded_can_be_taken_again),
    ("limits_given_in_the_call_admit_exactly_the_quota", given_in_the_call),
    ("a_quota_raised_under_load_is_used_up_exactly", a_quota_raised_under_load_is_used_up_exactly),
];

const ALGORITHMS: [&str; 4] = ["token_bucket", "fixed_window", "sliding_window", "sliding_log"];
const SESSIONS: usize = 32;

fn create(database: &Database, limiter: &str, rates: &str, algorithm: &str) -> Result<()> {
    let create = format!("SELECT rl_create_limiter('{limiter}', '{rates}', '{algorithm}')");
    database.connect()?.ask::<String>(&create)?;
    Ok(())
}

fn admits_exactly(bed: &Bed, algorithm: &str) -> Result<()> {
    let database = bed.database(&format!("{algorithm}_admits_exactly"))?;
    let mut crowd = Crowd::gather(&database, SESSIONS)?;
    for quota in [100, 1_000] {
        let limiter = format!("of_{quota}");
        create(&database, &limiter, &format!("{quota} per {AGE}"), algorithm)?;
        // Four times as many as pass.
        let calls = quota / 8;
        for round in 1..=20 {
            let admitted = crowd.sum(&format!(
                "SELECT count(*) FROM generate_series(1, {calls}) WHERE rl_try_acquire('{limiter}', 'key {round}')"
            ))?;
            ensure!(admitted == quota, "round {round}: {admitted} of {quota} admitted");
        }
    }
    Ok(())
}

fn several_rules_admit_exactly_the_least_quota(bed: &Bed) -> Result<()> {
    let database = bed.database("several_rules_admit_exactly")?;
    let mut session = database.connect()?;
    let mut crowd = Crowd::gather(&database, SESSIONS)?;
    for algorithm in ALGORITHMS {
        let rates = format!("300 per {AGE}, 200 per 73000 days, 500 per 109500 days");
        create(&database, algorithm, &rates, algorithm)?;
        let admitted = crowd.sum(&format!(
            "SELECT count(*) FROM generate_series(1, 100) WHERE (rl_check('{algorithm}', 'key')).allowed"
        ))?;
        ensure!(admitted == 200, "{algorithm}: {admitted} of 200 admitted");
        // What the second rule refused, the others did not count.
        let delete = "DELETE FROM rl_rules WHERE limiter = $1 AND position = 2";
        session.execute(delete, &[&algorithm])?;
        let left = session.left(algorithm, "key")?;
        ensure!(left == 100, "{algorithm}: {left} left by the first rule");
    }
    Ok(())
}

fn a_cost_is_taken_whole_or_not_at_all(bed: &Bed) -> Result<()> {
    let database = bed.database("a_cost_is_taken_whole")?;
    let mut session = database.connect()?;
    let mut crowd = Crowd::gather(&database, SESSIONS)?;
    for algorithm in ALGORITHMS {
        create(&database, algorithm, &format!("1000 per {AGE}"), algorithm)?;
        let admitted = crowd.sum(&format!(
            "SELECT count(*) FROM generate_series(1, 50) WHERE rl_try_acquire('{algorithm}', 'key', 7)"
        ))?;
        let left = session.left(algorithm, "key")?;
        ensure!((admitted, left) == (142, 6), "{algorithm}: {admitted} times 7, {left} left");
    }
    Ok(())
}

fn rl_take_shares_out_exactly_the_quota(bed: &Bed) -> Result<()> {
    let database = bed.database("rl_take_shares_out")?;
    let mut crowd = Crowd::gather(&database, SESSIONS)?;
    for algorithm in ALGORITHMS {
        create(&database, algorithm, &format!("1000 per {AGE}"), algorithm)?;
        let taken = crowd.sum(&format!(
            "SELECT sum(rl_take('{algorithm}', 'key', 7))::bigint FROM generate_series(1, 50)"
        ))?;
        ensure!(taken == 1_000, "{algorithm}: {taken} of 1000 taken");
    }
    Ok(())
}

fn rl_try_acquire_many_admits_exactly_the_quota(bed: &Bed) -> Result<()> {
    let database = bed.database("rl_try_acquire_many_admits")?;
    create(&database, "api", &format!("100 per {AGE}"), "token_bucket")?;
    let admitted = Crowd::gather(&database, SESSIONS)?.sum(
        "SELECT count(*) FROM unnest(rl_try_acquire_many('api',
             (SELECT array_agg('key ' || n % 5) FROM generate_series(1, 500) AS n))) AS allowed WHERE allowed",
    )?;
    ensure!(admitted == 500, "{admitted} admitted of 100 for each of 5 keys");
    Ok(())
}

fn rl_check_all_in_opposite_orders_is_exact(bed: &Bed) -> Result<()> {
    let database = bed.database("rl_check_all_in_opposite_orders")?;
    let mut session = database.connect()?;
    let mut crowd = Crowd::gather(&database, SESSIONS)?;
    for algorithm in ALGORITHMS {
        create(&database, algorithm, &format!("300 per {AGE}"), algorithm)?;
        // Each pair of three keys, in both orders.
        let pairs = [(0, 1), (1, 0), (1, 2), (2, 1), (2, 0), (0, 2)];
        let pair = |n: usize| pairs[n % pairs.len()];
        let admitted = crowd.ask(|n| {
            let (one, other) = pair(n);
            format!(
                "SELECT count(*) FROM generate_series(1, 100)
                  WHERE (rl_check_all('{{{algorithm},{algorithm}}}', '{{{one},{other}}}')).allowed"
            )
        })?;
        let mut with_room = 0;
        for key in 0..3 {
            let of_key = |n: &usize| pair(*n).0 == key || pair(*n).1 == key;
            let counted: i64 = (0..SESSIONS).filter(of_key).map(|n| admitted[n]).sum();
            let left = session.left(algorithm, &key.to_string())?;
            ensure!(counted + left == 300, "{algorithm}: {counted} admitted, {left} left");
            with_room += usize::from(left > 0);
        }
        ensure!(with_room <= 1, "{algorithm}: two keys are left with room");
    }
    Ok(())
}

fn what_is_refunded_can_be_taken_again(bed: &Bed) -> Result<()> {
    let database = bed.database("what_is_refunded")?;
    let mut session = database.connect()?;
    let mut crowd = Crowd::gather(&database, SESSIONS)?;
    for algorithm in ALGORITHMS {
        create(&database, algorithm, &format!("1000 per {AGE}"), algorithm)?;
        let pairs = crowd.sum(&format!(
            "SELECT count(rl_refund('{algorithm}', 'key', 3)) FROM generate_series(1, 100)
              WHERE rl_try_acquire('{algorithm}', 'key', 3)"
        ))?;
        let left = session.left(algorithm, "key")?;
        ensure!(left == 1_000, "{algorithm}: {left} of 1000 left after {pairs} refunds");
    }
    Ok(())
}

fn given_in_the_call(bed: &Bed) -> Result<()> {
    let database = bed.database("given_in_the_call")?;
    let mut crowd = Crowd::gather(&database, SESSIONS)?;
    for function in ["rl_throttle", "rl_sliding_check"] {
        let admitted = crowd.sum(&format!(
            "SELECT count(*) FROM generate_series(1, 100) WHERE ({function}('key', 1000, '{AGE}')).allowed"
        ))?;
        ensure!(admitted == 1_000, "{function}: {admitted} of 1000 admitted");
    }
    Ok(())
}

fn a_quota_raised_under_load_is_used_up_exactly(bed: &Bed) -> Result<()> {
    let database = bed.database("a_quota_raised_under_load")?;
    create(&database, "api", &format!("100 per {AGE}"), "fixed_window")?;
    let mut crowd = Crowd::gather(&database, SESSIONS)?;
    let mut admin = database.connect()?;
    let query = "SELECT count(*) FROM generate_series(1, 1000) WHERE rl_try_acquire('api', 'key')";
    let admitted = std::thread::scope(|scope| {
        let change = scope.spawn(|| admin.batch_execute("UPDATE rl_rules SET quota = 150"));
        let admitted = crowd.sum(query);
        change.join().map_err(|_| anyhow::anyhow!("the change panicked"))??;
        admitted
    })?;
    let rest = crowd.sum(query)?;
    ensure!(admitted + rest == 150, "{admitted} and then {rest} of 150 admitted");
    Ok(())
}
