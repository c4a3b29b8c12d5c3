//! Fuzzes messages over libfabric: see `charm4rs_ofi::fuzz::messages`. Knows nothing of what the bytes mean.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| charm4rs_ofi::fuzz::messages(bytes));
