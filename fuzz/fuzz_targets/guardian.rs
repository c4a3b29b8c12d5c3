//! Fuzzes the input of the launcher's guardian: see `charm4rs_launcher::fuzz::guardian`. Knows nothing of the meaning of the bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| charm4rs_launcher::fuzz::guardian(bytes));
