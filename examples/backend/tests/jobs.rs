//! Whole jobs over the backend: they compute what they compute over any other, and a fault ends them as it does over any other.

#[path = "../../../tests/tests/common/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod common;
#[path = "../../../launcher/tests/common/job.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod job;

use job::{Ended, Job};
use rustix::process::{Pid, Signal, kill_process};

const STENCIL: &str = env!("CARGO_BIN_EXE_stencil3d-unix");
/// What `stencil3d` prints of this grid, over every transport.
const CHECKSUM: &str = "checksum: eeaa4a9866fc7d53";

/// Starts `charmrun OPTIONS stencil3d-unix ARGUMENTS`; in the line `-` stands for the program.
fn start(line: &str) -> Job {
    let (mut command, mark) = job::marked(common::charmrun(STENCIL).to_str().expect("a path of text"));
    command.args(line.split_whitespace().map(|word| if word == "-" { STENCIL } else { word }));
    Job::spawn(command, mark)
}

fn run(line: &str) -> Ended {
    start(line).end()
}

#[test]
fn stencil3d_gives_the_serial_result_over_unix_sockets() {
    for (options, arguments) in [
        ("+p4", "--size 32 --blocks 4,3,2"),
        ("+p4 ++ppn 2", "--size 32 --blocks 8,2,1"),
        ("+p1", "--size 32"),
        // Less credit than a step sends, and payloads of several packets.
        ("+p3 ++credit 64K", "--size 32,32,32 --blocks 3,1,1"),
    ] {
        let ended = run(&format!("++quiet ++transport extern:unix {options} - {arguments}"));
        let stdout = &ended.succeeded().stdout;
        assert!(stdout.contains(CHECKSUM) && stdout.contains("a serial run gives the same"), "{options}: {stdout}");
    }
}

#[test]
fn payloads_of_many_packets_arrive() {
    let ended = run("++quiet +p2 ++transport extern:unix - --size 4,160,160 --blocks 2,1,1 --steps 20 --warm-up 0");
    assert!(ended.succeeded().stdout.contains("a serial run gives the same"), "{ended:?}");
}

/// The clock ticks for which a process has computed.
fn computed(pid: Pid) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
    let (_, fields) = stat.rsplit_once(") ").unwrap_or_default();
    fields.split(' ').nth(11).and_then(|ticks| ticks.parse().ok()).unwrap_or_default()
}

/// A job that computes for long, and one of its processes.
fn computing() -> (Job, Pid) {
    let job = start("++quiet +p3 ++transport extern:unix - --size 96 --steps 1000000");
    loop {
        let processes = job::processes(&job.mark).into_iter().filter(|(_, command)| command.starts_with(STENCIL));
        let mut pids = processes.filter_map(|(pid, _)| Pid::from_raw(pid));
        if let Some(pid) = pids.find(|&pid| computed(pid) > 20) {
            job.look();
            return (job, pid);
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_process_that_is_killed_ends_the_job_and_leaves_nothing() {
    let (job, pid) = computing();
    kill_process(pid, Signal::KILL).expect("it runs");
    job.end().failed(137, "killed by signal 9");
}

#[test]
fn a_process_that_is_stopped_ends_the_job_as_the_failure_detector_says() {
    let (job, pid) = computing();
    kill_process(pid, Signal::STOP).expect("it runs");
    // A peer finds the process unresponsive and ends; another peer may report the loss of that one, and the launcher may hear of it first.
    job.end().failed(69, "lost contact with PE ");
}

#[test]
fn a_backend_that_the_program_does_not_have_is_refused_with_those_that_it_has() {
    let what = "++transport extern:unicorn: this program has no such backend registered; it has extern:unix";
    run("+p2 ++transport extern:unicorn - --size 8").failed(78, what);
}
