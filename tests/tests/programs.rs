//! Every program of the pages prints what its page says: on one PE and on several threads. Knows nothing of what the programs do. `build.rs` writes the tests.

use std::process::{Command, Stdio};

include!(concat!(env!("OUT_DIR"), "/program_tests.rs"));

const BOOK: &str = env!("CARGO_BIN_EXE_book");

fn check(name: &str, output: &str) {
    run(Command::new(BOOK).arg("+p1"), name, output);
    run(Command::new(BOOK).arg("+p3"), name, output);
}

fn run(command: &mut Command, name: &str, output: &str) {
    let ran = command.env("BOOK_PROGRAM", name).stdin(Stdio::null()).output().expect("the program can be started");
    assert!(ran.status.success(), "{name}: {command:?}: {ran:?}");
    assert_eq!(String::from_utf8_lossy(&ran.stdout), output, "{name}: {command:?}");
}
