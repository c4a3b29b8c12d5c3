#![no_main]
//! See `charm4rs_transport::tcp::fuzz::stream`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| charm4rs_transport::tcp::fuzz::stream(bytes));
