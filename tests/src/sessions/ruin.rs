//! Servers that are ruined while clients work, again and again. Each client writes down what it was granted; afterwards durable limits
//! count exactly what was committed, and limits in memory at least what a finished save has seen, and at most what was granted.
//!
//! `ROUNDS=50 make test T=ruin` does it so many times, and says what it saw.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{bail, ensure, Context, Result};
use postgres::{Client, Statement};
use testbed::{Server, Stop};

use super::ask::{eventually, Ask, AGE};
use super::kinds::{Kind, ALGORITHMS, KINDS};
use super::worker::{a_round_ends, launcher, with_worker, LONGEST};
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[("counts_survive_every_ruin_under_load", every_ruin)];

/// What can happen to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ruin {
    ASessionIsKilled,
    AnImmediateStop,
    APowerCut,
    TheLauncherIsKilled,
    AWorkerIsKilled,
    /// Not a ruin: nothing at all may be lost.
    AFastStop,
}

use Ruin::*;

const RUINS: [Ruin; 6] =
    [ASessionIsKilled, AnImmediateStop, APowerCut, TheLauncherIsKilled, AWorkerIsKilled, AFastStop];

const CLIENTS: usize = 8;
/// A transaction takes at most so often, at most so much.
const STEPS: usize = 4;
const MOST: i64 = 3;
/// In each round every client ends at least so many transactions.
const TRANSACTIONS: usize = 20;

const NAME: &str = "ruin";

/// A limiter and a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    kind: &'static str,
    algorithm: &'static str,
    key: String,
}

impl Place {
    fn limiter(&self) -> String {
        format!("{} {}", self.kind, self.algorithm)
    }

    fn is(&self, kind: Kind) -> bool {
        self.kind == kind.name()
    }
}

/// A log remembers so many at most; one of the others comes back in nine hours.
fn quota(algorithm: &str) -> i64 {
    match algorithm {
        "sliding_log" => 1_000,
        _ => 100_000,
    }
}

/// Who was granted how much.
type Book = BTreeMap<Place, i64>;

fn of(book: &Book, place: &Place) -> i64 {
    book.get(place).copied().unwrap_or(0)
}

fn sum(mut book: Book, entries: impl IntoIterator<Item = (Place, i64)>) -> Book {
    add(&mut book, entries);
    book
}

fn add(book: &mut Book, entries: impl IntoIterator<Item = (Place, i64)>) {
    for (place, cost) in entries {
        *book.entry(place).or_default() += cost;
    }
}

fn open<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Dice that fall the same way in each run (Steele and others, "Fast splittable pseudorandom number generators", 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

/// What the clients of one round share.
#[derive(Default)]
struct Round {
    /// What counts, as the server has answered: for `keep` a take, for the others a commit.
    granted: Mutex<Book>,
    /// How many transactions each client has ended.
    ended: [AtomicUsize; CLIENTS],
    /// How many rows were removed, mostly from ledgers that were folded.
    folded: AtomicUsize,
    ruined: AtomicBool,
}

/// A session that takes and writes down what it gets.
struct Caller<'a> {
    session: Client,
    take: Statement,
    dice: Dice,
    round: &'a Round,
    keys: [String; 3],
    /// What the open transaction gives back if it rolls back.
    open: Vec<(Place, i64)>,
    /// What counts if the server has done what it was last asked and has not answered yet.
    doubt: Vec<(Place, i64)>,
}

impl Caller<'_> {
    fn transaction(&mut self) -> Result<(), postgres::Error> {
        if self.dice.below(4) == 0 {
            let place = self.place();
            self.doubt = vec![(place.clone(), 1)];
            let granted = self.ask(&place, 1)?;
            self.counts(vec![(place, granted)]);
            return Ok(());
        }
        self.session.batch_execute("BEGIN")?;
        self.steps()?;
        if self.dice.below(3) == 0 {
            let before = self.open.len();
            self.session.batch_execute("SAVEPOINT s")?;
            self.steps()?;
            if self.dice.below(2) == 0 {
                self.session.batch_execute("ROLLBACK TO s")?;
                self.open.truncate(before);
                self.steps()?;
            }
        }
        if self.dice.below(4) == 0 {
            self.session.batch_execute("ROLLBACK")?;
            self.open.clear();
            return Ok(());
        }
        self.doubt = std::mem::take(&mut self.open);
        self.session.batch_execute("COMMIT")?;
        let granted = std::mem::take(&mut self.doubt);
        self.counts(granted);
        Ok(())
    }

    /// Takes of some keys.
    fn steps(&mut self) -> Result<(), postgres::Error> {
        for _ in 0..=self.dice.below(STEPS) {
            let (place, cost) = (self.place(), 1 + self.dice.below(MOST as usize) as i64);
            if place.is(Kind::Keep) {
                self.doubt = vec![(place.clone(), cost)];
                let granted = self.ask(&place, cost)?;
                self.counts(vec![(place, granted)]);
            } else {
                let granted = self.ask(&place, cost)?;
                self.open.push((place, granted));
            }
        }
        Ok(())
    }

    fn place(&mut self) -> Place {
        // Half of all is durable.
        let kind = [Kind::Keep, Kind::Refund, Kind::Durable, Kind::Durable][self.dice.below(4)];
        let algorithm = ALGORITHMS[self.dice.below(4)];
        let key = self.keys[self.dice.below(self.keys.len())].clone();
        Place { kind: kind.name(), algorithm, key }
    }

    fn ask(&mut self, place: &Place, cost: i64) -> Result<i64, postgres::Error> {
        self.session.query_one(&self.take, &[&place.limiter(), &place.key, &cost])?.try_get(0)
    }

    fn counts(&mut self, granted: Vec<(Place, i64)>) {
        add(&mut open(&self.round.granted), granted);
        self.doubt.clear();
    }

    /// Works until the server is ruined; the answer is what is in doubt then.
    fn work(mut self, ended: &AtomicUsize) -> Result<Vec<(Place, i64)>> {
        loop {
            match self.transaction() {
                Ok(()) => ended.fetch_add(1, Ordering::SeqCst),
                Err(error) => return self.round.ensure_end(error).map(|()| self.doubt),
            };
        }
    }
}

impl Round {
    /// An error is right if the server was ruined, and the session is over.
    fn ensure_end(&self, error: postgres::Error) -> Result<()> {
        let is_end = error.code().is_none_or(|code| code.code().starts_with("57P"));
        ensure!(is_end && self.ruined.load(Ordering::SeqCst), "the server did not work: {error:?}");
        Ok(())
    }

    /// Folds all the time, also what is not worth it.
    fn keep_house(&self, mut session: Client) -> Result<()> {
        loop {
            match session.query_one("SELECT rl_purge()", &[]) {
                Ok(row) => {
                    let rows = usize::try_from(row.try_get::<_, i64>(0)?)?;
                    self.folded.fetch_add(rows, Ordering::SeqCst);
                }
                Err(error) => return self.ensure_end(error),
            }
        }
    }
}

/// One that nobody has seen before replaces the file at each save.
fn last_save(server: &Server) -> Option<(u64, SystemTime)> {
    let file = fs::metadata(server.pgdata().join("ratelimit.state")).ok()?;
    Some((file.ino(), file.modified().ok()?))
}

/// Watches saves until there were two, and all clients have done something. The answer is what was granted before the save began
/// that is now the last.
fn watch(server: &Server, round: &Round) -> Result<Book> {
    let mut seen = last_save(server);
    let (mut saved, mut next, mut saves) = (Book::new(), Book::new(), 0);
    eventually("clients work, and shared memory is saved", || {
        let last = last_save(server);
        if last != seen {
            // The one that comes after this one begins from now on.
            saved = std::mem::replace(&mut next, open(&round.granted).clone());
            saves += 1;
            seen = last;
        }
        let busy = |ended: &AtomicUsize| ended.load(Ordering::SeqCst) >= TRANSACTIONS;
        Ok(saves >= 2 && round.folded.load(Ordering::SeqCst) > 0 && round.ended.iter().all(busy))
    })?;
    Ok(saved)
}

fn ruin(ruin: Ruin, server: &mut Server, session: &mut Client, victim: i32) -> Result<()> {
    match ruin {
        ASessionIsKilled => server.crash(victim),
        TheLauncherIsKilled => {
            let launcher = launcher(session, &[])?;
            server.crash(launcher)
        }
        AWorkerIsKilled => {
            let before = server.crashes();
            eventually("a worker is killed", || {
                // This session ends with it.
                let _ = with_worker(session, |_, worker| server.kill(worker));
                Ok(session.is_closed() || server.crashes() > before)
            })?;
            server.wait_for_crash(before)
        }
        AnImmediateStop => server.restart(Stop::Immediate),
        APowerCut => {
            server.cut_power()?;
            server.start_again()
        }
        AFastStop => {
            let start = Instant::now();
            server.stop(Stop::Fast)?;
            ensure!(start.elapsed() < LONGEST, "the stop took {:?}", start.elapsed());
            server.start_again()
        }
    }
}

/// What the server says is used.
fn used(server: &Server, places: impl Iterator<Item = Place>) -> Result<Book> {
    let mut session = server.connect_to(NAME, "postgres")?;
    let peek = session.prepare("SELECT quota - remaining FROM rl_peek($1, $2, 0)")?;
    places
        .map(|place| {
            let row = session.query_one(&peek, &[&place.limiter(), &place.key])?;
            Ok((place, row.try_get(0)?))
        })
        .collect()
}

/// Finds out which of the transactions in doubt were committed, as far as durable limits tell: whole ones, or nothing of them. The
/// answer is what counts then, how many were in doubt, and how many were committed.
fn committed(granted: &Book, doubts: &[Book], used: &Book) -> Result<(Book, usize, usize)> {
    let durable = |place: &Place| place.is(Kind::Durable);
    let matters = |doubt: &&Book| doubt.iter().any(|(place, cost)| durable(place) && *cost > 0);
    let doubts: Vec<_> = doubts.iter().filter(matters).collect();
    for some in 0_usize..1 << doubts.len() {
        let chosen = doubts.iter().enumerate().filter(|(n, _)| some >> n & 1 == 1);
        let book = chosen.fold(granted.clone(), |book, (_, doubt)| sum(book, (*doubt).clone()));
        if used.iter().all(|(place, n)| !durable(place) || of(&book, place) == *n) {
            return Ok((book, doubts.len(), some.count_ones() as usize));
        }
    }
    let wrong = used.iter().filter(|(place, n)| durable(place) && of(granted, place) != **n);
    let wrong = wrong.map(|(place, n)| format!("{place:?}: {n}, not {}", of(granted, place)));
    let wrong: Vec<_> = wrong.collect();
    bail!("no commits explain what is used:\n{}\nin doubt: {doubts:?}", wrong.join("\n"))
}

/// Checks what memory holds after a ruin; the answer is how much was lost of one key at most.
fn ensure_memory(
    ruin: Ruin,
    saved: &Book,
    granted: &Book,
    doubts: &[Book],
    used: &Book,
) -> Result<i64> {
    let mut lost = 0;
    for (place, used) in used.iter().filter(|(place, _)| !place.is(Kind::Durable)) {
        let least = if ruin == AFastStop { of(granted, place) } else { of(saved, place) };
        let doubt: i64 = doubts.iter().map(|doubt| of(doubt, place)).sum();
        // After a crash nobody gives back what was open at the save; and buckets that several transactions give back to get a little less.
        let is_exact = ruin == AFastStop && place.algorithm != "token_bucket";
        let stuck = match place.is(Kind::Refund) && !is_exact {
            true => (CLIENTS * 2 * STEPS) as i64 * MOST,
            false => 0,
        };
        let most = of(granted, place) + doubt + stuck;
        ensure!(*used >= least, "{place:?}: {used} used, after a save of {least}");
        ensure!(*used <= most, "{place:?}: {used} used of {most} granted");
        lost = lost.max(of(granted, place) - used);
    }
    Ok(lost)
}

/// What many rounds have shown.
#[derive(Debug, Default)]
struct Figures {
    rounds: usize,
    transactions: usize,
    folded: usize,
    /// Commits without an answer, and how many of them there were nevertheless.
    in_doubt: usize,
    done: usize,
    /// Of one key in memory.
    most_lost: i64,
    granted: i64,
}

/// Lets clients work and ruins the server meanwhile. The answer is what the last save must have seen, and for each client what is in
/// doubt.
fn work_and_ruin(server: &mut Server, number: usize, round: &Round) -> Result<(Book, Vec<Book>)> {
    let mut dice = Dice(number as u64);
    let (mut callers, mut pids) = (Vec::new(), Vec::new());
    for client in 0..CLIENTS {
        let mut session = server.connect_to(NAME, "postgres")?;
        pids.push(session.pid()?);
        callers.push(Caller {
            take: session.prepare("SELECT rl_take($1, $2, $3)")?,
            session,
            dice: Dice((number * CLIENTS + client) as u64 + 1_000_000),
            round,
            keys: ["hot".into(), format!("round {number}"), format!("client {client}")],
            open: Vec::new(),
            doubt: Vec::new(),
        });
    }
    let mut house_keeper = server.connect_to(NAME, "postgres")?;
    pids.push(house_keeper.pid()?);
    std::thread::scope(|scope| {
        let callers = callers.into_iter().zip(&round.ended);
        let threads: Vec<_> =
            callers.map(|(caller, ended)| scope.spawn(|| caller.work(ended))).collect();
        let house_keeper = scope.spawn(|| round.keep_house(house_keeper));
        let mut ruined = || {
            let mut observer = server.connect_to(NAME, "postgres")?;
            let saved = watch(server, round)?;
            std::thread::sleep(Duration::from_millis(dice.below(200) as u64));
            round.ruined.store(true, Ordering::SeqCst);
            ruin(
                RUINS[number % RUINS.len()],
                server,
                &mut observer,
                pids[dice.below(CLIENTS + 1)],
            )?;
            Ok(saved)
        };
        let saved: Result<Book> = ruined();
        if saved.is_err() {
            // Else the clients would go on for ever.
            round.ruined.store(true, Ordering::SeqCst);
            let _ = server.stop(Stop::Immediate);
        }
        let doubts = threads.into_iter().map(|thread| {
            let doubt = thread.join().unwrap_or_else(|_| bail!("a client panicked"))?;
            Ok(doubt.into_iter().fold(Book::new(), |book, doubt| sum(book, [doubt])))
        });
        let doubts = doubts.collect::<Result<Vec<_>>>();
        house_keeper.join().unwrap_or_else(|_| bail!("the house-keeper panicked"))?;
        match (saved, doubts) {
            (Err(error), Err(cause)) => Err(cause.context(error)),
            (saved, doubts) => Ok((saved?, doubts?)),
        }
    })
}

/// One round; `before` is what was used when it began, and becomes what is used when it ends.
fn round(server: &mut Server, number: usize, before: &mut Book, all: &mut Figures) -> Result<()> {
    let round = Round { granted: Mutex::new(before.clone()), ..Round::default() };
    let (saved, doubts) = work_and_ruin(server, number, &round)?;

    let granted = std::mem::take(&mut *open(&round.granted));
    let places = doubts.iter().fold(granted.clone(), |book, doubt| sum(book, doubt.clone()));
    let used = used(server, places.into_keys())?;
    let (counted, in_doubt, done) = committed(&granted, &doubts, &used)?;
    let lost = ensure_memory(RUINS[number % RUINS.len()], &saved, &granted, &doubts, &used)?;
    for (place, granted) in &counted {
        ensure!(*granted <= quota(place.algorithm), "{place:?}: {granted} is above the quota");
    }
    let mut session = server.connect_to(NAME, "postgres")?;
    launcher(&mut session, &[])?;
    with_worker(&mut session, |_, _| Ok(()))?;
    a_round_ends(&mut session)?;

    all.rounds += 1;
    all.transactions += round.ended.iter().map(|n| n.load(Ordering::SeqCst)).sum::<usize>();
    all.folded += round.folded.load(Ordering::SeqCst);
    all.granted += granted.values().sum::<i64>() - before.values().sum::<i64>();
    all.in_doubt += in_doubt;
    all.done += done;
    all.most_lost = all.most_lost.max(lost);
    *before = used;
    Ok(())
}

fn every_ruin(bed: &Bed) -> Result<()> {
    let asked = std::env::var("ROUNDS").ok();
    let rounds = asked.as_deref().map_or(Ok(RUINS.len()), str::parse)?;
    let mut server = bed
        .private()
        .setting("restart_after_crash", "on")
        .setting("ratelimit.purge_interval", "100ms")
        .setting("ratelimit.save_interval", "1s")
        .start()?;
    let mut session = Database::new(&server, NAME)?.connect()?;
    for (kind, algorithm) in KINDS.iter().flat_map(|kind| ALGORITHMS.map(|name| (*kind, name))) {
        let rates = format!("{} per {AGE}", quota(algorithm));
        kind.create(&mut session, &format!("{} {algorithm}", kind.name()), &rates, algorithm)?;
    }
    session.close()?;

    let (mut book, mut figures) = (Book::new(), Figures::default());
    for number in 0..rounds {
        round(&mut server, number, &mut book, &mut figures)
            .with_context(|| format!("round {number}: {:?}", RUINS[number % RUINS.len()]))?;
    }
    // What was found after all that is still there after a stop that loses nothing, and folding has not changed it.
    server.restart(Stop::Fast)?;
    let last = used(&server, book.keys().cloned())?;
    ensure!(last == book, "{book:?} became {last:?}");
    if asked.is_some() {
        println!("{figures:?}");
    }
    Ok(())
}
