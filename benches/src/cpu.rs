//! How long processes have been running on a processor, which other load disturbs far less than it does wall time.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{getrusage, UsageWho};
use nix::sys::time::TimeVal;
use nix::unistd::{sysconf, SysconfVar};

/// Of one process with one thread.
pub fn of_process(pid: u32) -> Result<Duration> {
    let text = read(&format!("/proc/{pid}/schedstat"))?;
    let first = text.split(' ').next().unwrap_or_default();
    Ok(Duration::from_nanos(first.parse().context("/proc/PID/schedstat")?))
}

/// Of all children that `pid` had and that have ended.
pub fn of_ended_children(pid: u32) -> Result<Duration> {
    let text = read(&format!("/proc/{pid}/stat"))?;
    // The name in parentheses may contain anything; cutime and cstime are 13 and 14 fields after the state.
    let fields = text.rsplit(") ").next().unwrap_or_default().split(' ').skip(13).take(2);
    let ticks: u64 = fields.map(|field| field.parse().unwrap_or(0)).sum();
    duration_of(ticks)
}

/// Of all children that this process had and that have ended.
pub fn of_own_children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros =
        |time: TimeVal| time.tv_sec().unsigned_abs() * 1_000_000 + time.tv_usec().unsigned_abs();
    Ok(Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time())))
}

/// Of everything on this machine.
pub fn of_all() -> Result<Duration> {
    let text = read("/proc/stat")?;
    // cpu user nice system idle iowait irq softirq steal ...; all but idle and iowait.
    let fields: Vec<u64> =
        text.split_whitespace().skip(1).take(8).map(|field| field.parse().unwrap_or(0)).collect();
    duration_of(
        fields.iter().enumerate().filter(|(n, _)| !matches!(n, 3 | 4)).map(|(_, t)| t).sum(),
    )
}

fn duration_of(ticks: u64) -> Result<Duration> {
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}
