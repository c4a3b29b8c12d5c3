//! Fuzzes reliable messages over datagrams: see `charm4rs_transport_testkit::reliable::fuzz::datagrams`. Knows nothing of the meaning of the bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| charm4rs_transport_testkit::reliable::fuzz::datagrams(bytes));
