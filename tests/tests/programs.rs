//! Every program of the pages prints the output on its page: on one PE, on threads, and on processes that communicate through shared memory or TCP.
//! Knows nothing of what the programs do. `build.rs` writes the tests.

mod common;

use std::process::{Command, Stdio};

use common::charmrun;

include!(concat!(env!("OUT_DIR"), "/program_tests.rs"));

const BOOK: &str = env!("CARGO_BIN_EXE_book");

fn check(name: &str, output: &str) {
    run(Command::new(BOOK).arg("+p1"), name, output);
    run(Command::new(BOOK).arg("+p3"), name, output);
    for options in
        [&["+p2"][..], &["+p3", "++ppn", "2"], &["+p3", "++transport", "shm"], &["+p2", "++transport", "tcp"]]
    {
        run(Command::new(charmrun(BOOK)).args(options).arg(BOOK), name, output);
    }
}

/// The last line of a page's output may be the error with which the job ends; it goes to standard error, and contains the exit code.
fn run(command: &mut Command, name: &str, output: &str) {
    let ran = command
        .env("BOOK_PROGRAM", name)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .output()
        .expect("the program can be started");
    let (printed, error) = match output.find(ERROR) {
        Some(at) => (&output[..at], output[at..].lines().next()),
        None => (output, None),
    };
    let code = error.map_or(Some(0), |line| line[ERROR.len()..].split(']').next()?.parse().ok());
    assert_eq!(ran.status.code(), code, "{name}: {command:?}: {ran:?}");
    assert_eq!(String::from_utf8_lossy(&ran.stdout), printed, "{name}: {command:?}");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(said.lines().next().map(in_general), error.map(in_general), "{name}: {command:?}");
}

const ERROR: &str = "charmrun: error[";

/// An error's line without what differs from run to run: PEs, hosts, processes, and the program's source file.
fn in_general(line: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in line.split_whitespace() {
        let place = ["pe=", "host=", "pid="].into_iter().find(|place| word.starts_with(place));
        words.push(match words.last() {
            Some(&"PE") => "N:",
            Some(&"at") => "FILE,",
            _ => place.unwrap_or_else(|| word.rsplit("::").next().unwrap_or(word)),
        });
    }
    words.join(" ")
}

#[test]
fn an_error_in_general_is_the_same_everywhere_and_another_error_is_not() {
    let here = in_general(
        "charmrun: error[1]: a::b::Divider[1].divide panicked on PE 0: no at /a/b.rs:1:2, pe=0 host=h pid=7",
    );
    let there = in_general(
        "charmrun: error[1]: c::Divider[1].divide panicked on PE 3: no at src/main.rs:9:9, pe=3 host=i pid=8",
    );
    assert_eq!(here, there);
    assert_eq!(here, "charmrun: error[1]: Divider[1].divide panicked on PE N: no at FILE, pe= host= pid=");
    assert_ne!(
        here,
        in_general(
            "charmrun: error[1]: c::Divider[2].divide panicked on PE 3: no at src/main.rs:9:9, pe=3 host=i pid=8"
        )
    );
}
