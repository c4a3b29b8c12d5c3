//! Fuzzes nodelists: see `charm4rs_launcher::fuzz::nodelist`. Knows nothing of the meaning of the bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| charm4rs_launcher::fuzz::nodelist(bytes));
