//! Fuzzes what the launcher's guardian reads: see `charm4rs_launcher::fuzz::guardian`. Knows nothing of what the bytes mean.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| charm4rs_launcher::fuzz::guardian(bytes));
