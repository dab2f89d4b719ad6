//! How fast a session decides.

use std::time::Instant;

use anyhow::Result;
use testbed::postgres::Client;

use crate::screen::{number, say, Screen};

const CALLS: usize = 500_000;

pub fn measure(client: &mut Client, screen: &mut Screen) -> Result<()> {
    screen.heading("Decisions a second, in one session")?;
    let limit = |name, quota| format!("SELECT rl_create_limiter('{name}', '{quota} per minute');");
    client.batch_execute(&format!("{}{}", limit("wide", 1_000_000_000), limit("narrow", 1)))?;
    let sql = |limiter, key| {
        format!(
            "SELECT count(*) FILTER (WHERE rl_try_acquire('{limiter}', {key}))\n  \
               FROM generate_series(1, {CALLS}) AS n"
        )
    };
    screen.sql(&sql("wide", "'one key'"))?;
    say!(screen)?;
    for (what, limiter, key) in [
        ("granted, all to one key", "wide", "'one key'"),
        ("granted, to 10,000 keys in turn", "wide", "'user:' || n % 10000"),
        ("denied", "narrow", "'one key'"),
    ] {
        let start = Instant::now();
        let granted: i64 = client.query_one(&sql(limiter, key), &[])?.get(0);
        let rate = CALLS as f64 / start.elapsed().as_secs_f64();
        let granted = number(granted.try_into()?);
        say!(
            screen,
            "{what:34}{:>12}   ({granted} of {} granted)",
            number(rate as usize),
            number(CALLS)
        )?;
    }
    client.batch_execute("SELECT rl_drop_limiter('wide'), rl_drop_limiter('narrow')")?;
    Ok(())
}
