//! Fuzzes what processes put and get before they have a transport: see `charm4rs_launcher::fuzz::board`. Knows nothing of the meaning of the bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| charm4rs_launcher::fuzz::board(bytes));
