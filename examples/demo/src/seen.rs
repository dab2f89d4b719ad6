//! What the server counted while it decided.

use anyhow::Result;
use testbed::postgres::Client;

use crate::scene::TRIAL;
use crate::screen::{cell, number, say, tell, Screen};
use crate::stage::Stage;

pub fn limiters(stage: &Stage, client: &mut Client, screen: &mut Screen) -> Result<()> {
    screen.heading("What the server counted")?;
    let sql = "\
SELECT limiter, mode::text,
       allowed, denied, shadow_denied, near_limit, bans
  FROM rl_stat_limiters JOIN rl_limiters ON name = limiter
 ORDER BY limiter";
    screen.sql(&format!("{sql};"))?;
    say!(
        screen,
        "\n{:<12}{:<10}{:>10}{:>10}{:>15}{:>12}{:>8}",
        "limiter",
        "mode",
        "allowed",
        "denied",
        "shadow_denied",
        "near_limit",
        "bans"
    )?;
    let mut notes = Vec::new();
    for row in client.query(sql, &[])? {
        let (limiter, mode): (String, String) = (row.get(0), row.get(1));
        let mut counts = [0_usize; 5];
        for (n, count) in counts.iter_mut().enumerate() {
            *count = row.get::<_, i64>(n + 2).try_into()?;
        }
        let [allowed, denied, would_deny, near, bans] = counts.map(number);
        say!(
            screen,
            "{limiter:<12}{mode:<10}{allowed:>10}{denied:>10}{would_deny:>15}{near:>12}{bans:>8}"
        )?;
        if limiter == stage.kind.limiter {
            let share = 100.0 * counts[3] as f64 / counts[0].max(1) as f64;
            notes.push(format!(
                "Of what {limiter} allowed, {share:.0} % was near the limit: it left less than a \
                 fifth of the quota."
            ));
        } else if limiter == TRIAL {
            notes.push(format!(
                "The limiter on trial ({}) refused {denied}, and would have refused {would_deny}: \
                 mode = 'enforce' would put it in force.",
                stage.trial
            ));
        }
    }
    tell!(screen, "{}", notes.join(" "))
}

/// Whom the limiter refuses most.
pub fn keys(stage: &Stage, client: &mut Client, screen: &mut Screen) -> Result<()> {
    screen.heading("Who is refused most, without a look at any table")?;
    let sql = format!("SELECT key, denied FROM rl_stat_keys('{}', 5)", stage.kind.limiter);
    screen.sql(&format!("{sql};"))?;
    say!(screen, "\n{:<40}{:>10}", "key", "denied")?;
    for row in client.query(&sql, &[])? {
        let (key, denied): (String, i64) = (row.get(0), row.get(1));
        say!(screen, "{:<40}{:>10}", cell(&key, 39), number(denied.try_into()?))?;
    }
    Ok(())
}
