//! Fuzzes the inbox in shared memory: see `charm4rs_transport::port::fuzz_records::records`. Knows nothing of the meaning of the bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| charm4rs_transport::port::fuzz_records::records(bytes));
