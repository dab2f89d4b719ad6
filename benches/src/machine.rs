//! The machine that the figures hold for.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{json, Value};

/// Its processor, memory, kernel and load, and the time.
pub fn describe() -> Result<Value> {
    let info = std::fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
        .unwrap_or("unknown");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let huge = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    Ok(json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "processor": model,
        "kernel": kernel.trim(),
        "transparent_huge_pages_of_shared_memory": huge.as_deref().unwrap_or("unknown").trim(),
        "load": load()?,
        "date": output(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]))?,
    }))
}

/// The average numbers of processes that wanted to run in the last 1, 5 and 15 minutes.
pub fn load() -> Result<String> {
    let load = std::fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    Ok(load.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

/// What kind of file system a folder is on: on one in memory, `fsync` would cost nothing.
pub fn file_system(folder: &Path) -> Result<String> {
    output(Command::new("stat").args(["--file-system", "--format=%T"]).arg(folder))
}

/// How many milliseconds each of some small writes took until the disk had it: what every commit has to wait for.
pub fn flushes(folder: &Path) -> Result<Vec<f64>> {
    let path = folder.join("flush");
    let mut file = File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..50 {
        let start = Instant::now();
        file.write_all(&[0; 8192])?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    std::fs::remove_file(&path)?;
    Ok(times)
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
