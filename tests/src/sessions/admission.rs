//! However many sessions ask for one key, exactly what the definition allows is admitted.

use anyhow::{ensure, Result};

use super::ask::{eventually, Ask, AGE};
use super::crowd::Crowd;
use super::kinds::{Case, Kind, ALGORITHMS};
use super::{FileTest, Test};
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] =
    &[("limits_given_in_the_call_admit_exactly_the_quota", given_in_the_call)];

type Contest = (&'static str, fn(&Case) -> Result<()>);

const CONTESTS: &[Contest] = &[
    ("token_bucket_admits_exactly_its_quota", |case| admits_exactly(case, "token_bucket")),
    ("fixed_window_admits_exactly_its_quota", |case| admits_exactly(case, "fixed_window")),
    ("sliding_window_admits_exactly_its_quota", |case| admits_exactly(case, "sliding_window")),
    ("sliding_log_admits_exactly_its_quota", |case| admits_exactly(case, "sliding_log")),
    ("several_rules_admit_exactly_the_least_quota", several_rules_admit_exactly_the_least_quota),
    ("a_cost_is_taken_whole_or_not_at_all", a_cost_is_taken_whole_or_not_at_all),
    ("rl_take_shares_out_exactly_the_quota", rl_take_shares_out_exactly_the_quota),
    ("rl_try_acquire_many_admits_exactly_the_quota", rl_try_acquire_many_admits_exactly_the_quota),
    ("rl_check_all_in_opposite_orders_is_exact", rl_check_all_in_opposite_orders_is_exact),
    ("what_is_refunded_can_be_taken_again", what_is_refunded_can_be_taken_again),
    ("a_quota_raised_under_load_is_used_up_exactly", a_quota_raised_under_load_is_used_up_exactly),
];

/// Each contest for limiters of memory, for such that give back, and for durable ones, with the library loaded at the start or not.
pub fn tests() -> Vec<FileTest> {
    let each = |(contest, test): &Contest| {
        let (contest, test) = (*contest, *test);
        let shared = |title: &str, kind: Kind| -> FileTest {
            let name = format!("{title}{contest}");
            let database = name.clone();
            (
                name,
                Box::new(move |bed: &Bed| test(&Case { kind, database: bed.database(&database)? })),
            )
        };
        let unloaded: FileTest = (
            format!("unloaded_durable_{contest}"),
            Box::new(move |bed: &Bed| {
                let server = bed.private().preload(false).start()?;
                test(&Case { kind: Kind::Durable, database: Database::new(&server, contest)? })
            }),
        );
        [
            shared("", Kind::Keep),
            shared("refund_", Kind::Refund),
            shared("durable_", Kind::Durable),
            unloaded,
        ]
    };
    CONTESTS.iter().flat_map(each).collect()
}

const SESSIONS: usize = 32;

/// Creates a limiter of the kind in question.
fn create(case: &Case, limiter: &str, rates: &str, algorithm: &str) -> Result<()> {
    case.kind.create(&mut case.database.connect()?, limiter, rates, algorithm)
}

fn admits_exactly(case: &Case, algorithm: &str) -> Result<()> {
    let mut crowd = Crowd::gather(&case.database, SESSIONS)?;
    for quota in [100, 1_000] {
        let limiter = format!("of_{quota}");
        create(case, &limiter, &format!("{quota} per {AGE}"), algorithm)?;
        // Four times as many as pass.
        let calls = quota / 8;
        for round in 1..=case.kind.pick(5, 20) {
            let admitted = crowd.sum(&format!(
                "SELECT count(*) FROM generate_series(1, {calls}) WHERE rl_try_acquire('{limiter}', 'key {round}')"
            ))?;
            ensure!(admitted == quota, "round {round}: {admitted} of {quota} admitted");
        }
    }
    Ok(())
}

fn several_rules_admit_exactly_the_least_quota(case: &Case) -> Result<()> {
    let mut session = case.database.connect()?;
    let mut crowd = Crowd::gather(&case.database, SESSIONS)?;
    for algorithm in ALGORITHMS {
        let rates = format!("300 per {AGE}, 200 per 73000 days, 500 per 109500 days");
        create(case, algorithm, &rates, algorithm)?;
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

fn a_cost_is_taken_whole_or_not_at_all(case: &Case) -> Result<()> {
    let mut session = case.database.connect()?;
    let mut crowd = Crowd::gather(&case.database, SESSIONS)?;
    for algorithm in ALGORITHMS {
        create(case, algorithm, &format!("1000 per {AGE}"), algorithm)?;
        let admitted = crowd.sum(&format!(
            "SELECT count(*) FROM generate_series(1, 50) WHERE rl_try_acquire('{algorithm}', 'key', 7)"
        ))?;
        let left = session.left(algorithm, "key")?;
        ensure!((admitted, left) == (142, 6), "{algorithm}: {admitted} times 7, {left} left");
    }
    Ok(())
}

fn rl_take_shares_out_exactly_the_quota(case: &Case) -> Result<()> {
    let mut crowd = Crowd::gather(&case.database, SESSIONS)?;
    for algorithm in ALGORITHMS {
        create(case, algorithm, &format!("1000 per {AGE}"), algorithm)?;
        let taken = crowd.sum(&format!(
            "SELECT sum(rl_take('{algorithm}', 'key', 7))::bigint FROM generate_series(1, 50)"
        ))?;
        ensure!(taken == 1_000, "{algorithm}: {taken} of 1000 taken");
    }
    Ok(())
}

fn rl_try_acquire_many_admits_exactly_the_quota(case: &Case) -> Result<()> {
    create(case, "api", &format!("100 per {AGE}"), "token_bucket")?;
    let admitted = Crowd::gather(&case.database, SESSIONS)?.sum(
        "SELECT count(*) FROM unnest(rl_try_acquire_many('api',
             (SELECT array_agg('key ' || n % 5) FROM generate_series(1, 500) AS n))) AS allowed WHERE allowed",
    )?;
    ensure!(admitted == 500, "{admitted} admitted of 100 for each of 5 keys");
    Ok(())
}

fn rl_check_all_in_opposite_orders_is_exact(case: &Case) -> Result<()> {
    let mut session = case.database.connect()?;
    let mut crowd = Crowd::gather(&case.database, SESSIONS)?;
    for algorithm in ALGORITHMS {
        create(case, algorithm, &format!("300 per {AGE}"), algorithm)?;
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

fn what_is_refunded_can_be_taken_again(case: &Case) -> Result<()> {
    let mut session = case.database.connect()?;
    let mut crowd = Crowd::gather(&case.database, SESSIONS)?;
    for algorithm in ALGORITHMS {
        create(case, algorithm, &format!("1000 per {AGE}"), algorithm)?;
        let pairs = crowd.sum(&format!(
            "SELECT count(rl_refund('{algorithm}', 'key', 3)) FROM generate_series(1, 100)
              WHERE rl_try_acquire('{algorithm}', 'key', 3)"
        ))?;
        // What a bucket served while transactions had taken from it comes back in as much time.
        let all_left = || Ok(session.left(algorithm, "key")? == 1_000);
        eventually(&format!("all of {algorithm} is left after {pairs} refunds"), all_left)?;
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

fn a_quota_raised_under_load_is_used_up_exactly(case: &Case) -> Result<()> {
    create(case, "api", &format!("100 per {AGE}"), "fixed_window")?;
    let mut crowd = Crowd::gather(&case.database, SESSIONS)?;
    let mut admin = case.database.connect()?;
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
