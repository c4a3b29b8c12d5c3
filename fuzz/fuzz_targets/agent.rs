//! Fuzzes what launchers and agents say to each other: see `charm4rs_launcher::fuzz::frames`. Knows nothing of what the bytes mean.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| charm4rs_launcher::fuzz::frames(bytes));
