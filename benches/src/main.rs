//! `make bench`: what a decision costs, beside an empty function, an advisory lock and the upserts that people write by hand, all on
//! one private server and in turns, so that a noisy machine disturbs all of them alike.

mod clients;
mod contender;
mod cpu;
mod inside;
mod lab;
mod machine;
mod options;
mod pgbench;
mod report;
mod stats;
mod target;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;
use testbed::Tree;

use lab::Lab;
use options::Options;

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let start = Instant::now();
    let before = machine::describe()?;

    eprintln!("==> starting a private server");
    let mut lab = Lab::new(&Tree::new(&options.pg_config)?)?;
    let memory = lab.memory()?;
    let inside = inside::measure(&mut lab, &options)?;
    let clients = clients::measure(&mut lab, &options)?;

    let about = json!({
        "before": before,
        "load_after": machine::load()?,
        "postgresql": lab.version()?,
        "file_system": machine::file_system(&lab.server().pgdata())?,
        "seconds": start.elapsed().as_secs(),
        "options": options.to_json(),
        "settings": lab::settings_json(),
    });
    let targets = target::all(&inside, &clients, &memory);
    let text = report::text(&about, &inside, &clients, &targets);
    let results = json!({
        "about": about,
        "memory": memory.to_json(),
        "inside": inside.to_json(),
        "pgbench": clients.to_json(),
        "targets": targets.iter().map(target::Target::to_json).collect::<Vec<_>>(),
    });

    let folder = folder();
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    std::fs::write(folder.join("results.json"), format!("{results:#}\n"))?;
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
