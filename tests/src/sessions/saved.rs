//! Shared memory that outlives the server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use postgres::Client;
use ratelimit_core::table::rule_key;
use ratelimit_core::KeyHasher;
use ratelimit_saved::{read, Entry, Head, Writer};
use testbed::{Server, Stop};

use super::ask::{ensure_code, run, Ask};
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("a_restart_keeps_what_was_used", a_restart_keeps_what_was_used),
    ("saved_states_are_known_as_in_all_releases", saved_states_are_known_as_in_all_releases),
    ("time_goes_on_while_the_server_is_down", time_goes_on_while_the_server_is_down),
    ("a_wall_clock_that_was_set_locks_nobody_out", a_wall_clock_that_was_set_locks_nobody_out),
    ("more_room_keeps_everything", more_room_keeps_everything),
    ("less_room_keeps_who_is_denied", less_room_keeps_who_is_denied),
    ("an_immediate_stop_goes_back_to_the_last_save", |bed| {
        goes_back_to_the_last_save(bed, |server| server.restart(Stop::Immediate))
    }),
    ("a_crash_goes_back_to_the_last_save", |bed| {
        goes_back_to_the_last_save(bed, |server| {
            let mut session = server.connect()?;
            let pid = session.pid()?;
            server.crash(pid)
        })
    }),
    ("a_file_that_is_no_good_is_a_line_in_the_log", a_file_that_is_no_good),
    ("the_file_of_another_cluster_is_not_loaded", the_file_of_another_cluster),
    ("a_save_that_fails_is_a_line_in_the_log", a_save_that_fails),
    ("ordinary_roles_do_not_set_the_save_interval", |bed| {
        let mut session = bed.shared()?.connect()?;
        ensure!(session.ask::<String>("SHOW ratelimit.save_interval")? == "5min");
        ensure_code(&session.refused("SET ratelimit.save_interval = 0")?, "55P02")
    }),
];

/// All algorithms, with logs of one cell and of many.
const LIMITERS: &str = "
    SELECT rl_create_limiter('bucket', '10 per 36500 days');
    SELECT rl_create_limiter('interval', '10 per 36500 days', refill => 'interval');
    SELECT rl_create_limiter('window', '10 per 36500 days', 'fixed_window');
    SELECT rl_create_limiter('first hit', '10 per 36500 days', 'fixed_window', anchor => 'first_hit');
    SELECT rl_create_limiter('sliding', '10 per 36500 days', 'sliding_window');
    SELECT rl_create_limiter('log', '10 per 36500 days', 'sliding_log');
    SELECT rl_create_limiter('long log', '1000 per 36500 days', 'sliding_log');
    SELECT rl_create_limiter('two rules', '10 per 36500 days, 20 per 73000 days');";

/// Key n takes n: from 10 on, one is denied.
const USE: &str = "
    SELECT rl_penalize(name, 'key ' || n, n) FROM rl_limiters, generate_series(1, 12) AS n";

/// What all keys have left, and how many days it takes until one more passes.
const LEFT: &str = "
    SELECT string_agg(format('%s %s: %s of %s, %s', name, n, remaining, quota, floor(extract(epoch FROM retry_after) / 86400)), E'\\n')
      FROM rl_limiters, generate_series(1, 13) AS n, LATERAL rl_peek(name, 'key ' || n)";

fn file(server: &Server) -> PathBuf {
    server.pgdata().join("ratelimit.state")
}

/// The system identifier in a file.
fn system(bytes: &[u8]) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes.get(12..20).context("too short")?.try_into()?))
}

fn session(server: &Server) -> Result<Client> {
    server.connect_to("saved", "postgres")
}

fn start(bed: &Bed) -> Result<Server> {
    let server = bed.private().start()?;
    Database::new(&server, "saved")?.connect()?.batch_execute(LIMITERS)?;
    Ok(server)
}

fn a_restart_keeps_what_was_used(bed: &Bed) -> Result<()> {
    let mut server = start(bed)?;
    let mut before = session(&server)?;
    before.batch_execute(USE)?;
    let (left, keys): (String, i64) =
        (before.ask(LEFT)?, before.ask("SELECT keys FROM rl_info()")?);
    for stop in [Stop::Fast, Stop::Smart] {
        server.connect()?.batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'saved'",
        )?;
        server.restart(stop)?;
        let mode = fs::metadata(file(&server))?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "others can read the secret: {mode:o}");
        ensure!(!server.pgdata().join("ratelimit.state.new").exists(), "half a file was left");
        let mut after = session(&server)?;
        let found: String = after.ask(LEFT)?;
        ensure!(found == left, "{left}\nbecame\n{found}");
        ensure!(after.ask::<i64>("SELECT keys FROM rl_info()")? == keys);
    }
    let mut after = session(&server)?;
    for limiter in ["bucket", "interval", "window", "first hit", "sliding", "log", "two rules"] {
        ensure!(after.takes(limiter, "key 9")?, "{limiter}: the last one");
        ensure!(!after.takes(limiter, "key 9")?, "{limiter}: one too many");
        ensure!(!after.takes(limiter, "key 10")?, "{limiter}: denied before");
    }
    ensure!(!server.log().contains("LOG:  ratelimit"), "{}", server.log());
    Ok(())
}

fn time_goes_on_while_the_server_is_down(bed: &Bed) -> Result<()> {
    let mut server = start(bed)?;
    session(&server)?.batch_execute("SELECT rl_create_limiter('short', '1 per 2 seconds')")?;
    ensure!(session(&server)?.takes("short", "key")?);
    server.stop(Stop::Fast)?;
    std::thread::sleep(Duration::from_secs(2));
    server.start_again()?;
    ensure!(session(&server)?.takes("short", "key")?, "the downtime does not count");
    Ok(())
}

/// What 0.1.0 saved is found so: `ratelimit_saved` reads a file of it.
fn saved_states_are_known_as_in_all_releases(bed: &Bed) -> Result<()> {
    let mut server = start(bed)?;
    let mut session = session(&server)?;
    ensure!(session.takes("bucket", "key")?);
    let (database, table, id): (u32, u32, String) = (
        session.ask("SELECT oid FROM pg_database WHERE datname = current_database()")?,
        session.ask("SELECT 'rl_limiters'::regclass::oid")?,
        session.ask("SELECT replace(id::text, '-', '') FROM rl_limiters WHERE name = 'bucket'")?,
    );
    drop(session);
    server.stop(Stop::Fast)?;
    let id = u128::from_str_radix(&id, 16)?.to_be_bytes();
    let mut keys = Vec::new();
    let bytes = fs::read(file(&server))?;
    let head = read(&bytes[..], system(&bytes)?, |entry| {
        if let Entry::State(record) = entry {
            keys.push(record.key);
        }
    })?;
    let identity: [&[u8]; 4] = [&database.to_le_bytes(), &table.to_le_bytes(), &id, b"memory"];
    let key = rule_key(KeyHasher::new(&head.secret, &identity).key(b"key"), 1);
    ensure!(keys == [key], "{keys:?} instead of {key:?}: an upgrade would lose what was used");
    Ok(())
}

/// Stops the server, lets `change` change what the file says of the server, and starts it again.
fn restart_changed(server: &mut Server, change: impl Fn(&mut Head)) -> Result<()> {
    server.stop(Stop::Fast)?;
    let bytes = fs::read(file(server))?;
    let system = system(&bytes)?;
    let mut head = read(&bytes[..], system, |_| ())?;
    change(&mut head);
    let mut writer = Writer::new(Vec::new(), &head)?;
    let mut written = Ok(());
    read(&bytes[..], system, |entry| {
        if written.is_ok() {
            written = writer.add(&entry);
        }
    })?;
    written?;
    fs::write(file(server), writer.finish()?)?;
    server.start_again()
}

fn a_wall_clock_that_was_set_locks_nobody_out(bed: &Bed) -> Result<()> {
    const HOUR: i64 = 3_600_000_000;
    let mut server = start(bed)?;
    session(&server)?.batch_execute(
        "SELECT rl_create_limiter(a::text, '1 per hour', a) FROM unnest(enum_range(NULL::rl_algorithm)) AS a",
    )?;
    const ALL: &str = "SELECT count(*) FROM unnest(enum_range(NULL::rl_algorithm)) AS a WHERE rl_try_acquire(a::text, 'key')";
    ensure!(session(&server)?.ask::<i64>(ALL)? == 4);

    // The clock showed tomorrow when the file was written: nobody waits until then.
    restart_changed(&mut server, |head| head.clock.wall += 24 * HOUR)?;
    ensure!(session(&server)?.ask::<bool>(
        "SELECT bool_and(NOT allowed AND retry_after BETWEEN '0' AND '2 hours')
           FROM unnest(enum_range(NULL::rl_algorithm)) AS a, LATERAL rl_check(a::text, 'key')
          WHERE a <> 'fixed_window'"
    )?);

    // It was written three hours ago.
    restart_changed(&mut server, |head| head.clock.wall -= 3 * HOUR)?;
    ensure!(session(&server)?.ask::<i64>(ALL)? == 4);
    Ok(())
}

/// Sets `ratelimit.max_keys` and restarts.
fn resize(server: &mut Server, keys: u32) -> Result<()> {
    server.connect()?.batch_execute(&format!("ALTER SYSTEM SET ratelimit.max_keys = {keys}"))?;
    server.restart(Stop::Fast)
}

fn more_room_keeps_everything(bed: &Bed) -> Result<()> {
    let mut server = start(bed)?;
    session(&server)?.batch_execute(USE)?;
    let left: String = session(&server)?.ask(LEFT)?;
    server.connect()?.batch_execute("ALTER SYSTEM SET ratelimit.partitions = 5")?;
    for keys in [1_000_000, 20_000] {
        resize(&mut server, keys)?;
        ensure!(session(&server)?.ask::<String>(LEFT)? == left, "with max_keys {keys}");
    }
    ensure!(!server.log().contains("ratelimit forgot"), "{}", server.log());
    Ok(())
}

fn less_room_keeps_who_is_denied(bed: &Bed) -> Result<()> {
    let mut server = start(bed)?;
    session(&server)?.batch_execute(
        "SELECT rl_penalize('bucket', 'key ' || n, CASE n % 20 WHEN 0 THEN 10 ELSE 1 END) FROM generate_series(1, 2000) AS n",
    )?;
    resize(&mut server, 100)?;
    let denied = "SELECT count(*) FROM generate_series(20, 2000, 20) AS n WHERE NOT rl_try_acquire('bucket', 'key ' || n)";
    ensure!(session(&server)?.ask::<i64>(denied)? == 100);
    let forgot = "of 2000 saved states: ratelimit.max_keys has no room for them";
    ensure!(server.log().contains(forgot), "{}", server.log());
    Ok(())
}

fn goes_back_to_the_last_save(bed: &Bed, crash: fn(&mut Server) -> Result<()>) -> Result<()> {
    let mut server = bed.private().setting("restart_after_crash", "on").start()?;
    Database::new(&server, "saved")?.connect()?.batch_execute(LIMITERS)?;
    session(&server)?.batch_execute(USE)?;
    let saved: String = session(&server)?.ask(LEFT)?;
    server.restart(Stop::Fast)?;
    for _ in 0..2 {
        session(&server)?.batch_execute(USE)?;
        ensure!(session(&server)?.ask::<String>(LEFT)? != saved);
        crash(&mut server)?;
        ensure!(session(&server)?.ask::<String>(LEFT)? == saved);
    }
    Ok(())
}

fn a_file_that_is_no_good(bed: &Bed) -> Result<()> {
    let mut server = start(bed)?;
    session(&server)?.batch_execute(USE)?;
    server.stop(Stop::Fast)?;
    let good = fs::read(file(&server))?;
    let half = &good[..good.len() / 2];
    let changed = |place: usize| {
        let mut bytes = good.clone();
        bytes[place] ^= 1;
        bytes
    };
    let cases: &[(&[u8], &str)] = &[
        (b"", "it ends too early"),
        (half, "it ends too early"),
        (&changed(good.len() / 2), "it is damaged"),
        (&changed(12), "it is damaged"),
        (&changed(good.len() - 1), "it is damaged"),
        (&changed(0), "it is no file of ratelimit"),
        (
            b"no file of ours, but with some length, so that a head would fit",
            "it is no file of ratelimit",
        ),
        (&changed(9), "its version 258 is newer than 2, which is known here"),
    ];
    for (bytes, why) in cases {
        fs::write(file(&server), bytes)?;
        let seen = server.log().len();
        server.start_again()?;
        let log = server.log();
        let lines: Vec<_> =
            log[seen..].lines().filter(|line| line.contains("LOG:  ratelimit")).collect();
        let expected =
            format!("LOG:  ratelimit starts without what \"ratelimit.state\" holds: {why}");
        ensure!(matches!(lines[..], [line] if line.ends_with(&expected)), "{why}: {lines:?}");
        let mut session = session(&server)?;
        ensure!(session.ask::<i64>("SELECT keys FROM rl_info()")? == 0, "{why}: it was loaded");
        ensure!(session.takes("bucket", "key 10")?, "{why}: it was loaded");
        drop(session);
        server.stop(Stop::Fast)?;
    }
    // What was written since is good, and the last one was not an accident.
    server.start_again()?;
    ensure!(session(&server)?.left("bucket", "key 10")? == 9);
    Ok(())
}

fn the_file_of_another_cluster(bed: &Bed) -> Result<()> {
    let (mut one, mut other) = (start(bed)?, bed.private().cluster_of_its_own().start()?);
    Database::new(&other, "saved")?;
    session(&one)?.batch_execute(USE)?;
    one.stop(Stop::Fast)?;
    other.stop(Stop::Fast)?;
    fs::copy(file(&one), file(&other))?;
    run(Command::new("chmod").arg("a+r").arg(file(&other)), b"")?;
    other.start_again()?;
    ensure!(session(&other)?.ask::<i64>("SELECT keys FROM rl_info()")? == 0);
    ensure!(other.log().contains("\"ratelimit.state\" holds: the cluster "), "{}", other.log());
    Ok(())
}

fn a_save_that_fails(bed: &Bed) -> Result<()> {
    let mut server = start(bed)?;
    fs::create_dir(file(&server))?;
    session(&server)?.batch_execute(USE)?;
    server.restart(Stop::Fast)?;
    ensure!(server.log().contains("ratelimit could not save its state"), "{}", server.log());
    ensure!(server.log().contains("holds: it cannot be read: Is a directory"), "{}", server.log());
    ensure!(session(&server)?.takes("bucket", "key 10")?);
    Ok(())
}
