//! The final messages of a job: stacks if they are requested, the panicking method, and the wrong argument.

use crate::{run, start_with};

#[test]
fn a_rust_program_refuses_the_server_option() {
    for options in ["++server", "++server-port 0", "++server-address 127.0.0.1", "++server-auth key"] {
        run(&format!("+p2 {options} - sleep 0")).failed(64, "++server is for Python programs");
    }
}

#[test]
fn a_stack_is_that_of_the_panic_and_is_printed_if_it_is_asked_for() {
    for options in ["+p3", "+p3 ++transport shm"] {
        let ended = start_with(&format!("{options} - panic"), ("RUST_BACKTRACE", "1")).end();
        ended.failed(1, "Node[2].panics panicked on PE 2: on purpose at tests/src/bin/faulty.rs:");
        let (_, stack) = ended.stderr.split_once("\nstack:\n").unwrap_or_else(|| panic!("{ended:?}"));
        assert!(stack.contains("faulty::Node::panics\n") && stack.contains("src/bin/faulty.rs:"), "{ended:?}");
        for ours in ["charm4rs::runtime", "rust_begin_unwind", "panic_fmt", "RUST_BACKTRACE"] {
            assert!(!ended.stderr.contains(ours), "{ours} in {ended:?}");
        }
        let ended = start_with(&format!("{options} - panic"), ("RUST_BACKTRACE", "0")).end();
        ended.failed(1, "on purpose");
        let lines: Vec<&str> = ended.stderr.lines().collect();
        assert_eq!(lines[1..], ["note: run with `RUST_BACKTRACE=1` for the stack"], "{ended:?}");
    }
}

#[test]
fn a_stack_is_that_of_the_panic_though_another_pe_waits_for_its_error() {
    let ended = start_with("+p3 ++transport shm - awaited-panic", ("RUST_BACKTRACE", "1")).end();
    ended.failed(1, "main panicked: faulty::Node[2].panics panicked on PE 2: on purpose at tests/src/bin/faulty.rs:");
    assert!(ended.stderr.contains("faulty::Node::panics\n"), "{ended:?}");
}

#[test]
fn a_panic_of_main_names_main_and_its_location() {
    let ended = run("+p2 - nonsense");
    ended.failed(1, "main panicked: \"nonsense\" is not among what can go wrong at tests/src/bin/faulty.rs:");
}

#[test]
fn an_argument_that_cannot_be_parsed_is_wrong_usage_and_names_the_expected_type() {
    let ended = run("+p2 - sleep soon");
    ended.failed(64, "argument 2 is \"soon\", which is not a valid u64: invalid digit found in string");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
}
