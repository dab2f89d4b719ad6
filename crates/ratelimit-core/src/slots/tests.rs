extern crate std;

mod model;

use std::vec::Vec;

use super::*;
use crate::{DAY, MINUTE, SECOND};

const NOW: Micros = 1_700_000_000_000_000;
const DATABASE: u32 = 5;
const A: Key = [1, 1];
const B: Key = [3, u64::MAX];

/// Memory with a record of who was woken.
struct Server {
    memory: OwnedMemory,
    woken: Vec<u32>,
}

impl Server {
    fn new(slots: usize) -> Self {
        Server { memory: OwnedMemory::new(Shape::new(slots, 10)), woken: Vec::new() }
    }
    fn run<T>(&mut self, run: impl FnOnce(&mut Slots<'_>) -> T) -> T {
        let woken = &mut self.woken;
        run(&mut self.memory.slots(&mut |process| woken.push(process)))
    }
    /// Whom this wakes.
    fn wakes(&mut self, run: impl FnOnce(&mut Slots<'_>)) -> Vec<u32> {
        self.woken.clear();
        self.run(run);
        core::mem::take(&mut self.woken)
    }
    fn take(&mut self, key: Key, capacity: u32, process: u32) -> Result<u32, Refused> {
        self.run(|slots| slots.try_take(key, capacity, NOW, &session(process)))
    }
    fn lease(&mut self, key: Key, capacity: u32, ttl: Micros) -> Token {
        self.run(|slots| {
            let index = slots.try_take(key, capacity, NOW, &lease(9, 7, ttl)).unwrap();
            slots.holding(index).unwrap().token.unwrap()
        })
    }
    fn wait(&mut self, key: Key, capacity: u32, processes: core::ops::Range<u32>) {
        for process in processes {
            let outcome = self.run(|slots| slots.enqueue(key, capacity, NOW, &session(process)));
            assert_eq!(outcome, Outcome::Waiting);
        }
    }
    fn outcome(&mut self, process: u32) -> Option<Outcome> {
        self.run(|slots| slots.outcome(process, NOW))
    }
}

fn claim(terms: Terms, process: u32) -> Claim<'static> {
    Claim {
        terms,
        process,
        pid: 4000 + process as i32,
        database: DATABASE,
        limiter: [7; 16],
        text: b"k",
    }
}

fn session(process: u32) -> Claim<'static> {
    claim(Terms::Session, process)
}

fn lease(process: u32, random: u8, ttl: Micros) -> Claim<'static> {
    claim(Terms::Lease { random: [random; 16], ttl, durable: false }, process)
}

/// What was read before a restart.
fn saved_lease(key: Key, token: Token, expires: Micros) -> Lease {
    let text = Text::new(b"k");
    Lease {
        token,
        key,
        durable: false,
        database: DATABASE,
        limiter: [7; 16],
        since: NOW,
        expires,
        text,
    }
}

#[test]
fn all_kinds_share_the_capacity_of_a_key() {
    let mut server = Server::new(9);
    for claim in [claim(Terms::Transaction, 1), session(1), lease(1, 7, MINUTE)] {
        assert!(server.run(|slots| slots.try_take(A, 3, NOW, &claim)).is_ok());
    }
    assert_eq!(server.take(A, 3, 1), Err(Refused::Taken));
    assert!(server.take(B, 3, 1).is_ok(), "another key has its own");
    assert_eq!(server.run(|slots| (slots.free(A, 3, NOW), slots.free(B, 3, NOW))), (0, 2));
}

#[test]
fn a_freed_slot_wakes_the_first_waiter_and_nobody_else() {
    let mut server = Server::new(9);
    let slot = server.take(A, 1, 0).unwrap();
    server.wait(A, 1, 1..4);
    assert_eq!(server.wakes(|slots| assert!(slots.release(slot, 0))), [1]);
    assert_eq!(server.take(A, 1, 5), Err(Refused::Taken), "nobody overtakes who is woken");
    assert_eq!(server.outcome(2), Some(Outcome::Waiting));
    assert_eq!(server.outcome(1), Some(Outcome::Granted(slot)));
    assert_eq!(server.outcome(1), None, "it is told once");
}

#[test]
fn a_slot_is_released_once_and_by_its_owner() {
    let mut server = Server::new(9);
    let slot = server.take(A, 1, 0).unwrap();
    assert!(!server.run(|slots| slots.release(slot, 1)));
    assert!(server.run(|slots| slots.release(slot, 0)));
    assert_eq!(server.take(A, 1, 2), Ok(slot));
    assert!(!server.run(|slots| slots.release(slot, 0)), "it is somebody else's now");
    assert!(!server.run(|slots| slots.release(u32::MAX, 0)));
    server.lease(B, 1, MINUTE);
    assert!(!server.run(|slots| slots.release(1, 9)), "only its token frees a lease");
}

#[test]
fn who_gives_up_waiting_passes_on_what_it_was_handed() {
    let mut server = Server::new(9);
    let slot = server.take(A, 1, 0).unwrap();
    server.wait(A, 1, 1..4);
    server.run(|slots| slots.cancel(2));
    server.run(|slots| slots.release(slot, 0));
    assert_eq!(server.wakes(|slots| slots.cancel(1)), [3]);
    assert_eq!(server.outcome(3), Some(Outcome::Granted(slot)));
    assert_eq!((server.outcome(1), server.outcome(2)), (None, None));
}

#[test]
fn a_slot_that_its_waiter_has_not_heard_of_is_shown_as_pending() {
    let mut server = Server::new(9);
    let slot = server.take(A, 1, 0).unwrap();
    server.wait(A, 1, 1..2);
    server.run(|slots| slots.release(slot, 0));
    assert!(server.run(|slots| slots.holding(slot).unwrap().pending));
    assert!(!server.run(|slots| slots.release(slot, 1)), "it may not have its lock yet");
    server.outcome(1);
    assert!(!server.run(|slots| slots.holding(slot).unwrap().pending));
}

#[test]
fn a_raised_capacity_serves_waiters_and_a_lowered_one_throws_nobody_out() {
    let mut server = Server::new(9);
    let first = server.take(A, 1, 0).unwrap();
    server.wait(A, 1, 1..4);
    assert_eq!(server.wakes(|slots| slots.set_capacity(A, 3)), [1, 2]);
    assert_eq!(server.wakes(|slots| slots.set_capacity(A, 1)), []);
    assert_eq!(server.run(|slots| slots.iter().count()), 3);
    assert_eq!(server.wakes(|slots| assert!(slots.release(first, 0))), [], "still two");
    let Some(Outcome::Granted(second)) = server.outcome(1) else { panic!("not granted") };
    assert_eq!(server.wakes(|slots| assert!(slots.release(second, 1))), [], "still one");
    let Some(Outcome::Granted(third)) = server.outcome(2) else { panic!("not granted") };
    assert_eq!(server.wakes(|slots| assert!(slots.release(third, 2))), [3]);
}

#[test]
fn a_newcomer_that_knows_of_a_higher_capacity_comes_after_those_who_wait() {
    let mut server = Server::new(9);
    server.take(A, 1, 0).unwrap();
    server.wait(A, 1, 1..3);
    assert_eq!(server.run(|slots| slots.free(A, 3, NOW)), 0);
    assert_eq!(server.run(|slots| slots.free(A, 4, NOW)), 1);
    assert_eq!(server.take(A, 3, 5), Err(Refused::Taken));
    assert_eq!(server.woken, [1, 2]);
    assert!(server.take(A, 4, 5).is_ok());
}

#[test]
fn capacity_0_admits_nobody() {
    let mut server = Server::new(9);
    assert_eq!(server.take(A, 0, 0), Err(Refused::Taken));
    server.wait(A, 0, 1..2);
    assert_eq!(server.wakes(|slots| slots.set_capacity(A, 1)), [1]);
}

#[test]
fn the_server_has_a_ceiling_for_all_keys_together() {
    let mut server = Server::new(2);
    let slots = [server.take(A, 9, 0), server.take(B, 9, 0)];
    assert_eq!(slots, [Ok(0), Ok(1)]);
    let enqueued = server.run(|slots| slots.enqueue([5, 5], 9, NOW, &session(1)));
    assert_eq!((server.take(A, 9, 1), enqueued), (Err(Refused::Ceiling), Outcome::Ceiling));
    assert!(server.run(|slots| slots.release(0, 0)));
    assert_eq!(server.take([5, 5], 9, 1), Ok(0));
}

#[test]
fn who_would_be_served_above_the_ceiling_is_told_so() {
    let mut server = Server::new(1);
    server.take(A, 1, 0).unwrap();
    server.wait(B, 0, 1..4);
    assert_eq!(server.wakes(|slots| slots.set_capacity(B, 1)), [1, 2, 3]);
    assert_eq!(server.outcome(2), Some(Outcome::Ceiling));
    assert_eq!(server.outcome(2), None);
}

#[test]
fn a_process_without_a_place_cannot_wait() {
    let mut server = Server::new(9);
    assert!(server.take(A, 1, 10).is_ok());
    let outcome = server.run(|slots| slots.enqueue(A, 1, NOW, &session(10)));
    assert_eq!((outcome, server.outcome(10)), (Outcome::Ceiling, None));
    server.run(|slots| slots.cancel(10));
}

#[test]
fn a_process_that_waits_anew_has_given_up_its_former_wait() {
    let mut server = Server::new(9);
    let slot = server.take(A, 1, 0).unwrap();
    server.take(B, 1, 0).unwrap();
    server.wait(A, 1, 1..3);
    server.run(|slots| slots.release(slot, 0));
    server.woken.clear();
    server.wait(B, 1, 1..2);
    assert_eq!(server.woken, [2]);
}

#[test]
fn a_lease_ends_at_its_time_and_takes_nothing_from_the_next() {
    let mut server = Server::new(9);
    let token = server.lease(A, 1, MINUTE);
    let then = NOW + MINUTE;
    let free = |server: &mut Server, now| server.run(|slots| slots.free(A, 1, now));
    assert_eq!((free(&mut server, then - 1), free(&mut server, then)), (0, 1));
    let try_take =
        |server: &mut Server, now| server.run(|s| s.try_take(A, 1, now, &lease(2, 8, DAY)));
    assert_eq!(try_take(&mut server, then - 1), Err(Refused::Taken));
    let next = try_take(&mut server, then).unwrap();
    assert!(!server.run(|slots| slots.renew(token, DATABASE, then, then + MINUTE)));
    assert!(!server.run(|slots| slots.release_lease(token, DATABASE, then)));
    assert!(server.run(|slots| slots.holding(next).is_some()));
}

#[test]
fn a_lease_can_be_renewed_until_it_has_expired() {
    let mut server = Server::new(9);
    let token = server.lease(A, 1, MINUTE);
    let then = NOW + MINUTE;
    assert!(server.run(|slots| slots.renew(token, DATABASE, then - 1, then + MINUTE)));
    assert!(!server.run(|slots| slots.renew(token, DATABASE, then + MINUTE, then + DAY)));
    assert!(!server.run(|slots| slots.renew([9; 16], DATABASE, NOW, then)));
}

#[test]
fn a_token_is_a_random_uuid_that_knows_its_slot() {
    let token = lease_token([0xFF; 16], 0x01020304);
    assert_eq!((token[6] >> 4, token[8] >> 6), (4, 0b10), "version and variant");
    assert_eq!(token[12..], [1, 2, 3, 4]);
    let mut server = Server::new(9);
    server.take(A, 2, 0).unwrap();
    assert_eq!(server.lease(A, 2, MINUTE), lease_token([7; 16], 1));
}

#[test]
fn the_first_waiter_looks_when_the_first_lease_expires() {
    let mut server = Server::new(9);
    server.lease(A, 2, MINUTE);
    server.lease(A, 2, 2 * MINUTE);
    server.wait(A, 2, 1..3);
    let looks = |server: &mut Server| [1, 2].map(|process| server.run(|s| s.next_look(process)));
    assert_eq!(looks(&mut server), [Some(NOW + MINUTE), None]);
    let early = server.wakes(|slots| slots.settle(A, NOW + MINUTE - 1));
    assert_eq!(early, []);
    let settled = server.wakes(|slots| slots.settle(A, NOW + MINUTE));
    assert_eq!(settled, [1, 2], "one has a slot, the other is the first now");
    assert_eq!(looks(&mut server), [None, Some(NOW + 2 * MINUTE)]);
}

#[test]
fn a_lease_that_ends_sooner_wakes_the_first_waiter_to_look() {
    let mut server = Server::new(9);
    let token = server.lease(A, 1, MINUTE);
    server.wait(A, 1, 1..3);
    assert_eq!(server.wakes(|s| assert!(s.renew(token, DATABASE, NOW, NOW + DAY))), []);
    assert_eq!(server.wakes(|s| assert!(s.renew(token, DATABASE, NOW, NOW + SECOND))), [1]);
    assert_eq!(server.wakes(|s| s.cancel(2)), []);
    server.wait(A, 1, 3..4);
    assert_eq!(server.wakes(|s| s.cancel(1)), [3], "who becomes the first has to know when");
}

#[test]
fn the_time_of_a_lease_begins_when_its_waiter_hears_of_it() {
    let mut server = Server::new(9);
    let slot = server.take(A, 1, 0).unwrap();
    server.run(|slots| slots.enqueue(A, 1, NOW, &lease(1, 7, MINUTE)));
    server.wait(A, 1, 2..3);
    server.run(|slots| slots.release(slot, 0));
    let late = NOW + DAY;
    server.run(|slots| slots.settle(A, late));
    let mut granted = None;
    let woken = server.wakes(|slots| granted = slots.outcome(1, late));
    assert_eq!((granted, woken), (Some(Outcome::Granted(slot)), [2].into()));
    let holding = server.run(|slots| slots.holding(slot).unwrap().expires);
    assert_eq!(holding, Some(late + MINUTE));
    assert_eq!(server.run(|slots| slots.next_look(2)), Some(late + MINUTE));
}

#[test]
fn a_sweep_drops_what_has_expired_in_steps() {
    let mut server = Server::new(9);
    for n in 1..=5 {
        server.run(|s| s.try_take([n, n], 1, NOW, &lease(0, 1, n as i64 * SECOND)).unwrap());
    }
    let now = NOW + 4 * SECOND;
    assert_eq!(server.run(|slots| slots.sweep(0, 3, now)), Some(3));
    assert_eq!(server.run(|slots| slots.taken()), 2);
    assert_eq!(server.run(|slots| slots.sweep(3, 3, now)), None);
    assert_eq!(server.run(|slots| slots.taken()), 1);
}

#[test]
fn a_waiter_knows_who_holds_what_it_waits_for() {
    let mut server = Server::new(9);
    let awaited = |server: &mut Server, process| {
        server.run(|slots| slots.awaited(process).map(|(since, pids)| (since, pids.collect())))
    };
    for (key, process) in [(A, 1), (B, 2), (A, 3), (B, 4)] {
        server.take(key, 2, process).unwrap();
    }
    server.wait(A, 2, 5..6);
    assert_eq!(awaited(&mut server, 5), Some((NOW, std::vec![4001, 4003])));
    assert_eq!(awaited(&mut server, 1), None, "it does not wait");
    assert!(server.run(|slots| slots.release(2, 3)));
    assert_eq!(awaited(&mut server, 5), None, "it has a slot now");
    server.outcome(5);
    assert!(server.run(|slots| slots.release(0, 1)));
    server.lease(A, 2, MINUTE);
    server.wait(A, 2, 1..2);
    assert_eq!(awaited(&mut server, 1), None, "a lease ends by itself");
}

#[test]
fn new_definitions_wake_all_who_wait() {
    let mut server = Server::new(9);
    server.take(A, 1, 0).unwrap();
    server.take(B, 1, 0).unwrap();
    server.wait(A, 1, 2..4);
    server.wait(B, 1, 5..6);
    assert_eq!(server.wakes(|slots| slots.wake_all()), [2, 3, 5]);
}

#[test]
fn a_restored_lease_is_found_by_its_token_wherever_it_is() {
    let mut before = Server::new(9);
    let tokens = [before.lease(A, 2, MINUTE), before.lease(A, 2, DAY)];
    let mut after = Server::new(9);
    after.run(|slots| slots.try_take(B, 1, NOW, &session(0)).unwrap());
    let mut leases = Vec::new();
    let end = before.run(|slots| slots.export(0, 9, NOW, |lease| leases.push(lease)));
    assert_eq!((end, leases.len()), (None, 2));
    let restored = leases.iter().rev().map(|lease| after.run(|slots| slots.restore(lease, NOW)));
    let places: Vec<_> = restored.collect();
    assert_eq!(places, [Some(1), Some(2)], "slot 1 was still free, slot 0 is taken");
    assert_eq!(after.take(A, 2, 3), Err(Refused::Taken));
    for token in tokens {
        assert!(after.run(|slots| slots.release_lease(token, DATABASE, NOW)));
        assert!(!after.run(|slots| slots.release_lease(token, DATABASE, NOW)));
    }
}

#[test]
fn a_token_means_nothing_in_another_database() {
    let mut server = Server::new(9);
    let token = server.lease(A, 1, DAY);
    let copy = Lease { database: 6, ..saved_lease(B, token, NOW + DAY) };
    assert!(server.run(|slots| slots.lease(token, copy.database, NOW).is_none()));
    assert!(!server.run(|slots| slots.renew(token, copy.database, NOW, NOW + 2 * DAY)));
    assert!(!server.run(|slots| slots.release_lease(token, copy.database, NOW)));
    // A database that is copied has rows with the same tokens.
    assert_eq!(server.run(|slots| slots.restore(&copy, NOW)), Some(1));
    assert_eq!(server.run(|slots| slots.lease(token, copy.database, NOW)), Some(copy));
    assert!(server.run(|slots| slots.release_lease(token, DATABASE, NOW)));
    assert!(!server.run(|slots| slots.release_lease(token, DATABASE, NOW)));
    assert!(server.run(|slots| slots.release_lease(token, copy.database, NOW)));
}

#[test]
fn what_the_host_remembers_is_not_saved() {
    let mut server = Server::new(9);
    let terms = Terms::Lease { random: [7; 16], ttl: DAY, durable: true };
    let taken = server.run(|slots| slots.try_take(A, 1, NOW, &claim(terms, 9)));
    let token = lease_token([7; 16], taken.unwrap());
    let lease = Lease { durable: true, ..saved_lease(A, token, NOW + DAY) };
    assert_eq!(server.run(|slots| slots.lease(token, DATABASE, NOW)), Some(lease));
    assert_eq!(server.run(|slots| slots.export(0, 9, NOW, |_| panic!("it is shown"))), None);
}

#[test]
fn a_lease_that_has_expired_is_not_put_back() {
    let mut server = Server::new(9);
    let token = server.lease(A, 1, DAY);
    let saved = saved_lease(A, token, NOW + DAY);
    assert_eq!(server.run(|slots| slots.restore(&saved, NOW)), Some(0), "it is here");
    assert!(server.run(|slots| slots.renew(token, DATABASE, NOW, NOW + SECOND)));
    assert_eq!(server.run(|slots| slots.restore(&saved, NOW + SECOND)), None, "it has ended here");
    let mut after = Server::new(9);
    assert_eq!(after.run(|slots| slots.restore(&saved, NOW + DAY)), None, "it has ended by itself");
    assert_eq!(after.run(|slots| (slots.taken(), slots.restore(&saved, NOW))), (0, Some(0)));
}

#[test]
fn what_is_saved_is_shown_in_steps() {
    let mut server = Server::new(9);
    server.take(B, 1, 3).unwrap();
    let tokens = [SECOND, MINUTE, DAY].map(|ttl| server.lease(A, 3, ttl));
    let mut shown = Vec::new();
    let mut export = |from, now| server.run(|s| s.export(from, 2, now, |lease| shown.push(lease)));
    assert_eq!((export(0, NOW + SECOND), export(2, NOW + SECOND)), (Some(2), None));
    let lives = [saved_lease(A, tokens[1], NOW + MINUTE), saved_lease(A, tokens[2], NOW + DAY)];
    assert_eq!(shown, lives);
}

#[test]
fn a_holding_tells_what_the_claim_said() {
    let mut server = Server::new(9);
    let (slot, token) = (server.take(B, 1, 3).unwrap(), server.lease(A, 1, DAY));
    let text = &Text::new(b"k");
    let lease = Holding {
        index: slot + 1,
        key: A,
        kind: Kind::Lease,
        pending: false,
        process: 9,
        pid: 4009,
        database: DATABASE,
        limiter: [7; 16],
        text,
        since: NOW,
        token: Some(token),
        durable: false,
        expires: Some(NOW + DAY),
    };
    let session = Holding {
        index: slot,
        key: B,
        kind: Kind::Session,
        process: 3,
        pid: 4003,
        token: None,
        expires: None,
        ..lease
    };
    server.run(|slots| assert_eq!(slots.iter().collect::<Vec<_>>(), [session, lease]));
}
