//! Leases outlive those who took them, and the server. A slot that nobody has any more is found.

use std::fs;

use anyhow::{ensure, Context, Result};
use postgres::Client;
use ratelimit_saved::{read, Entry};
use testbed::{Server, Stop};

use super::ask::{ensure_code, eventually, Ask};
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("leases_survive_a_restart_to_the_microsecond", survive_a_restart),
    ("leases_go_back_to_the_last_save_in_a_crash", go_back_to_the_last_save),
    ("leases_that_find_no_room_are_a_line_in_the_log", find_no_room),
    ("expired_leases_are_swept", expired_leases_are_swept),
    ("expired_leases_make_room_for_other_keys", expired_leases_make_room),
];

const NAME: &str = "leases";

fn connect(server: &Server) -> Result<Client> {
    server.connect_to(NAME, "postgres")
}

/// A server that sweeps only when it must, and saves only when it is shut down.
fn start(bed: &Bed, settings: &[(&str, &str)]) -> Result<Server> {
    let mut builder = bed.private().setting("restart_after_crash", "on");
    for (name, value) in [("ratelimit.purge_interval", "0")].iter().chain(settings) {
        builder = builder.setting(name, value);
    }
    let server = builder.start()?;
    Database::new(&server, NAME)?
        .connect()?
        .batch_execute("SELECT rl_create_limiter('export', max_concurrent => 2)")?;
    Ok(server)
}

fn lease(session: &mut Client, key: &str, ttl: &str) -> Result<Option<String>> {
    session.ask(&format!("SELECT rl_try_lease('export', '{key}', '{ttl}')::text"))
}

fn token(session: &mut Client, key: &str, ttl: &str) -> Result<String> {
    lease(session, key, ttl)?.with_context(|| format!("all slots of {key} are taken"))
}

fn release(session: &mut Client, token: &str) -> Result<bool> {
    session.ask(&format!("SELECT rl_release_lease('{token}')"))
}

/// Who holds what, in order.
fn held(session: &mut Client) -> Result<String> {
    session.ask(
        "SELECT coalesce(string_agg(concat_ws(' ', limiter, key, kind, token), E'\\n' ORDER BY token), 'nobody') FROM rl_slots",
    )
}

/// The leases in the file of a server that was shut down, with all that is known of them.
fn saved(server: &Server) -> Result<Vec<String>> {
    let bytes = fs::read(server.pgdata().join("ratelimit.state"))?;
    let system = u64::from_le_bytes(bytes.get(12..20).context("too short")?.try_into()?);
    let mut leases = Vec::new();
    read(&bytes[..], system, |entry| {
        if let Entry::Lease(lease) = entry {
            leases.push(format!("{lease:?}"));
        }
    })?;
    Ok(leases)
}

fn survive_a_restart(bed: &Bed) -> Result<()> {
    let mut server = start(bed, &[])?;
    let mut session = connect(&server)?;
    let long = "k".repeat(1_000);
    let mut tokens = Vec::new();
    for key in ["a", "a", "b", &long, ""] {
        tokens.push(token(&mut session, key, "1 day")?);
    }
    ensure!(release(&mut session, &tokens[0])?);
    let before = held(&mut session)?;
    // A slot of a session goes with the session.
    session.batch_execute("SELECT rl_try_session_slot('export', 'b')")?;
    session.close()?;
    server.stop(Stop::Fast)?;
    let first = saved(&server)?;
    ensure!(first.len() == 4, "{first:?}");

    server.start_again()?;
    let after = held(&mut connect(&server)?)?;
    ensure!(after == before, "{before}\nbecame\n{after}");
    server.stop(Stop::Fast)?;
    ensure!(saved(&server)? == first, "{first:?}\nbecame\n{:?}", saved(&server)?);

    server.start_again()?;
    let mut session = connect(&server)?;
    token(&mut session, "a", "1 day")?;
    ensure!(lease(&mut session, "a", "1 day")?.is_none());
    ensure!(!release(&mut session, &tokens[0])?, "it was released before the restart");
    for token in &tokens[1..] {
        ensure!(session.ask::<bool>(&format!("SELECT rl_renew_lease('{token}', '2 days')"))?);
        ensure!(release(&mut session, token)? && !release(&mut session, token)?);
    }
    ensure!(!server.log().contains("LOG:  ratelimit"), "{}", server.log());
    Ok(())
}

fn go_back_to_the_last_save(bed: &Bed) -> Result<()> {
    let mut server = start(bed, &[])?;
    let kept = token(&mut connect(&server)?, "a", "1 day")?;
    server.restart(Stop::Fast)?;
    let mut session = connect(&server)?;
    let lost = token(&mut session, "a", "1 day")?;
    ensure!(lease(&mut session, "a", "1 day")?.is_none());
    let pid = session.pid()?;
    server.crash(pid)?;
    let mut session = connect(&server)?;
    ensure!(held(&mut session)? == format!("export a lease {kept}"), "{}", held(&mut session)?);
    ensure!(!release(&mut session, &lost)?);
    token(&mut session, "a", "1 day")?;
    ensure!(release(&mut session, &kept)?);
    Ok(())
}

fn find_no_room(bed: &Bed) -> Result<()> {
    let mut server = start(bed, &[("ratelimit.max_slots", "20")])?;
    let mut session = connect(&server)?;
    session.batch_execute(
        "SELECT rl_try_lease('export', 'key ' || n, '1 day') FROM generate_series(1, 20) AS n",
    )?;
    session.batch_execute("ALTER SYSTEM SET ratelimit.max_slots = 15")?;
    session.close()?;
    server.restart(Stop::Fast)?;
    let mut session = connect(&server)?;
    ensure!(session.ask::<i64>("SELECT count(*) FROM rl_slots")? == 15);
    let forgot = "ratelimit forgot 5 of 20 saved leases: ratelimit.max_slots has no room for them";
    ensure!(server.log().contains(forgot), "{}", server.log());
    // A token says in which slot a lease was; those that moved are found all the same.
    let released = "SELECT count(*) FROM rl_slots WHERE rl_release_lease(token)";
    ensure!(session.ask::<i64>(released)? == 15);
    ensure!(held(&mut session)? == "nobody");
    Ok(())
}

fn expired_leases_are_swept(bed: &Bed) -> Result<()> {
    let server = start(bed, &[("ratelimit.max_slots", "2")])?;
    let mut session = connect(&server)?;
    token(&mut session, "a", "1 ms")?;
    token(&mut session, "b", "1 day")?;
    session.batch_execute("SELECT pg_sleep(0.01), rl_purge()")?;
    // Nobody swept for this one: there was room.
    token(&mut session, "c", "1 day")?;
    ensure_code(&session.refused("SELECT rl_try_lease('export', 'd', '1 day')")?, "53400")
}

fn expired_leases_make_room(bed: &Bed) -> Result<()> {
    let server = start(bed, &[("ratelimit.max_slots", "1")])?;
    let mut session = connect(&server)?;
    for take in ["rl_try_slot('export', 'b')", "rl_slot('export', 'c')", "rl_check('export', 'd')"]
    {
        token(&mut session, "a", "1 ms")?;
        eventually("the lease of another key makes room", || {
            Ok(session.batch_execute(&format!("SELECT {take}")).is_ok())
        })?;
    }
    token(&mut session, "a", "1 day")?;
    for take in
        ["rl_try_slot('export', 'b')", "rl_slot('export', 'c')", "rl_lease('export', 'd', '1 s')"]
    {
        ensure_code(&session.refused(&format!("SELECT {take}"))?, "53400")?;
    }
    Ok(())
}
