//! Fuzzes messages over UCX: see `charm4rs_ucx::fuzz::messages`. Knows nothing of the meaning of the bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| charm4rs_ucx::fuzz::messages(bytes));
