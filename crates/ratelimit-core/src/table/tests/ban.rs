//! Bans in a table.

use super::*;
use crate::table::Record;
use std::string::{String, ToString};
use std::vec;

fn ban(text: &'static str, until: Option<Micros>) -> Ban<'static> {
    Ban {
        database: 5,
        limiter: *b"0123456789abcdef",
        tag: 0x1234_5678,
        text: text.as_bytes(),
        reason: Some(b"scraping"),
        automatic: false,
        since: START.steady,
        until,
    }
}

/// What the bans say, in order of their keys.
fn shown(table: &Table<'_, &Threads>, now: Now) -> Vec<(String, Option<String>, Option<Micros>)> {
    let mut shown = Vec::new();
    let string = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().to_string();
    table.bans(now.steady, |ban| {
        assert_eq!((ban.database, &ban.limiter), (5, b"0123456789abcdef"));
        shown.push((string(ban.text), ban.reason.map(string), ban.until));
    });
    shown.sort();
    shown
}

#[test]
fn a_ban_holds_until_its_last_moment() {
    let memory = Memory::new(100);
    let table = memory.table();
    let until = START.plus(SECOND).steady;
    assert!(!table.may_be_banned(key(1)));
    table.ban(key(1), &ban("one", Some(until)), START.steady).unwrap();
    assert!(table.may_be_banned(key(1)) && !table.may_be_banned(key(2)));
    assert_eq!(table.banned(key(1), until - 1), Some(until));
    assert_eq!(table.banned(key(1), until), None);
    assert_eq!(table.banned(key(2), START.steady), None);
    assert_eq!(shown(&table, START), [("one".into(), Some("scraping".into()), Some(until))]);
    assert!(shown(&table, Now::at(until)).is_empty());
}

#[test]
fn all_of_a_ban_is_shown_and_can_be_replaced() {
    let memory = Memory::new(100);
    let table = memory.table();
    for length in [0, 1, 7, 8, 9, 100, MAX_BAN_TEXT, MAX_BAN_TEXT + 1] {
        let text = vec![b'k'; length];
        let reason = vec![b'r'; MAX_BAN_TEXT - length.min(MAX_BAN_TEXT)];
        for (reason, automatic) in [(None, true), (Some(&reason[..]), false)] {
            let wanted = Ban { text: &text, reason, automatic, ..ban("", None) };
            table.ban(key(1), &wanted, START.steady).unwrap();
            let mut bans = 0;
            table.bans(START.steady, |ban| {
                let kept = &text[..length.min(MAX_BAN_TEXT)];
                assert_eq!(*ban, Ban { text: kept, ..wanted });
                bans += 1;
            });
            assert_eq!(bans, 1);
        }
    }
}

#[test]
fn a_ban_that_holds_is_kept_from_a_new_one() {
    let memory = Memory::new(100);
    let table = memory.table();
    let until = START.plus(SECOND).steady;
    let brief = ban("brief", Some(until));
    assert_eq!(table.ban_anew(key(1), &brief, START.steady), Ok(true));
    assert_eq!(table.ban_anew(key(1), &ban("long", None), until - 1), Ok(false));
    assert_eq!(table.banned(key(1), START.steady), Some(until));
    assert_eq!(
        table.ban_anew(key(1), &ban("long", None), until),
        Ok(true),
        "the first one has ended"
    );
    assert_eq!(table.banned(key(1), until), Some(Micros::MAX));
}

#[test]
fn an_unbanned_key_is_free_at_once() {
    let memory = Memory::new(100);
    let table = memory.table();
    table.ban(key(1), &ban("one", None), START.steady).unwrap();
    assert_eq!(table.banned(key(1), Micros::MAX - 1), Some(Micros::MAX), "for ever");
    assert!(table.unban(key(1), START.steady));
    assert_eq!(table.banned(key(1), START.steady), None);
    assert!(!table.unban(key(1), START.steady) && shown(&table, START).is_empty());
}

#[test]
fn a_ban_is_not_pushed_out_and_not_reset() {
    let memory = Memory::new(1_000);
    let (table, rule) = (memory.table(), rule("2 per hour", Algorithm::TokenBucket));
    for n in 0..100 {
        table.ban(key(n), &ban("one", None), START.steady).unwrap();
    }
    // Pressure only begins when the moment for new keys is over.
    let later = START.plus(2 * SECOND);
    for n in 0..10_000 {
        let _ = table.try_take(&request(&rule, n, 1), later);
    }
    assert!(memory.evictions.load(Ordering::Relaxed) > 0);
    table.reset_all(7, later.steady);
    table.sweep(later.steady);
    assert!((0..100).all(|n| table.banned(key(n), later.steady).is_some()));
    assert_eq!(shown(&table, later).len(), 100);
    assert!(shown(&table, later).iter().all(|(text, ..)| text == "one"));
}

#[test]
fn bans_are_counted_with_keys_that_have_used_something() {
    let memory = Memory::new(100);
    let (table, rule) = (memory.table(), rule("2 per hour", Algorithm::TokenBucket));
    table.ban(key(1), &ban("one", None), START.steady).unwrap();
    assert_eq!(table.keys(START.steady), 1);
    assert!(take(&table, &rule, 1, START), "rates do not look at bans");
    assert_eq!(table.keys(START.steady), 2);
    assert!(table.reset(key(1), [0].into_iter(), START.steady));
    assert_eq!(table.reset_all(7, START.steady), 0, "a ban is not what a key has used");
    assert!(table.banned(key(1), START.steady).is_some());
}

#[test]
fn bans_of_some_can_be_ended_and_their_room_is_free() {
    let memory = Memory::new(100);
    let table = memory.table();
    for (n, limiter) in [(1, [1; 16]), (2, [2; 16]), (3, [1; 16])] {
        let long = "a key of more than twenty-four letters";
        table.ban(key(n), &Ban { limiter, ..ban(long, None) }, START.steady).unwrap();
    }
    table.end_bans(START.steady, |ban| ban.limiter == [1; 16]);
    let banned = |n| table.banned(key(n), START.steady).is_some();
    assert_eq!([1, 2, 3].map(banned), [false, true, false]);
    table.end_bans(START.steady, |_| true);
    let used = |cell: &&Cell| cell.lock(|_| ()).fresh() > START.steady;
    assert_eq!(memory.cells.iter().filter(used).count(), 0);
}

#[test]
fn bans_leave_a_table_and_enter_another() {
    let (memory, other) = (Memory::new(100), Memory::new(1_000));
    let long = "a key of more than twenty-four letters";
    memory.table().ban(key(1), &ban(long, None), START.steady).unwrap();
    let mut records = 0;
    let install = |record: &Record<'_>| {
        assert_eq!(record.banned(), Some((0x1234_5678, key(1))));
        records += 1;
        other.table().install(record, START.steady, |_| true).map(|_| ())
    };
    memory.table().export(START.steady, install).unwrap();
    assert_eq!(records, 1);
    assert_eq!(other.table().banned(key(1), START.steady), Some(Micros::MAX));
    assert_eq!(shown(&other.table(), START), shown(&memory.table(), START));
}
