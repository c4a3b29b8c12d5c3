//! Faults of whole jobs: processes, over shared memory and TCP; each test checks the exit code, the message, and that nothing is left behind. Knows
//! nothing of how faults are detected.

#[path = "../../../launcher/tests/common/job.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod job;

mod alone;
#[path = "../common/mod.rs"]
mod common;
mod fabrics;
mod flow;
mod forks;
mod hangs;
mod memory;
mod reports;
mod ucx;

use std::process::Command;

use job::{Ended, Job};

const FAULTY: &str = env!("CARGO_BIN_EXE_faulty");

/// `charmrun OPTIONS faulty ARGS`, from a line in which `-` separates them.
fn command(line: &str) -> (Command, String) {
    command_of(FAULTY, line)
}

/// As [`command`], of another program.
fn command_of(program: &str, line: &str) -> (Command, String) {
    let (mut command, mark) = job::marked(common::charmrun(program).to_str().expect("a path of text"));
    command.args(line.split_whitespace().map(|word| if word == "-" { program } else { word }));
    command.env("RUST_BACKTRACE", "0");
    (command, mark)
}

fn start(line: &str) -> Job {
    let (command, mark) = command(line);
    Job::spawn(command, mark)
}

/// With one more variable in the environment.
fn start_with(line: &str, (name, value): (&str, &str)) -> Job {
    let (mut command, mark) = command(line);
    command.env(name, value);
    Job::spawn(command, mark)
}

fn run(line: &str) -> Ended {
    start(line).end()
}

#[test]
fn threads_of_a_pinned_pe_are_pinned_unless_they_are_started_free_or_pes_are_not_pinned() {
    let all = std::thread::available_parallelism().expect("it is known").get();
    for (options, want) in [("+p1", format!("1 1 {all}\n")), ("+p1 +no-pin", format!("{all} {all} {all}\n"))] {
        let ended = run(&format!("{options} - cpus"));
        assert_eq!((ended.code, &*ended.stdout), (0, &*want), "{options}: {ended:?}");
    }
}
