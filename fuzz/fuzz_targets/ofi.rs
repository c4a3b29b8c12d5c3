//! Fuzzes messages over libfabric: see `charm4rs_ofi::fuzz::messages`. Knows nothing of the meaning of the bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| charm4rs_ofi::fuzz::messages(bytes));
