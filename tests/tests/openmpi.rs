//! Programs that Open MPI's `mpirun` starts, without `charmrun`. What they compute, and how they end. Knows nothing of how a process speaks
//! to that launcher.

#[path = "../../launcher/tests/common/job.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod job;

#[path = "../../launcher/tests/common/hosts.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod hosts;

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use hosts::Hosts;
use job::{Ended, Job};
use rustix::process::{Signal, kill_process};

const FAULTY: &str = env!("CARGO_BIN_EXE_faulty");
/// By its own name, for MPICH may own the shorter ones.
const LAUNCHER: &str = "mpirun.openmpi";
/// More processes than cores; and whoever tests may be root, which it wants to be told twice.
const OPTIONS: [&str; 2] = ["--oversubscribe", "--allow-run-as-root"];

/// Where it keeps what it forgets to remove when it is killed.
const TEMPORARY: &str = env!("CARGO_TARGET_TMPDIR");

/// Whether that launcher is here.
fn possible() -> bool {
    let found = Command::new(LAUNCHER).arg("--version").output().is_ok_and(|out| out.status.success());
    if !found {
        eprintln!("skipped: there is no {LAUNCHER} here (as root, ci/setup installs it)");
    }
    found
}

fn example(name: &str) -> String {
    common::beside(FAULTY, "charm4rs-examples", name).display().to_string()
}

/// `mpirun LINE`.
fn start(line: &str) -> Job {
    let (mut command, mark) = job::marked(LAUNCHER);
    command.args(OPTIONS).args(line.split_whitespace()).env("RUST_BACKTRACE", "0").env("TMPDIR", TEMPORARY);
    Job::spawn(command, mark)
}

fn run(line: &str) -> Ended {
    start(line).end()
}

/// The launcher says more of it, and has codes of its own.
#[track_caller]
fn failed(ended: &Ended, code: i32, what: &str) {
    assert_ne!(ended.code, 0, "{ended:?}");
    let lines: Vec<&str> = ended.stderr.lines().filter(|line| line.contains("error[")).collect();
    let [line] = lines[..] else { panic!("the first cause is reported once: {ended:?}") };
    assert!(line.starts_with(&format!("charmrun: error[{code}]: ")) && line.contains(what), "{ended:?}");
}

#[test]
fn programs_compute_the_same_as_a_serial_run() {
    if !possible() {
        return;
    }
    for processes in [1, 4, 8] {
        let ended = run(&format!("-n {processes} {} ++verbose", example("hello")));
        assert!(ended.stdout.contains("have answered, and one of them again: 5050"), "{ended:?}");
        let found = format!("charmrun: bootstrap pmix (processes: {processes}, hosts: 1)\n");
        assert_eq!((ended.code, &*ended.stderr), (0, &*found));
    }
    let stencil = format!("{} --size 32 --steps 10", example("stencil3d"));
    for (processes, options) in
        [(4, ""), (4, "++transport shm"), (4, "++transport tcp"), (2, "++ppn 2"), (2, "+p4"), (8, "+p8")]
    {
        let ended = run(&format!("-n {processes} {stencil} {options}"));
        assert!(ended.succeeded().stdout.contains("a serial run gives the same"), "{options}: {ended:?}");
    }
}

#[test]
fn a_program_that_is_told_so_is_a_job_by_itself() {
    if !possible() {
        return;
    }
    let ended = run(&format!("-n 2 {} ++bootstrap alone +p1", example("hello")));
    let all = ended.succeeded().stdout.matches("have answered, and one of them again").count();
    assert_eq!(all, 2, "two jobs: {ended:?}");
    // Within the launcher's job charmrun's own counts; and a question is no job.
    let charmrun = common::charmrun(FAULTY);
    let ended = run(&format!("-n 1 {} +p4 ++ppn 1 {}", charmrun.display(), example("hello")));
    assert!(ended.succeeded().stdout.contains("from 3 of a group on PE 3"), "{ended:?}");
    let info = run(&format!("-n 1 {} ++info", charmrun.display()));
    assert!(info.succeeded().stdout.contains("pmix: a launcher that speaks PMIx started this process"), "{info:?}");
}

#[test]
fn a_job_that_fails_says_why_and_ends() {
    if !possible() {
        return;
    }
    let ended = run(&format!("-n 4 {FAULTY} exit"));
    assert!(ended.code == 42 && !ended.stderr.contains("error["), "{ended:?}");
    failed(&run(&format!("-n 4 {FAULTY} panic")), 1, "Node[3].panics panicked on PE 3: on purpose");
    failed(&run(&format!("-n 4 {FAULTY} panic ++transport tcp")), 1, "Node[3].panics panicked on PE 3: on purpose");
    failed(&run(&format!("-n 2 {} +p5", example("hello"))), 64, "+p 5 does not fit: 2 processes have been started");
}

#[test]
fn what_the_launchers_library_lacks_is_said() {
    if !possible() {
        return;
    }
    let ended = run(&format!("-x CHARM4RS_PMIX=/nowhere/libpmix.so -n 1 {}", example("hello")));
    failed(
        &ended,
        69,
        "a launcher that speaks PMIx started this process, and its library is not here: /nowhere/libpmix.so: ",
    );
}

#[test]
fn a_process_that_is_killed_ends_the_job() {
    if !possible() {
        return;
    }
    for (victim, options) in [(0, ""), (3, ""), (2, "++transport tcp")] {
        let mut job = start(&format!("-n 4 {FAULTY} ready-and-compute {options}"));
        let pids = job.ready(4);
        kill_process(pids[victim], Signal::KILL).expect("it runs");
        let ended = job.end();
        assert_ne!(ended.code, 0, "{ended:?}");
        assert!(ended.stderr.matches("error[").count() <= 1, "{ended:?}");
    }
}

#[test]
fn a_process_that_never_joins_ends_the_job_in_time() {
    if !possible() {
        return;
    }
    let ended = run(&format!("-n 2 {} ++timeout 3 : -n 1 sleep 60", example("hello")));
    failed(&ended, 69, "not all 3 processes have joined within 3 s");
}

#[test]
fn nothing_outlives_the_launcher() {
    if !possible() {
        return;
    }
    for signal in [Signal::KILL, Signal::TERM] {
        let mut job = start(&format!("-n 4 {FAULTY} ready-and-compute"));
        job.ready(4);
        job.signal(signal);
        // That nothing is left is looked at there. What code it has after a signal is the launcher's own affair.
        job.end();
    }
}

#[test]
fn processes_of_two_hosts_are_one_job_in_whatever_order_they_were_started() {
    if !possible() {
        return;
    }
    let Some(hosts) = Hosts::new(2) else { return };
    let shell = hosts.write("shell", &format!("#!/bin/sh\nexec {} \"$@\"\n", hosts.shell()));
    std::fs::set_permissions(&shell, std::fs::Permissions::from_mode(0o755)).expect("our file");
    // By host, and round the hosts.
    for order in ["slot", "node"] {
        let (marked, mark) = job::marked(LAUNCHER);
        let mut command = hosts.on(0, LAUNCHER);
        command.envs(marked.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("TMPDIR", TEMPORARY).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.args(OPTIONS).args(["--mca", "plm_rsh_agent"]).arg(&shell);
        command.args(["--host", &format!("{}:2,{}:2", hosts.name(0), hosts.name(1)), "--map-by", order, "-n", "4"]);
        command.args([&example("stencil3d"), "--size", "32", "--steps", "10", "++verbose"]);
        let ended = Job::spawn(command, mark).end();
        hosts.assert_empty();
        assert!(ended.code == 0 && ended.stderr.contains("pmix (processes: 4, hosts: 2)\n"), "{order}: {ended:?}");
        assert!(ended.stdout.contains("a serial run gives the same"), "{order}: {ended:?}");
    }
}
