//! `make bench`: what a decision costs, beside an empty function, an advisory lock and the upserts that people write by hand, all on
//! one private server and in turns, so that a noisy machine disturbs all of them alike. README.md beside this folder says how to read
//! it.

mod asleep;
mod clients;
mod contender;
mod cpu;
mod durable;
mod house;
mod inside;
mod lab;
mod machine;
mod million;
mod options;
mod pgbench;
mod redis;
mod report;
mod saved;
mod slots;
mod snapshot;
mod stats;
mod target;
mod waiters;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;
use testbed::Tree;

use asleep::Asleep;
use clients::Clients;
use durable::Durable;
use inside::Inside;
use lab::{Lab, Memory};
use million::Million;
use options::Options;
use saved::Saved;
use slots::Slots;
use snapshot::Snapshot;
use waiters::Waiters;

/// All that was measured.
struct Results {
    memory: Memory,
    inside: Inside,
    slots: Slots,
    clients: Clients,
    million: Million,
    durable: Durable,
    snapshot: Snapshot,
    saved: Saved,
    waiters: Waiters,
    asleep: Asleep,
}

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let start = Instant::now();
    let before = machine::describe()?;

    eprintln!("==> starting a private server");
    let tree = Tree::new(&options.pg_config)?;
    let mut lab = Lab::new(&tree)?;
    let results = Results {
        memory: lab.memory()?,
        inside: inside::measure(&mut lab, &options)?,
        slots: slots::measure(&mut lab, &options)?,
        clients: clients::measure(&mut lab, &options)?,
        // Before the tables know other keys.
        million: million::measure(&mut lab, &options)?,
        durable: durable::measure(&mut lab, &options)?,
        snapshot: snapshot::measure(&mut lab, &options)?,
        saved: saved::measure(&mut lab, &options)?,
        waiters: waiters::measure(&tree, &options)?,
        asleep: asleep::measure(&tree, &options)?,
    };

    let about = json!({
        "before": before,
        "load_after": machine::load()?,
        "postgresql": lab.version()?,
        "file_system": machine::file_system(&lab.server().pgdata())?,
        "seconds": start.elapsed().as_secs(),
        "options": options.to_json(),
        "settings": lab::settings_json(),
    });
    let targets = target::all(&results);
    let text = report::text(&about, &results, &targets);
    let json = json!({
        "about": about,
        "memory": results.memory.to_json(),
        "inside": results.inside.to_json(),
        "pgbench": results.clients.to_json(),
        "million": results.million.to_json(),
        "durable": results.durable.to_json(),
        "snapshot": results.snapshot.to_json(),
        "saved": results.saved.to_json(),
        "waiters": results.waiters.to_json(),
        "slots": results.slots.to_json(),
        "asleep": results.asleep.to_json(),
        "targets": targets.iter().map(target::Target::to_json).collect::<Vec<_>>(),
    });

    let folder = folder();
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    std::fs::write(folder.join("results.json"), format!("{json:#}\n"))?;
    std::fs::write(folder.join("results.txt"), &text)?;
    println!("{text}");
    eprintln!("==> written to target/bench: results.txt, and results.json with all rounds");
    Ok(())
}

/// Where the results go: cargo tells where this package is when it runs it.
fn folder() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let top = package.and_then(|path| path.parent().map(PathBuf::from)).unwrap_or_default();
    top.join("target/bench")
}
