//! Fuzzes the port's own frames: see `charm4rs_transport::port::fuzz::frames`. Knows nothing of the meaning of the bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| charm4rs_transport::port::fuzz::frames(bytes));
