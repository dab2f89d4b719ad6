//! The bodies of the fuzz targets on random input, so that they run wherever the tests do.

#[path = "../fuzz/src/lib.rs"]
mod bodies;
mod common;

use proptest::prelude::*;

/// Rates that are nearly right.
fn nearly_rates() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "0",
        "1",
        "10",
        "1000",
        "1000000000000",
        "99999999999999999999",
        "4000000000",
        " per ",
        "/",
        "ms",
        "s",
        "Sec",
        "minutes",
        "H",
        "day",
        "days",
        "weeks",
        "month",
        "years",
        " burst ",
        ",",
        ";",
        " ",
        "\u{a0}",
        "é",
        ".",
        "-",
    ]);
    prop::collection::vec(word, 0..14).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(common::cases(3_000))]

    #[test]
    fn rates_of_any_bytes(data: Vec<u8>) {
        bodies::rates(&data);
    }

    #[test]
    fn rates_that_are_nearly_right(algorithm: u8, text in nearly_rates()) {
        let mut data = vec![algorithm];
        data.extend(text.bytes());
        bodies::rates(&data);
    }

    #[test]
    fn decisions_of_any_bytes(data in prop::collection::vec(any::<u8>(), 20..300)) {
        bodies::decide(&data);
    }
}
