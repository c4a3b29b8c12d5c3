//! Programs that Open MPI's `mpirun` starts, without `charmrun`. What they compute, and how they end. Knows nothing of the protocol between a process
//! and that launcher.

#[path = "../../launcher/tests/common/job.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod job;

#[path = "../../launcher/tests/common/hosts.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod hosts;

mod common;

#[path = "common/launchers.rs"]
mod launchers;

use std::path::Path;
use std::process::Command;

use hosts::Hosts;
use job::Ended;
use launchers::Launcher;

const FAULTY: &str = env!("CARGO_BIN_EXE_faulty");
/// More processes than cores; and the tests may run as root, which Open MPI requires to be confirmed twice.
const LAUNCHER: Launcher = Launcher { program: "mpirun.openmpi", options: &["--oversubscribe", "--allow-run-as-root"] };

fn example(name: &str) -> String {
    common::example(FAULTY, name)
}

/// `mpirun LINE`.
fn run(line: &str) -> Ended {
    LAUNCHER.run(line)
}

#[test]
fn programs_compute_the_same_as_a_serial_run() {
    if !LAUNCHER.possible() {
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
fn a_program_with_the_option_is_a_job_by_itself() {
    if !LAUNCHER.possible() {
        return;
    }
    LAUNCHER.does_not_include_programs_that_are_jobs_by_themselves();
    // A question does not start a job.
    let info = run(&format!("-n 1 {} ++info", common::charmrun(FAULTY).display()));
    assert!(info.succeeded().stdout.contains("pmix: a launcher that speaks PMIx started this process"), "{info:?}");
}

#[test]
fn a_job_that_fails_reports_the_cause_and_ends() {
    if !LAUNCHER.possible() {
        return;
    }
    let ended = run(&format!("-n 4 {FAULTY} exit"));
    assert!(ended.code == 42 && !ended.stderr.contains("error["), "{ended:?}");
    for options in ["", "++transport tcp"] {
        let ended = run(&format!("-n 4 {FAULTY} panic {options}"));
        ended.failed_among_others(1, "Node[3].panics panicked on PE 3: on purpose");
    }
    let ended = run(&format!("-n 2 {} +p5", example("hello")));
    ended.failed_among_others(64, "+p 5 does not fit: 2 processes have been started");
}

#[test]
fn a_missing_launcher_library_is_reported() {
    if !LAUNCHER.possible() {
        return;
    }
    let ended = run(&format!("-x CHARM4RS_PMIX=/nowhere/libpmix.so -n 1 {}", example("hello")));
    ended.failed_among_others(
        69,
        "a launcher that speaks PMIx started this process, and its library cannot be opened: /nowhere/libpmix.so: ",
    );
}

#[test]
fn a_process_that_is_killed_ends_the_job() {
    if LAUNCHER.possible() {
        LAUNCHER.ends_the_job_of_a_process_that_is_killed();
    }
}

#[test]
fn a_process_that_never_joins_ends_the_job_in_time() {
    if !LAUNCHER.possible() {
        return;
    }
    let ended = run(&format!("-n 2 {} ++timeout 3 : -n 1 sleep 60", example("hello")));
    ended.failed_among_others(69, "not all 3 processes have joined within 3 s");
}

#[test]
fn nothing_outlives_the_launcher() {
    if LAUNCHER.possible() {
        LAUNCHER.is_outlived_by_nothing();
    }
}

#[test]
fn processes_of_two_hosts_are_one_job_in_whatever_order_they_were_started() {
    if !LAUNCHER.possible() {
        return;
    }
    let Some(hosts) = Hosts::new(2) else { return };
    let stencil = format!("{} --size 32 --steps 10 ++verbose", example("stencil3d"));
    let names = format!("{}:2,{}:2", hosts.name(0), hosts.name(1));
    // By host, and round the hosts.
    for order in ["slot", "node"] {
        let line = format!("--host {names} --map-by {order} -n 4 {stencil}");
        let by = |command: &mut Command, shell: &Path| _ = command.args(["--mca", "plm_rsh_agent"]).arg(shell);
        let ended = LAUNCHER.run_on(&hosts, by, &line);
        assert!(ended.code == 0 && ended.stderr.contains("pmix (processes: 4, hosts: 2)\n"), "{order}: {ended:?}");
        assert!(ended.stdout.contains("a serial run gives the same"), "{order}: {ended:?}");
    }
}
