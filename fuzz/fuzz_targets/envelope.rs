//! Fuzzes what a PE does with messages: see `charm4rs::fuzz::envelope`. Knows nothing of what the bytes mean.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| charm4rs::fuzz::envelope(bytes));
