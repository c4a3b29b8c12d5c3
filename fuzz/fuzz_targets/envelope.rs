//! Fuzzes the messages to a PE: see `charm4rs::fuzz::envelope`. Knows nothing of the meaning of the bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| charm4rs::fuzz::envelope(bytes));
