//! Fuzzes the TCP backend: see `charm4rs_tcp::fuzz::handshake`. Knows nothing of the meaning of the bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| charm4rs_tcp::fuzz::handshake(bytes));
