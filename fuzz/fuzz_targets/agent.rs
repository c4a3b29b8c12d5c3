//! Fuzzes the frames between launchers and agents: see `charm4rs_launcher::fuzz::frames`. Knows nothing of the meaning of the bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| charm4rs_launcher::fuzz::frames(bytes));
