//! Fuzzes Python's values as bytes: see `charm4rs_python_form::fuzz::values`. Knows nothing of the meaning of the bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| charm4rs_python_form::fuzz::values(bytes));
