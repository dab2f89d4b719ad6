//! Copies of durable keys.

use super::*;

/// Everything that decides about a key.
fn answers(table: &TestTable<'_>, one: Request<'_>) -> Vec<Option<Unable>> {
    std::vec![
        table.try_take_with_receipt(&one, START).err(),
        table.decide(&[one], START, Operation::Take, None).err(),
        table.decide(&[one], START, Operation::Peek, None).err(),
        table.take_at_most(&[one], START, None).err(),
        table.charge(&[one], START, None).err(),
        table.refund(&[one], START).err(),
    ]
}

#[test]
fn a_durable_key_is_not_decided_about_until_it_is_filled() {
    for rule in rules("1000 per day") {
        let memory = Memory::new(1_000);
        let (table, one) = (memory.table(), durable(&rule, 1, 1));
        let unloaded = |table| answers(table, one).iter().all(|err| *err == Some(Unable::Unloaded));
        assert!(unloaded(&table), "not there");
        assert_eq!(table.claim(&one, 5, START), Ok(Claim::Fill(5)));
        assert!(unloaded(&table), "claimed");
        table.fill(&one, 5, &MemoryState::default(), START).unwrap();
        assert!(answers(&table, one).iter().all(Option::is_none), "filled: {rule:?}");
        assert_eq!(table.claim(&one, 6, START), Ok(Claim::Filled));
        table.discard(key(1));
        assert!(unloaded(&table), "discarded");
    }
}

#[test]
fn a_key_that_was_in_memory_only_must_be_filled_when_it_becomes_durable() {
    for rule in rules("1000 per day") {
        let memory = Memory::new(1_000);
        let table = memory.table();
        let mut receipts = Receipts::default();
        assert!(hold(&table, &rule, 1, 5, START, &mut receipts));
        let one = durable(&rule, 1, 0);
        assert_eq!(table.decide(&[one], START, Operation::Peek, None), Err(Unable::Unloaded));
        assert_eq!(table.claim(&one, 9, START), Ok(Claim::Fill(9)));
        table.fill(&one, 9, &MemoryState::default(), START).unwrap();
        assert!(
            table.decide(&[durable(&rule, 1, 4)], START, Operation::Take, None).unwrap().allowed
        );
        // What was held before is not in the copy.
        table.undo(&rule, key(1), &receipts, START, true);
        assert_eq!(remaining(&table, &rule, 1, START), 996, "{rule:?}");
        assert_eq!(pins(&table, 1), Some(0));
    }
}

fn used(rule: &Rule, cost: u64, now: Now) -> MemoryState {
    let mut state = MemoryState::default();
    Limit::new(rule, &mut state, cost).charge(now);
    state
}

#[test]
fn two_who_load_a_key_share_a_ticket_and_the_first_one_fills_it() {
    for rule in rules("10 per day") {
        let memory = Memory::new(100);
        let (table, one) = (memory.table(), durable(&rule, 1, 0));
        assert_eq!(table.claim(&one, 5, START), Ok(Claim::Fill(5)));
        assert_eq!(table.claim(&one, 6, START), Ok(Claim::Fill(5)));
        table.fill(&one, 5, &used(&rule, 3, START), START).unwrap();
        let take = table.decide(&[durable(&rule, 1, 2)], START, Operation::Take, None);
        assert_eq!(take.unwrap().remaining, 5, "{rule:?}");
        // The other one has read the same, but comes too late for it.
        table.fill(&one, 5, &used(&rule, 3, START), START).unwrap();
        assert_eq!(remaining(&table, &rule, 1, START), 5, "{rule:?}");
    }
}

#[test]
fn a_ticket_is_worth_nothing_once_the_cell_was_discarded_or_pushed_out() {
    for rule in rules("10 per day") {
        let memory = Memory::new(50);
        let (table, one) = (memory.table(), durable(&rule, 1, 0));
        let discard: [(&dyn Fn(), Now); 2] = [
            (&|| table.discard(key(1)), START),
            (&|| flood(&table, 100..3_000, START.plus(2 * SECOND)), START.plus(2 * SECOND)),
        ];
        for (n, (forget, now)) in discard.into_iter().enumerate() {
            let (old, new) = (2 * n as u64 + 1, 2 * n as u64 + 2);
            assert_eq!(table.claim(&one, old, START), Ok(Claim::Fill(old)));
            forget();
            table.fill(&one, old, &used(&rule, 9, START), now).unwrap();
            assert_eq!(table.decide(&[one], now, Operation::Peek, None), Err(Unable::Unloaded));
            assert_eq!(table.claim(&one, new, now), Ok(Claim::Fill(new)));
            table.fill(&one, old, &used(&rule, 9, START), now).unwrap();
            assert_eq!(table.decide(&[one], now, Operation::Peek, None), Err(Unable::Unloaded));
            table.fill(&one, new, &used(&rule, 3, START), now).unwrap();
            assert_eq!(remaining(&table, &rule, 1, START), 7, "{rule:?}");
            table.discard(key(1));
        }
    }
}

#[test]
fn a_claimed_cell_is_not_pushed_out_while_it_is_being_loaded() {
    let memory = Memory::new(50);
    let (table, rule) = (memory.table(), rule("10 per day", Algorithm::FixedWindow));
    let one = durable(&rule, 1, 0);
    assert_eq!(table.claim(&one, 5, START), Ok(Claim::Fill(5)));
    flood(&table, 100..3_000, START.plus(SECOND / 2));
    table.fill(&one, 5, &used(&rule, 3, START), START).unwrap();
    assert_eq!(table.claim(&one, 6, START), Ok(Claim::Filled));
    assert_eq!(remaining(&table, &rule, 1, START), 7);
}

#[test]
fn a_log_of_a_thousand_is_filled_whole() {
    let log = rule("1000 per day", Algorithm::SlidingLog);
    let memory = Memory::new(2_000);
    let (table, one) = (memory.table(), durable(&log, 1, 0));
    let mut state = MemoryState::default();
    for n in 0..1_000 {
        Limit::new(&log, &mut state, 1).charge(START.plus(n * MINUTE));
    }
    let now = START.plus(1_000 * MINUTE);
    assert_eq!(table.claim(&one, 5, now), Ok(Claim::Fill(5)));
    table.fill(&one, 5, &state, now).unwrap();
    for later in (0..3_000).step_by(7) {
        let then = now.plus(later * MINUTE);
        for cost in [0, 1, 500, 1_000] {
            let expected = decide(&mut [Limit::new(&log, &mut state, cost)], then, Operation::Peek);
            let asked = durable(&log, 1, cost);
            assert_eq!(table.decide(&[asked], then, Operation::Peek, None), Ok(expected));
        }
    }
}

#[test]
fn a_log_that_finds_no_room_is_not_filled_by_half() {
    let log = rule("1000 per day", Algorithm::SlidingLog);
    let memory = Memory::new(100);
    let (table, one) = (memory.table(), durable(&log, 1, 0));
    assert_eq!(table.claim(&one, 5, START), Ok(Claim::Fill(5)));
    assert!(table.fill(&one, 5, &used(&log, 700, START), START).is_err());
    assert_eq!(table.decide(&[one], START, Operation::Peek, None), Err(Unable::Unloaded));
}

#[test]
fn what_is_held_is_not_discarded() {
    for rule in rules("10 per day") {
        let memory = Memory::new(100);
        let (table, one) = (memory.table(), durable(&rule, 1, 2));
        assert_eq!(table.claim(&one, 5, START), Ok(Claim::Fill(5)));
        table.fill(&one, 5, &used(&rule, 3, START), START).unwrap();
        let mut taken = Taken::new();
        let held = Request { pin: true, ..one };
        table.decide(&[held], START, Operation::Take, Some(&mut taken)).unwrap();
        table.discard(key(1));
        assert_eq!(remaining(&table, &rule, 1, START), 5, "{rule:?}");
        let mut receipts = Receipts::default();
        receipts.add(&rule, taken[0].unwrap());
        table.undo(&rule, key(1), &receipts, START, true);
        assert_eq!(remaining(&table, &rule, 1, START), 7, "{rule:?}");
        table.discard(key(1));
        assert!(table.decide(&[one], START, Operation::Peek, None).is_err());
    }
}

#[test]
fn a_durable_key_that_is_wiped_is_new_and_gives_nothing_back() {
    for rule in rules("10 per day") {
        let memory = Memory::new(100);
        let table = memory.table();
        let one = Request { pin: true, ..durable(&rule, 1, 4) };
        // Nothing is there to wipe, and nothing is made.
        table.wipe(&rule, key(1), START);
        assert_eq!(table.claim(&one, 5, START), Ok(Claim::Fill(5)));
        // What is being loaded may be what was before: it is not for the wipe to say.
        table.wipe(&rule, key(1), START);
        assert_eq!(table.claim(&one, 6, START), Ok(Claim::Fill(5)));
        table.fill(&one, 5, &used(&rule, 3, START), START).unwrap();
        let (_, receipt) = table.try_take_with_receipt(&one, START).unwrap();
        table.wipe(&rule, key(1), START);
        assert_eq!(pins(&table, 1), Some(1));
        let peek = table.decide(&[durable(&rule, 1, 0)], START, Operation::Peek, None);
        assert_eq!(peek.unwrap().remaining, 10, "{rule:?}");
        assert!(table.try_take_with_receipt(&one, START).unwrap().0.allowed);
        let mut receipts = Receipts::default();
        receipts.add(&rule, receipt.unwrap());
        table.undo(&rule, key(1), &receipts, START, true);
        assert_eq!(remaining(&table, &rule, 1, START), 6, "{rule:?}");
    }
}

#[test]
fn nothing_is_taken_of_a_key_that_is_frozen_until_it_is_wiped_or_thawed() {
    for rule in rules("1000 per day") {
        let memory = Memory::new(1_000);
        let (table, one) = (memory.table(), Request { pin: true, ..durable(&rule, 1, 4) });
        // What is not there, or being loaded, is not frozen.
        table.freeze(key(1));
        assert_eq!(table.claim(&one, 5, START), Ok(Claim::Fill(5)));
        table.freeze(key(1));
        assert_eq!(table.claim(&one, 6, START), Ok(Claim::Fill(5)));
        table.fill(&one, 5, &used(&rule, 3, START), START).unwrap();
        let mut receipts = Receipts::default();
        assert!(hold_as(&table, &one, START, &mut receipts));

        let frozen = |what| {
            table.freeze(key(1));
            let asked = durable(&rule, 1, 1);
            let answers = answers(&table, asked);
            assert!(answers.iter().all(|err| *err == Some(Unable::Unloaded)), "{what}: {rule:?}");
            assert_eq!(table.claim(&asked, 7, START), Ok(Claim::Frozen));
            table.fill(&asked, 7, &MemoryState::default(), START).unwrap();
        };
        let left = || {
            let peek = table.decide(&[durable(&rule, 1, 0)], START, Operation::Peek, None);
            peek.map(|peek| peek.remaining)
        };
        frozen("used");
        table.undo(&rule, key(1), &receipts, START, false);
        table.thaw(key(1));
        assert_eq!(left(), Ok(997), "given back meanwhile: {rule:?}");
        frozen("again");
        table.wipe(&rule, key(1), START);
        assert_eq!(left(), Ok(1_000));
        frozen("untouched");
        table.thaw(key(1));
        assert_eq!(left(), Ok(1_000));
        assert!(table.try_take_with_receipt(&one, START).unwrap().0.allowed);
        assert_eq!(left(), Ok(996));
    }
}

#[test]
fn who_read_the_clock_before_a_reset_and_takes_after_it_takes_later() {
    for rule in rules("10 per day") {
        let memory = Memory::new(1_000);
        let table = memory.table();
        let one = Request { pin: true, ..durable(&rule, 1, 1) };
        assert_eq!(table.claim(&one, 5, START), Ok(Claim::Fill(5)));
        table.fill(&one, 5, &MemoryState::default(), START).unwrap();
        let (reset, later) = (START.plus(SECOND), START.plus(2 * SECOND));
        memory.threads.last_reset.store(reset.steady, Ordering::Relaxed);
        memory.threads.now.store(later.steady, Ordering::Relaxed);
        for (read, taken_at) in [(START, later), (reset, later), (later.plus(1), later.plus(1))] {
            let (_, receipt) = table.try_take_with_receipt(&one, read).unwrap();
            assert_eq!(receipt.unwrap().at, taken_at, "{rule:?}");
            let mut taken = Taken::new();
            table.decide(&[one], read, Operation::Take, Some(&mut taken)).unwrap();
            assert_eq!(taken[0].unwrap().at, taken_at, "{rule:?}");
        }
        // What is in memory only has no order in tables.
        let (_, receipt) = table.try_take_with_receipt(&held(&rule, 2, 1), START).unwrap();
        assert_eq!(receipt.unwrap().at, START, "{rule:?}");
    }
}

#[test]
fn threads_that_load_a_key_at_once_fill_it_once() {
    for kind in rules("500 per day").iter().map(Rule::kind) {
        let the_rule =
            || rules("500 per day").into_iter().find(|rule| rule.kind() == kind).unwrap();
        let memory = Memory::new(1_000);
        let admitted = AtomicU64::new(0);
        let tickets = AtomicU64::new(1);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                let (memory, admitted, tickets, the_rule) =
                    (&memory, &admitted, &tickets, &the_rule);
                scope.spawn(move || {
                    let (table, rule) = (memory.table(), the_rule());
                    let one = durable(&rule, 5, 1);
                    // What the tables say; all that is taken here is of transactions that are still open.
                    let copy = used(&rule, 200, START);
                    for _ in 0..100 {
                        loop {
                            let held = Request { pin: true, ..one };
                            match table.try_take_with_receipt(&held, START) {
                                Ok((taken, _)) => {
                                    admitted.fetch_add(u64::from(taken.allowed), Ordering::Relaxed);
                                    break;
                                }
                                Err(Unable::Full(full)) => panic!("{full:?}"),
                                Err(Unable::Unloaded) => {
                                    let ticket = tickets.fetch_add(1, Ordering::Relaxed);
                                    let claimed = table.claim(&one, ticket, START).unwrap();
                                    if let Claim::Fill(ticket) = claimed {
                                        table.fill(&one, ticket, &copy, START).unwrap();
                                    }
                                }
                            }
                        }
                        // Does nothing: it is held.
                        table.discard(key(5));
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 300, "{kind}");
    }
}
