//! What bans change, and how they end.

use anyhow::Result;
use testbed::postgres::Client;

use crate::scene::{literal, BAN_AFTER, BAN_FOR, BAN_WITHIN, STRICT};
use crate::screen::{cell, duration, number, say, tell, Screen};
use crate::stage::Stage;

/// How many clients are shown.
const CLIENTS: usize = 5;

/// Compares the limiter that bans with the one that does not, in the same replay.
pub fn replayed(stage: &Stage, client: &mut Client, screen: &mut Screen) -> Result<()> {
    let (kind, period) = (stage.kind, stage.limit.period);
    screen.heading(&format!(
        "The same with bans: {BAN_AFTER} refusals within {} ban for {}",
        duration(period * BAN_WITHIN),
        duration(period * BAN_FOR)
    ))?;
    let rows = client.query(
        "SELECT client, a.allowed, v.allowed, v.rate, v.ban
           FROM (SELECT client, count(*) FILTER (WHERE allowed) AS allowed
                   FROM traffic GROUP BY client) AS a
           JOIN (SELECT client, count(*) FILTER (WHERE reason IS NULL) AS allowed,
                        count(*) FILTER (WHERE reason = 'rate') AS rate,
                        count(*) FILTER (WHERE reason = 'ban') AS ban
                   FROM verdicts GROUP BY client) AS v USING (client)
          ORDER BY v.ban DESC, v.rate DESC, client",
        &[],
    )?;
    say!(
        screen,
        "\n{:<20}{:>15}{:>15}{:>14}{:>14}",
        kind.clients,
        "allowed before",
        "with bans",
        "over rate",
        "while banned"
    )?;
    let mut totals = [0; 4];
    let mut banned = 0;
    for (n, row) in rows.iter().enumerate() {
        let name: String = row.get(0);
        let mut counts = [0_usize; 4];
        for (n, count) in counts.iter_mut().enumerate() {
            *count = row.get::<_, i64>(n + 1).try_into()?;
            totals[n] += *count;
        }
        banned += usize::from(counts[3] > 0);
        if n < CLIENTS && counts[2] + counts[3] > 0 {
            line(&cell(&name, 19), counts, screen)?;
        }
    }
    line(&format!("all {}", number(rows.len())), totals, screen)?;
    tell!(
        screen,
        "Came back while banned: {} of {} {}. Those calls take nothing, and do not make a ban \
         longer.",
        number(banned),
        number(rows.len()),
        kind.clients
    )
}

fn line(name: &str, counts: [usize; 4], screen: &mut Screen) -> Result<()> {
    let [before, allowed, rate, ban] = counts.map(number);
    say!(screen, "{name:<20}{before:>15}{allowed:>15}{rate:>14}{ban:>14}")
}

/// Bans the client that was refused most once more, and ends that in another session.
pub fn live(stage: &Stage, client: &mut Client, screen: &mut Screen) -> Result<()> {
    screen.heading("A ban, and its end in another session: live, at the log's own pace")?;
    let most = "SELECT client FROM verdicts WHERE reason IS NOT NULL
                 GROUP BY client ORDER BY count(*) DESC, client LIMIT 1";
    let key = client.query_opt(most, &[])?.map_or("somebody".to_owned(), |row| row.get(0));
    let key = literal(&key);
    let mut other = stage.server.connect()?;
    let answer = |session: &mut Client, name: &str, sql: &str, screen: &mut Screen| {
        let row = session.query_opt(sql, &[])?;
        let answer: Option<String> = row.and_then(|row| row.get(0));
        screen.sql(&format!("{sql};"))?;
        say!(screen, "    {name}: {}", screen.strengthened(answer.as_deref().unwrap_or("nothing")))
    };
    let refused = format!(
        "SELECT string_agg((rl_check('{STRICT}', {key})).reason, ', ')\n  \
           FROM generate_series(1, {})",
        BAN_AFTER + 2
    );
    let ban = format!(
        "SELECT format('automatic: %s, for %s', automatic, expires_at - since)\n  \
           FROM rl_bans WHERE limiter = '{STRICT}' AND key = {key}"
    );
    let check = format!("SELECT reason FROM rl_check('{STRICT}', {key})");
    answer(
        client,
        "one session",
        &format!("SELECT rl_take('{STRICT}', {key}, 1000)::text"),
        screen,
    )?;
    answer(client, "one session", &refused, screen)?;
    answer(client, "one session", &ban, screen)?;
    answer(&mut other, "another", &format!("SELECT rl_unban('{STRICT}', {key})::text"), screen)?;
    answer(client, "one session", &check, screen)?;
    tell!(screen, "The ban is gone at once; what the rate allows is still used up. rl_reset would forget that, \
         too.")
}
