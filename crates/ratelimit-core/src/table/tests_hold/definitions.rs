//! Receipts of a definition that is not the key's any more.

use super::*;

/// Every way to count, by a short and by a long definition.
fn pairs() -> Vec<(Rule, Rule)> {
    let pair = |(one, other)| rules(one).into_iter().zip(rules(other));
    [("5 per minute", "5 per 2 minutes"), ("9 per hour", "2 per hour")]
        .into_iter()
        .flat_map(pair)
        .collect()
}

/// At the beginning of both a minute and two.
const EVEN: Now = START.plus(40 * SECOND);

/// The definition is told from others by its mark.
fn marked(rule: &Rule, mark: u8, cost: u64) -> Request<'_> {
    Request { mark, ..held(rule, 0, cost) }
}

fn overdraw(table: &TestTable<'_>, request: Request<'_>, now: Now) -> Receipts {
    let mut taken = Taken::new();
    table.charge(&[request], now, Some(&mut taken)).unwrap();
    let mut receipts = Receipts::default();
    receipts.add(request.rule, taken[0].unwrap());
    receipts
}

/// What is left under a rule now and for some time.
fn outlook(table: &TestTable<'_>, rule: &Rule, n: u64, now: Now) -> Vec<u64> {
    let later = [0, 1, 20, 50, 70, 100, 130, 240, 1_000, 3_000, 4_000];
    later.iter().map(|wait| remaining(table, rule, n, now.plus(wait * SECOND))).collect()
}

#[test]
fn what_was_taken_under_another_algorithm_is_not_given_back() {
    for before in rules("9 per day") {
        for after in rules("9 per day") {
            if before.kind() == after.kind() {
                continue;
            }
            let memory = Memory::new(50);
            let table = memory.table();
            let mut receipts = Receipts::default();
            assert!(hold(&table, &before, 0, 5, START, &mut receipts));
            assert!(take(&table, &after, 0, START));
            table.undo(&before, key(0), &receipts, START, true);
            assert_eq!(remaining(&table, &after, 0, START), 8, "{before:?} {after:?}");
        }
    }
}

#[test]
fn what_was_taken_under_another_definition_is_not_given_back() {
    for (one, other) in pairs() {
        for (before, after) in [(&one, &other), (&other, &one)] {
            for wait in [0, SECOND, 30 * SECOND, 90 * SECOND, 120 * SECOND - 1] {
                let memory = Memory::new(50);
                let table = memory.table();
                let receipts = overdraw(&table, marked(before, 1, 2), EVEN);
                let now = EVEN.plus(wait);
                overdraw(&table, marked(after, 2, 4), now);
                let expected = outlook(&table, after, 0, now);
                table.undo(before, key(0), &receipts, now, true);
                assert_eq!(outlook(&table, after, 0, now), expected, "{before:?} {after:?}");
            }
        }
    }
}

#[test]
fn what_was_taken_before_another_definition_and_back_is_not_given_back() {
    let others = pairs().into_iter().map(|(_, other)| other);
    let others: Vec<_> = others.chain(rules("9 per hour")).collect();
    for (rule, _) in pairs() {
        for other in &others {
            let memory = Memory::new(50);
            let table = memory.table();
            let receipts = overdraw(&table, marked(&rule, 1, 2), EVEN);
            // It is enough that somebody asked.
            table.try_take_with_receipt(&marked(other, 2, 1), EVEN).unwrap();
            table.try_take_with_receipt(&marked(&rule, 1, 1), EVEN).unwrap();
            let expected = outlook(&table, &rule, 0, EVEN);
            table.undo(&rule, key(0), &receipts, EVEN, true);
            assert_eq!(outlook(&table, &rule, 0, EVEN), expected, "{rule:?} {other:?}");
        }
    }
}

#[test]
fn what_is_taken_under_a_changed_definition_comes_back() {
    for (before, after) in pairs() {
        let memory = Memory::new(50);
        let table = memory.table();
        overdraw(&table, marked(&before, 1, 1), EVEN);
        let left = remaining(&table, &after, 0, EVEN);
        let mut receipts = Receipts::default();
        assert!(hold_as(&table, &marked(&after, 2, 1), EVEN, &mut receipts), "{after:?}");
        assert_eq!(remaining(&table, &after, 0, EVEN), left - 1);
        table.undo(&after, key(0), &receipts, EVEN, true);
        assert_eq!(remaining(&table, &after, 0, EVEN), left, "{after:?}");
    }
}

/// While nothing has been taken under the next definition, a transaction gives back as if there were none.
#[test]
fn what_expired_only_under_the_shorter_definition_counts_under_the_longer() {
    for (before, after) in rules("10 per 10 seconds").into_iter().zip(rules("10 per hour")) {
        if !matches!(before, Rule::SlidingLog(_)) {
            continue;
        }
        let memory = Memory::new(50);
        let table = memory.table();
        overdraw(&table, marked(&before, 1, 5), START);
        let receipts = overdraw(&table, marked(&before, 1, 5), START.plus(20 * SECOND));
        let now = START.plus(21 * SECOND);
        table.undo(&before, key(0), &receipts, now, true);
        assert_eq!(remaining(&table, &after, 0, now), 5);
    }
}

/// A definition of each kind, a change of it that leaves the kind, and whether that makes the period longer.
fn changed_rule() -> impl Strategy<Value = (Rule, Rule, bool)> {
    const PERIODS: [&str; 4] = ["7 seconds", "minute", "2 minutes", "hour"];
    let rate = || (1..12u64, 0..PERIODS.len());
    (0..5usize, rate(), rate()).prop_map(|(kind, before, after)| {
        let rule = |(quota, period): (u64, usize)| {
            rules(&std::format!("{quota} per {}", PERIODS[period])).swap_remove(kind)
        };
        (rule(before), rule(after), before.1 < after.1)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: u32::MAX, ..ProptestConfig::default() })]

    /// Some takes are undone before anything is taken under the next definition: the key then never has more left than one on which they
    /// were not made.
    #[test]
    fn a_definition_that_changes_brings_nothing_back(
        (before, after, longer) in changed_rule(),
        takes in prop::collection::vec((0..40i64, any::<bool>()), 1..12),
    ) {
        // The periods of an interval bucket go on from a take that was undone.
        prop_assume!(!matches!(before, Rule::IntervalBucket(_)));
        // A take writes over one that has expired, which a longer period would count again.
        prop_assume!(!(longer && matches!(before, Rule::SlidingLog(_))));
        let memory = Memory::new(50);
        let table = memory.table();
        let of = |n, cost| Request { key: key(n), ..marked(&before, 1, cost) };
        let (mut receipts, mut now) = (Receipts::default(), EVEN);
        for (wait, undone) in takes {
            now = now.plus(wait * SECOND);
            if remaining(&table, &before, 0, now) == 0 {
                continue;
            }
            let mut kept = Receipts::default();
            let list = if undone { &mut receipts } else { &mut kept };
            prop_assert!(hold_as(&table, &of(0, 1), now, list));
            if !undone {
                table.charge(&[of(1, 1)], now, None).unwrap();
            }
        }
        table.undo(&before, key(0), &receipts, now, true);
        // Both are taken over as they are at this moment.
        table.refund(&[of(0, 0), of(1, 0)], now).unwrap();
        let without = outlook(&table, &after, 1, now);
        for (real, without) in outlook(&table, &after, 0, now).into_iter().zip(without) {
            prop_assert!(real <= without, "{real} {without}");
        }
    }
}
