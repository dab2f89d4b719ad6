//! What was written comes back; whatever else is in the file does not.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by panicking")]

use proptest::prelude::*;
use ratelimit_core::slots::{Lease, Text, MAX_TEXT};
use ratelimit_core::stats::{Counts, Hitter, Sighting};
use ratelimit_core::table::{rule_key, Record};
use ratelimit_core::{KeyHasher, Now, Secret};

use crate::{read, Entry, Flaw, Head, SavedKey, SavedTotal, Writer};

/// An entry with times and a text of its own.
type Owned = (Entry<'static>, Vec<u64>, Vec<u8>);

const HEAD: Head = Head {
    system: 7_654_321,
    secret: *b"0123456789abcdef",
    clock: Now { steady: 1_000_000, wall: 2_000_000 },
};

fn file(records: &[Owned]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &HEAD).unwrap();
    for (entry, times, text) in records {
        let entry = match *entry {
            Entry::State(record) => Entry::State(Record { times, ..record }),
            Entry::Denied(key) => Entry::Denied(with_text(key, text)),
            other => other,
        };
        writer.add(&entry).unwrap();
    }
    writer.finish().unwrap()
}

fn with_text<'a>(key: SavedKey<'_>, text: &'a [u8]) -> SavedKey<'a> {
    let SavedKey { database, limiter, hitter } = key;
    SavedKey {
        database,
        limiter,
        hitter: Hitter { seen: Sighting { text, ..hitter.seen }, ..hitter },
    }
}

fn read_all(bytes: &[u8]) -> Result<Vec<Owned>, Flaw> {
    let mut records = Vec::new();
    let show = |entry: Entry<'_>| {
        records.push(match entry {
            Entry::State(r) => {
                (Entry::State(Record { times: &[], ..r }), r.times.to_vec(), Vec::new())
            }
            Entry::Lease(lease) => (Entry::Lease(lease), Vec::new(), Vec::new()),
            Entry::Total(total) => (Entry::Total(total), Vec::new(), Vec::new()),
            Entry::Denied(key) => {
                let text = key.hitter.seen.text.to_vec();
                (Entry::Denied(with_text(key, &[])), Vec::new(), text)
            }
        })
    };
    assert_eq!(read(bytes, HEAD.system, show)?, HEAD);
    Ok(records)
}

fn any_record() -> impl Strategy<Value = Owned> {
    let words = any::<[u64; 3]>();
    let times = prop_oneof![Just(0..1), Just(0..20), Just(999..1_001)]
        .prop_flat_map(|count| prop::collection::vec(any::<u64>(), count));
    let rest = (any::<[i64; 2]>(), any::<u32>(), any::<bool>(), 1u8..8);
    (1u64.., any::<u64>(), words, times, rest).prop_map(
        |(first, second, words, times, ([fresh, open], tag, primary, kind))| {
            let key = [first, second];
            let record = Record { key, tag, primary, kind, fresh, open, words, times: &[] };
            (Entry::State(record), times, Vec::new())
        },
    )
}

fn any_lease() -> impl Strategy<Value = Owned> {
    let text = prop::collection::vec(any::<u8>(), 0..=MAX_TEXT);
    let ids = (any::<[u64; 2]>(), any::<u32>(), any::<[[u8; 16]; 2]>());
    (ids, any::<[i64; 2]>(), text).prop_map(
        |((key, database, [limiter, token]), [since, expires], text)| {
            let text = Text::new(&text);
            let durable = false;
            let lease = Lease { token, key, durable, database, limiter, since, expires, text };
            (Entry::Lease(lease), Vec::new(), Vec::new())
        },
    )
}

fn any_total() -> impl Strategy<Value = Owned> {
    (any::<u32>(), any::<[u8; 16]>(), any::<i64>(), any::<Counts>()).prop_map(
        |(database, limiter, since, counts)| {
            let total = SavedTotal { database, limiter, since, counts };
            (Entry::Total(total), Vec::new(), Vec::new())
        },
    )
}

fn any_denied() -> impl Strategy<Value = Owned> {
    let text = prop::collection::vec(any::<u8>(), 0..=255);
    let ids = (any::<u32>(), any::<[u8; 16]>(), any::<[u64; 2]>());
    (ids, any::<[u64; 3]>(), any::<i64>(), text).prop_map(
        |((database, limiter, key), [denied, allowed, error], last, text)| {
            let seen = Sighting { key, owner: 0, text: &[], denied, allowed, last };
            let hitter = Hitter { seen, error };
            (Entry::Denied(SavedKey { database, limiter, hitter }), Vec::new(), text)
        },
    )
}

fn some_records() -> Vec<Owned> {
    let record = |n: u64| Record {
        key: [n, !n],
        tag: 1,
        primary: n.is_multiple_of(2),
        kind: 1 + (n % 5) as u8,
        fresh: 5,
        open: i64::MIN,
        words: [n; 3],
        times: &[],
    };
    let lease = |n: u8| Lease {
        token: [n; 16],
        key: [0, n.into()],
        durable: false,
        database: 5,
        limiter: [!n; 16],
        since: 1,
        expires: i64::MAX,
        text: Text::new(&[b'k'; MAX_TEXT][..usize::from(n) * 20]),
    };
    let total = |n: u8| SavedTotal {
        database: 5,
        limiter: [n; 16],
        since: 1,
        counts: std::array::from_fn(|counter| counter as u64),
    };
    let denied = |n: u8| SavedKey {
        database: 5,
        limiter: [n; 16],
        hitter: Hitter {
            seen: Sighting {
                key: [1, n.into()],
                owner: 0,
                text: &[],
                denied: 3,
                allowed: 2,
                last: 1,
            },
            error: 4,
        },
    };
    let states = (1..10).map(|n| (Entry::State(record(n)), (0..n * 3).collect(), Vec::new()));
    let leases = (0..9).map(|n| (Entry::Lease(lease(n)), Vec::new(), Vec::new()));
    let totals = (1..4).map(|n| (Entry::Total(total(n)), Vec::new(), Vec::new()));
    let keys = (1..4).map(|n| (Entry::Denied(denied(n)), Vec::new(), vec![b'k'; n.into()]));
    states.chain(leases).chain(totals).chain(keys).collect()
}

#[test]
fn a_flaw_is_called_by_its_name() {
    let good = file(&some_records());
    let said = |bytes: &[u8]| read_all(bytes).unwrap_err().to_string();
    assert_eq!(said(b""), "it ends too early");
    assert_eq!(said(b"PGDMP some other file"), "it is no file of ratelimit");
    assert_eq!(said(&good[..good.len() - 1]), "it ends too early");
    assert_eq!(said(&[&good[..], b"!"].concat()), "it is damaged");
    let mut newer = good.clone();
    newer[8] = 3;
    assert_eq!(said(&newer), "its version 3 is newer than 2, which is known here");
    newer[8] = 1;
    assert_eq!(said(&newer), "its version 1 is not 2");
    let foreign = read(&good[..], 1, |_| ()).unwrap_err().to_string();
    assert_eq!(foreign, "the cluster 7654321 wrote it");
}

#[test]
fn no_other_byte_anywhere_passes() {
    let good = file(&some_records());
    for place in 0..good.len() {
        for change in [1, 0x10, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[place] ^= change;
            assert!(read_all(&bad).is_err(), "{change:#x} at {place}");
        }
    }
}

#[test]
fn no_part_of_a_file_passes() {
    let good = file(&some_records());
    for end in 0..good.len() {
        assert!(matches!(read_all(&good[..end]), Err(Flaw::Short)), "{end}");
    }
}

proptest! {
    #[test]
    fn what_was_written_comes_back(
        records in prop::collection::vec(prop_oneof![any_record(), any_lease(), any_total(), any_denied()], 0..9),
    ) {
        prop_assert_eq!(read_all(&file(&records)).unwrap(), records);
    }

    #[test]
    fn a_stretch_of_garbage_does_not_pass(
        start in 0usize..1_000,
        garbage in prop::collection::vec(any::<u8>(), 1..100),
    ) {
        let good = file(&some_records());
        let mut bad = good.clone();
        bad.splice(start.min(good.len()).., garbage);
        prop_assert!(bad == good || read_all(&bad).is_err());
    }

    #[test]
    fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        prop_assert!(read_all(&bytes).is_err());
        let head = &file(&[])[..52];
        prop_assert!(read_all(&[head, &bytes].concat()).is_err());
    }
}

/// The file that the library of release 0.1.0 saved, with one key of four limiters used and one lease. Servers begin with such a file
/// after an upgrade.
#[test]
fn the_file_of_a_release_is_read() {
    const FILE: &[u8] = include_bytes!("release-0.1.0.state");
    const SYSTEM: u64 = 7_711_401_479_156_544_346;
    let hasher = |secret: &Secret, limiter: u128| {
        let (database, limiters) = (5u32.to_le_bytes(), 16_673u32.to_le_bytes());
        KeyHasher::new(secret, &[&database, &limiters, &limiter.to_be_bytes(), b"memory"])
    };

    let (mut states, mut leases, mut others) = (Vec::new(), Vec::new(), 0);
    let head = read(FILE, SYSTEM, |entry| match entry {
        Entry::State(record) => states.push((record.key, record.kind, record.times.len())),
        Entry::Lease(lease) => leases.push((lease.key, lease.token)),
        Entry::Total(_) | Entry::Denied(_) => others += 1,
    })
    .unwrap();
    assert_eq!((states.len(), others), (4, 0));

    for (limiter, kind, times) in [
        (0x3c71f28d_b2a1_421f_ada1_64bca48f3ce6, 1, 0),
        (0x71a64363_efa1_42d7_9051_035e3d042e2a, 3, 0),
        (0x9c1fb25c_1fd6_48e9_bb2d_9a983c29bc50, 4, 0),
        (0x886f3d9a_f004_4a90_9f57_6f8883ee18c5, 5, 4),
    ] {
        let key = rule_key(hasher(&head.secret, limiter).key(b"k"), 1);
        assert!(states.contains(&(key, kind, times)), "{limiter:x} is not in {states:?}");
    }
    let jobs = hasher(&head.secret, 0xdb29b2ee_58f9_464b_a5d4_dec05b81e9ed);
    let token = 0xdcd8c710_7357_4613_b7e0_c2b800000000_u128;
    assert_eq!(leases, [(jobs.key(b"k"), token.to_be_bytes())]);
}
