//! Who was limited and when, and what other limits would have done.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use testbed::postgres::Client;

use crate::log::date;
use crate::replay::Outcome;
use crate::scene::literal;
use crate::screen::{cell, duration, number, say, tell, Screen, WIDTH};
use crate::stage::Stage;

/// How many clients are shown.
const CLIENTS: usize = 8;

/// The columns of a client's chart.
const COLUMNS: usize = 19;

/// The rows of the chart over time, for a log of no fewer seconds.
const ROWS: usize = 12;

pub fn clients(stage: &Stage, client: &mut Client, screen: &mut Screen) -> Result<()> {
    screen.heading(&format!("Who was limited, and when ({})", stage.limit.rates))?;
    let rows = client.query(
        "SELECT client, count(*), count(*) FILTER (WHERE NOT allowed) AS limited,
                min(at) FILTER (WHERE NOT allowed)
           FROM traffic GROUP BY client
          ORDER BY limited DESC, count(*) DESC, client",
        &[],
    )?;
    let (start, length) = span(client)?;
    say!(
        screen,
        "\n{:<17}{:>7}{:>8}{:>8}  {:<15}  over the log's time",
        stage.kind.clients,
        "tries",
        "allowed",
        "limited",
        "first limited",
    )?;
    let limited = rows.iter().filter(|row| row.get::<_, i64>(2) > 0).count();
    for row in rows.iter().take(CLIENTS) {
        let name: String = row.get(0);
        let (tries, refused): (i64, i64) = (row.get(1), row.get(2));
        let first = row.get::<_, Option<SystemTime>>(3).map_or("-".into(), show);
        let chart = sparkline(client, screen, &name, start, length)?;
        say!(
            screen,
            "{:<17}{:>7}{:>8}{:>8}  {first:<15}  {}",
            cell(&name, 16),
            number(tries.try_into()?),
            number((tries - refused).try_into()?),
            number(refused.try_into()?),
            chart.trim_end(),
        )?;
    }
    let of = rows.len();
    say!(screen, "{:>WIDTH$}", "· all allowed   ▁ to █: so many limited")?;
    tell!(
        screen,
        "{} of {} {} were limited; the others noticed nothing.",
        number(limited),
        number(of),
        stage.kind.clients
    )
}

/// How many were limited over time, for one client.
fn sparkline(
    client: &mut Client,
    screen: &Screen,
    name: &str,
    start: f64,
    length: f64,
) -> Result<String> {
    let counts = counts(client, Some(name), start, length, COLUMNS)?;
    let most = counts.iter().map(|(_, limited)| *limited).max().unwrap_or(0).max(1);
    let blocks = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let column = |&(allowed, limited): &(usize, usize)| match (allowed, limited) {
        (0, 0) => " ".to_owned(),
        (_, 0) => screen.good("·"),
        _ => screen.bad(&blocks[(limited * blocks.len()).div_ceil(most) - 1].to_string()),
    };
    Ok(counts.iter().map(column).collect())
}

pub fn over_time(stage: &Stage, client: &mut Client, screen: &mut Screen) -> Result<()> {
    let (start, length) = span(client)?;
    let rows = (length.ceil() as usize).clamp(1, ROWS);
    let counts = counts(client, None, start, length, rows)?;
    let most = counts.iter().map(|(allowed, limited)| allowed + limited).max().unwrap_or(0);
    let row = length / rows as f64;
    screen.heading(&format!(
        "{} over time: {} allowed, {} limited; a row is {}",
        capitalized(stage.kind.entries),
        screen.good("█"),
        screen.bad("░"),
        duration(Duration::from_secs_f64(row))
    ))?;
    say!(screen)?;
    for (n, (allowed, limited)) in counts.into_iter().enumerate() {
        let at = UNIX_EPOCH + Duration::from_secs_f64(start + row * n as f64);
        let numbers = match limited {
            0 => number(allowed),
            _ => format!("{} + {}", number(allowed), screen.bad(&number(limited))),
        };
        let bar = screen.bar(WIDTH - 32, allowed, limited, most);
        say!(screen, "{}  {bar} {numbers}", show(at))?;
    }
    Ok(())
}

pub fn candidates(stage: &Stage, client: &mut Client, screen: &mut Screen) -> Result<()> {
    screen.heading("What other limits would have done: rl_simulate over the same log")?;
    let kind = stage.kind;
    let own = (stage.limit.rates.as_str(), kind.algorithm);
    let trial = (stage.trial.as_str(), kind.algorithm);
    let candidates = [own, trial, kind.others[0], kind.others[1]];
    let values =
        candidates.map(|(rates, algorithm)| format!("({}, '{algorithm}')", literal(rates)));
    let sql = format!(
        "SELECT c.rates, c.algorithm,
       count(*) FILTER (WHERE NOT s.allowed) AS refused, count(*) AS of,
       count(DISTINCT t.client) FILTER (WHERE NOT s.allowed) AS clients
  FROM (VALUES {})
       AS c (rates, algorithm)
 CROSS JOIN (SELECT client, array_agg(at ORDER BY at) AS times
               FROM traffic GROUP BY client) AS t
 CROSS JOIN rl_simulate(c.rates, t.times,
                        algorithm => c.algorithm::rl_algorithm) AS s
 GROUP BY c.rates, c.algorithm ORDER BY refused DESC",
        values.join(",\n               ")
    );
    screen.sql(&format!("{sql};"))?;
    say!(screen)?;
    let start = Instant::now();
    let rows = client.query(&sql, &[])?;
    let elapsed = start.elapsed();
    say!(
        screen,
        "{:<32}{:<16}{:>9}{:>9}{:>12}",
        "limit",
        "algorithm",
        "refused",
        "share",
        kind.clients
    )?;
    let mut decisions = 0;
    for row in rows {
        let (rates, algorithm): (String, String) = (row.get(0), row.get(1));
        let (refused, of, clients): (i64, i64, i64) = (row.get(2), row.get(3), row.get(4));
        decisions += of;
        say!(
            screen,
            "{:<32}{algorithm:<16}{:>9}{:>7.1} %{:>12}",
            cell(&rates, 31),
            number(refused.try_into()?),
            100.0 * refused as f64 / of as f64,
            number(clients.try_into()?),
        )?;
    }
    say!(screen, "{} decisions in {}.", number(decisions.try_into()?), duration(elapsed))
}

/// Compares what the trigger did with what rl_simulate says about the log's own times.
pub fn cross_check(
    stage: &Stage,
    client: &mut Client,
    outcome: &Outcome,
    screen: &mut Screen,
) -> Result<()> {
    screen.heading("Was the replay true to the log?")?;
    let row = client.query_one(
        &format!(
            "SELECT sum(simulated)::bigint, max(abs(simulated - limited)), (sum(same) / sum(tries))::float8
               FROM (SELECT count(*) AS tries,
                            count(*) FILTER (WHERE s.allowed = t.verdicts[s.n]) AS same,
                            count(*) FILTER (WHERE NOT s.allowed) AS simulated,
                            count(*) FILTER (WHERE NOT t.verdicts[s.n]) AS limited
                       FROM (SELECT client, array_agg(at ORDER BY at) AS times,
                                    array_agg(allowed ORDER BY at) AS verdicts
                               FROM traffic GROUP BY client) AS t
                      CROSS JOIN rl_simulate({}, t.times, algorithm => '{}') AS s
                      GROUP BY t.client) AS clients",
            literal(&stage.limit.rates),
            stage.kind.algorithm
        ),
        &[],
    )?;
    let (refused, difference, same): (i64, i64, f64) = (row.get(0), row.get(1), row.get(2));
    tell!(
        screen,
        "By the log's own times, rl_simulate refuses {}, and the trigger refused {}; {} by {}, \
         the two differ by at most {}. One by one, {:.1} % of the decisions are the same: which of \
         a burst passes is a matter of moments, and the latest of all came {} late, which is {} of the log.",
        number(refused.try_into()?),
        number(outcome.limited),
        stage.kind.one_client,
        stage.kind.one_client,
        number(difference.try_into()?),
        // Not all of them, if it is not all of them.
        (1000.0 * same).floor() / 10.0,
        duration(outcome.late),
        duration(outcome.late * outcome.speed)
    )
}

/// The first entry in seconds since the epoch, and how long after it the last one is.
fn span(client: &mut Client) -> Result<(f64, f64)> {
    let row = client.query_one(
        "SELECT extract(epoch FROM min(at))::float8, extract(epoch FROM max(at))::float8 FROM traffic",
        &[],
    )?;
    let (first, last): (f64, f64) = (row.get(0), row.get(1));
    Ok((first, (last - first).max(1e-3)))
}

/// How many were allowed and limited in each of `parts` equal parts of the time.
fn counts(
    client: &mut Client,
    name: Option<&str>,
    start: f64,
    length: f64,
    parts: usize,
) -> Result<Vec<(usize, usize)>> {
    let mut counts = vec![(0, 0); parts];
    let rows = client.query(
        "SELECT least($4::int, width_bucket(extract(epoch FROM at)::float8, $2::float8, $2::float8 + $3::float8, $4::int)),
                count(*) FILTER (WHERE allowed), count(*) FILTER (WHERE NOT allowed)
           FROM traffic WHERE $1::text IS NULL OR client = $1 GROUP BY 1",
        &[&name, &start, &length, &i32::try_from(parts)?],
    )?;
    for row in rows {
        let part: i32 = row.get(0);
        let (allowed, limited): (i64, i64) = (row.get(1), row.get(2));
        if let Some(count) = usize::try_from(part - 1).ok().and_then(|n| counts.get_mut(n)) {
            *count = (allowed.try_into()?, limited.try_into()?);
        }
    }
    Ok(counts)
}

fn show(at: SystemTime) -> String {
    let micros = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    date::show(micros.try_into().unwrap_or(0))
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}
