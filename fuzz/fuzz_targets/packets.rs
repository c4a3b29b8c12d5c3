//! Fuzzes what launchers and processes say to each other: see `charm4rs_bootstrap::fuzz::packets`. Knows nothing of what the bytes mean.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| charm4rs_bootstrap::fuzz::packets(bytes));
