//! Fuzzes command lines: see `charm4rs_bootstrap::fuzz::words`. Knows nothing of what the bytes mean.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| charm4rs_bootstrap::fuzz::words(bytes));
