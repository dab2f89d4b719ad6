//! Fuzzes `ratelimit_core_fuzz::rates`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratelimit_core_fuzz::rates(data));
