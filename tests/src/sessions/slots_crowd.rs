//! Many sessions that fight for few slots, while transactions roll back, statements are cancelled, sessions are terminated and the server
//! crashes: there are never more holders than slots, and in the end all are free.
//!
//! `ACQUISITIONS=20000 make test T=crowd` goes on until so many slots were taken, and says what it saw.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure, Context, Result};
use postgres::{Client, Config, NoTls};
use testbed::Server;

use super::ask::{eventually, Ask};
use super::random::Random;
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] =
    &[("a_crowd_never_holds_more_slots_than_there_are", a_crowd_never_holds_more)];

const NAME: &str = "crowd";
const SESSIONS: usize = 64;
const CAPACITY: i64 = 7;
/// Without a number of acquisitions it goes on for so long.
const TIME: Duration = Duration::from_secs(20);
/// So often the server crashes meanwhile.
const CRASHES: u32 = 2;
/// What one session does in ten is to take a lease.
const LEASE: u64 = 0;

/// What the test knows of a session, which may be interrupted from outside at any time.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// It holds a slot, and was not interrupted since: then the slot would not be its own any more.
    holds: bool,
    /// It was interrupted, and has not begun anything new since. What it is given meanwhile does not count.
    interrupted: bool,
    /// It is not interrupted: nobody would know the token of the lease that it asks for.
    spared: bool,
}

/// One of the sessions, as it is seen by those who interrupt it.
struct Member {
    state: Mutex<State>,
    /// The process that serves it.
    pid: AtomicI64,
}

/// All that happens, counted outside of the server.
struct Crowd {
    config: Config,
    members: Vec<Member>,
    holders: AtomicI64,
    /// The most holders there have been.
    most: AtomicI64,
    acquired: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    over: AtomicBool,
}

impl Member {
    /// While this is held the session's state stays, and the session does not go on.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Crowd {
    fn connect(&self, number: usize) -> Result<Client> {
        let mut client = self.config.connect(NoTls)?;
        self.members[number].pid.store(client.pid()?.into(), Ordering::SeqCst);
        Ok(client)
    }

    /// The session begins something new.
    fn begins(&self, number: usize, spared: bool) {
        self.is_now(&mut self.members[number].state(), State { spared, ..State::default() });
    }

    /// The session has been given a slot, or not. It counts from now on, which is later than it was given.
    fn took(&self, number: usize, got: bool) -> bool {
        if !got {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        self.acquired.fetch_add(1, Ordering::Relaxed);
        let mut state = self.members[number].state();
        if !state.interrupted {
            state.holds = true;
            let holders = self.holders.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(holders, Ordering::SeqCst);
        }
        true
    }

    /// The session keeps its slot for a moment, and is about to give it back: it does not count any more.
    fn holds(&self, number: usize, time: Duration) {
        std::thread::sleep(time);
        let mut state = self.members[number].state();
        let next = State { holds: false, ..*state };
        self.is_now(&mut state, next);
    }

    fn is_now(&self, state: &mut State, next: State) {
        if state.holds && !next.holds {
            self.holders.fetch_sub(1, Ordering::SeqCst);
        }
        *state = next;
    }

    /// What one session does, until it is over.
    fn member(&self, number: usize) -> Result<()> {
        let mut random = Random::new(number as u64 + 1);
        let mut client = self.connect(number)?;
        while !self.over.load(Ordering::Relaxed) {
            let what = random.below(10);
            self.begins(number, what == LEASE);
            if self.one(number, &mut client, &mut random, what).is_ok() {
                continue;
            }
            self.failed.fetch_add(1, Ordering::Relaxed);
            self.begins(number, false);
            let start = Instant::now();
            while client.is_closed() || client.batch_execute("ROLLBACK").is_err() {
                // The server may have crashed.
                ensure!(start.elapsed() < Duration::from_secs(60), "cannot connect again");
                match self.connect(number) {
                    Ok(connected) => client = connected,
                    Err(_) => std::thread::sleep(Duration::from_millis(50)),
                }
            }
        }
        Ok(())
    }

    /// Takes a slot of some kind, keeps it for a moment, and gives it back in some way.
    fn one(
        &self,
        number: usize,
        client: &mut Client,
        random: &mut Random,
        what: u64,
    ) -> Result<()> {
        let time = Duration::from_micros(random.below(3_000));
        match what {
            LEASE => {
                let lease = "SELECT rl_lease('export', 'key', '1 minute', '1 s')::text";
                let token: Option<String> = client.ask(lease)?;
                if self.took(number, token.is_some()) {
                    self.holds(number, time);
                    let token = token.unwrap_or_default();
                    client.batch_execute(&format!("SELECT rl_release_lease('{token}')"))?;
                }
            }
            1 | 2 => {
                if self.took(number, client.ask("SELECT rl_session_slot('export', 'key', '1 s')")?)
                {
                    self.holds(number, time);
                    // A release that was cancelled is tried again.
                    let release = "SELECT rl_release_session_slot('export', 'key')";
                    while client.batch_execute(release).is_err() {
                        ensure!(!client.is_closed(), "terminated");
                    }
                }
            }
            3 => {
                // A part of a transaction, which is rolled back.
                client.batch_execute("BEGIN; SAVEPOINT s")?;
                if self.took(number, client.ask("SELECT rl_try_slot('export', 'key')")?) {
                    self.holds(number, time);
                }
                client.batch_execute("ROLLBACK TO s; COMMIT")?;
            }
            4 => {
                client.batch_execute("BEGIN")?;
                if self.took(number, client.ask("SELECT rl_try_acquire('export', 'key')")?) {
                    self.holds(number, time);
                }
                let _ = client.batch_execute("SELECT 1 / 0");
                client.batch_execute("ROLLBACK")?;
            }
            other => {
                client.batch_execute("BEGIN")?;
                if self.took(number, client.ask("SELECT rl_slot('export', 'key', '1 s')")?) {
                    self.holds(number, time);
                }
                client.batch_execute(if other % 2 == 0 { "COMMIT" } else { "ROLLBACK" })?;
            }
        }
        Ok(())
    }

    /// Cancels or terminates sessions at random.
    fn interrupt(&self) -> Result<()> {
        let mut random = Random::new(0);
        let mut admin = None;
        while !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(random.below(10)));
            let terminate = random.below(4) == 0;
            let number = random.below(SESSIONS as u64) as usize;
            let Some(client) = admin.as_mut() else {
                admin = self.config.connect(NoTls).ok();
                continue;
            };
            let mut state = self.members[number].state();
            let function = if terminate { "pg_terminate_backend" } else { "pg_cancel_backend" };
            if state.spared {
                continue;
            }
            self.is_now(&mut state, State { interrupted: true, ..State::default() });
            let pid = self.members[number].pid.load(Ordering::SeqCst);
            if client.batch_execute(&format!("SELECT {function}({pid})")).is_err() {
                admin = None;
            }
        }
        Ok(())
    }

    /// Looks into the server from outside; returns the most slots seen there, and how often it looked.
    fn watch(&self) -> Result<(i64, u64)> {
        let (mut most, mut looks, mut client) = (0, 0, None);
        while !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
            let Some(session) = client.as_mut() else {
                client = self.config.connect(NoTls).ok();
                continue;
            };
            let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted";
            match (session.ask::<i64>(locks), session.ask::<i64>("SELECT count(*) FROM rl_slots")) {
                (Ok(locks), Ok(slots)) => {
                    most = most.max(locks).max(slots);
                    looks += 1;
                }
                _ => client = None,
            }
        }
        Ok((most, looks))
    }

    /// Kills a session's process with a signal that it cannot handle, which restarts the server.
    fn crash(&self, server: &mut Server) -> Result<()> {
        // What they held is gone in one moment.
        let mut states: Vec<_> = self.members.iter().map(Member::state).collect();
        for state in &mut states {
            self.is_now(state, State { interrupted: true, ..State::default() });
        }
        let pids = || self.members.iter().map(|member| member.pid.load(Ordering::SeqCst));
        let before = server.crashes();
        for pid in pids() {
            server.kill(i32::try_from(pid)?)?;
            if server.crashes() > before {
                break;
            }
        }
        server.wait_for_crash(before)
    }
}

fn a_crowd_never_holds_more(bed: &Bed) -> Result<()> {
    let asked: Option<u64> = std::env::var("ACQUISITIONS").ok().map(|n| n.parse()).transpose()?;
    let mut server = bed.private().setting("restart_after_crash", "on").start()?;
    let mut session = Database::new(&server, NAME)?.connect()?;
    session.batch_execute(&format!(
        "SELECT rl_create_limiter('export', max_concurrent => {CAPACITY})"
    ))?;
    session.close()?;
    let mut config = server.config();
    config.dbname(NAME);
    let members = (0..SESSIONS).map(|_| Member { state: Mutex::default(), pid: AtomicI64::new(0) });
    let crowd = Crowd {
        config,
        members: members.collect(),
        holders: AtomicI64::new(0),
        most: AtomicI64::new(0),
        acquired: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        over: AtomicBool::new(false),
    };

    let start = Instant::now();
    let is_over = |part: f64| {
        let acquired = crowd.acquired.load(Ordering::Relaxed) as f64;
        asked.map_or(start.elapsed().as_secs_f64() >= part * TIME.as_secs_f64(), |all| {
            acquired >= part * all as f64
        })
    };
    let (seen, looks) = std::thread::scope(|scope| -> Result<_> {
        let crowd = &crowd;
        let members: Vec<_> = (0..SESSIONS).map(|n| scope.spawn(move || crowd.member(n))).collect();
        let interrupter = scope.spawn(|| crowd.interrupt());
        let watcher = scope.spawn(|| crowd.watch());
        let ran = (1..=CRASHES + 1).try_for_each(|part| {
            while !is_over(f64::from(part) / f64::from(CRASHES + 1)) {
                std::thread::sleep(Duration::from_millis(20));
                let dead = members.iter().any(|member| member.is_finished());
                ensure!(!dead, "a session has given up");
            }
            if part <= CRASHES {
                crowd.crash(&mut server).context("crash")?;
            }
            Ok(())
        });
        crowd.over.store(true, Ordering::Relaxed);
        let panicked = |_| anyhow!("a thread panicked");
        for member in members {
            member.join().map_err(panicked)??;
        }
        interrupter.join().map_err(panicked)??;
        let seen = watcher.join().map_err(panicked)??;
        ran.map(|()| seen)
    })?;

    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let most = crowd.most.load(Ordering::SeqCst);
    eprintln!(
        "{} slots were taken by {SESSIONS} sessions in {:.1} s, {} calls got none, {} statements failed, {CRASHES} crashes; \
         at most {most} holders at a time, in the server {seen} in {looks} looks",
        count(&crowd.acquired), start.elapsed().as_secs_f64(), count(&crowd.refused), count(&crowd.failed),
    );
    ensure!(most <= CAPACITY && seen <= CAPACITY, "{most} or {seen} holders of {CAPACITY} slots");
    ensure!(most == CAPACITY, "the slots were never all taken");
    ensure!(count(&crowd.acquired) > 500, "hardly any slot was taken");

    let mut session = server.connect_to(NAME, "postgres")?;
    // Leases that were saved, and released before a crash, have an end of their own.
    session.batch_execute("SELECT rl_release_lease(token) FROM rl_slots WHERE kind = 'lease'")?;
    let all: i64 = session.ask("SELECT remaining FROM rl_peek('export', 'key', 0)")?;
    ensure!(all == CAPACITY, "{all} of {CAPACITY} slots are free");
    eventually("no lock is left", || {
        session.ask("SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory'")
    })
}
