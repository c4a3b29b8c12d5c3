//! Whole jobs over the backend. They give the same results as over any other backend, and faults end them in the same way.

#[path = "../../../tests/tests/common/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod common;
#[path = "../../../launcher/tests/common/job.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod job;

use job::{Ended, Job};
use rustix::process::{Pid, Signal, kill_process};

const STENCIL: &str = env!("CARGO_BIN_EXE_stencil3d-unix");
/// The line that `stencil3d` prints for this grid, over every transport.
const CHECKSUM: &str = "checksum: eeaa4a9866fc7d53";

/// Starts `charmrun OPTIONS stencil3d-unix ARGUMENTS`. In `line`, `-` means the program.
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
        // Less credit than one step needs, and payloads of several packets.
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

/// The user CPU time of a process, in clock ticks.
fn computed(pid: Pid) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
    let (_, fields) = stat.rsplit_once(") ").unwrap_or_default();
    fields.split(' ').nth(11).and_then(|ticks| ticks.parse().ok()).unwrap_or_default()
}

/// A job that computes for a long time, and one of its processes.
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
fn the_failure_detector_ends_the_job_of_a_stopped_process() {
    let (job, pid) = computing();
    kill_process(pid, Signal::STOP).expect("it runs");
    // A peer finds the process unresponsive and ends. Another peer may report the loss of that peer, and the launcher may get this report first.
    job.end().failed(69, "lost contact with PE ");
}

#[test]
fn a_backend_that_the_program_lacks_is_refused_with_a_list_of_its_backends() {
    let what = "++transport extern:unicorn: this program has no such backend registered; it has extern:unix";
    run("+p2 ++transport extern:unicorn - --size 8").failed(78, what);
}
