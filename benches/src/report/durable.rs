//! The tables about what outlives a server.

use std::fmt::{self, Write};

use super::{ratio, spread};
use crate::contender::{Contender, Keys};
use crate::durable::{Durable, CLIENTS};
use crate::million::Million;
use crate::saved::Saved;
use crate::snapshot::Snapshot;
use crate::stats::Spread;
use crate::Results;

pub fn tables(out: &mut String, results: &Results) -> fmt::Result {
    clients(out, &results.durable)?;
    snapshot(out, &results.snapshot)?;
    million(out, &results.million)?;
    saved(out, &results.saved)
}

fn clients(out: &mut String, durable: &Durable) -> fmt::Result {
    let all = &durable.clients;
    writeln!(
        out,
        "\nDurable, {CLIENTS} clients, synchronous_commit = on: ratios are to the logged upsert in the same round"
    )?;
    writeln!(
        out,
        "{:<8}{:<26}{:>26}{:>24}{:>24}{:>11}{:>11}",
        "keys", "", "tps", "tps ratio", "CPU ratio", "server us", "client us"
    )?;
    let upsert = all.find(Contender::UpsertLogged, Keys::Hot, CLIENTS);
    for cell in &all.cells {
        let (tps, cpu) = match upsert {
            Some(upsert) if cell.contender != Contender::UpsertLogged => (
                ratio(all.ratio(cell, upsert, |slice| slice.tps)),
                ratio(all.ratio(cell, upsert, |slice| 1.0 / slice.cpu())),
            ),
            _ => Default::default(),
        };
        // Memory has no other name here.
        let name = match cell.contender {
            Contender::Denied => "memory, denied",
            other => other.name(),
        };
        writeln!(
            out,
            "{:<8}{name:<26}{:>26}{tps:>24}{cpu:>24}{:>11.1}{:>11.1}",
            cell.keys.name(),
            spread(cell.tps(), 0),
            cell.server_cpu().median,
            cell.client_cpu().median,
        )?;
    }
    match &durable.redis {
        Some(requests) => {
            let requests = spread(Spread::of(requests.iter().copied()), 0);
            writeln!(out, "{:<8}{:<26}{requests:>26}", "hot", "Redis, appendfsync always")?;
        }
        None => {
            writeln!(out, "Redis with appendfsync always: not measured, as there is none here")?
        }
    }
    writeln!(
        out,
        "One flush of this disk, nothing else going on here: {} ms",
        spread(durable.flush, 1)
    )?;
    writeln!(out, "House-keeping: {}", durable.house)
}

fn snapshot(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    writeln!(
        out,
        "\nThe same hot key, tps before another session opens a snapshot, {} s later, and after it has gone",
        snapshot.open
    )?;
    writeln!(out, "{:<34}{:>26}{:>26}{:>26}{:>8}", "", "before", "with", "after", "left")?;
    for course in &snapshot.courses {
        writeln!(
            out,
            "{:<34}{:>26}{:>26}{:>26}{:>8.2}",
            course.contender.name(),
            spread(course.before, 0),
            spread(course.during, 0),
            spread(course.after, 0),
            course.left(),
        )?;
    }
    writeln!(out, "House-keeping: {}", snapshot.house)
}

fn million(out: &mut String, million: &Million) -> fmt::Result {
    writeln!(
        out,
        "\nOne durable key, granted {} times in {:.0} s, synchronous_commit = off",
        million.grants, million.seconds
    )?;
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let cpu = million.slices.iter().map(|slice| format!("{:.1}", slice.server_cpu));
    writeln!(out, "server us for each tenth: {}", cpu.collect::<Vec<_>>().join(" "))?;
    writeln!(
        out,
        "last tenth / first: {:.2} in CPU, {:.2} in tps",
        million.growth(|slice| slice.server_cpu),
        million.growth(|slice| slice.tps),
    )?;
    writeln!(
        out,
        "tables and indexes: at most {:.2} MB, {:.2} MB after house-keeping",
        mb(million.most),
        mb(million.after)
    )?;
    writeln!(out, "House-keeping: {}", million.house)
}

fn saved(out: &mut String, saved: &Saved) -> fmt::Result {
    writeln!(out, "\n{} keys of shared memory, {:.1} MB", saved.keys, saved.bytes as f64 / 1e6)?;
    writeln!(out, "saved at shutdown in s: {}", spread(saved.save, 2))?;
    writeln!(out, "loaded in s: {}", spread(saved.load, 2))?;
    let Some(found) = &saved.meanwhile else {
        return writeln!(
            out,
            "calls during a save: not measured, as there is none while the server runs"
        );
    };
    writeln!(
        out,
        "longest call in ms: {} while they are saved in {} s, {} else",
        spread(found.longest, 1),
        spread(found.save, 2),
        spread(found.longest_without, 1),
    )
}
