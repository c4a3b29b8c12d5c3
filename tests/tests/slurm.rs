//! Programs that Slurm starts, without `charmrun`: `srun --mpi=pmi2` and `--mpi=pmix`, in a Slurm of the test (`ci/slurm`). What they compute, and
//! how they end. Knows nothing of the protocol between a process and that launcher.

#[path = "../../launcher/tests/common/job.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod job;

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use job::{Ended, Job};
use rustix::process::{Pid, Signal, kill_process};

const FAULTY: &str = env!("CARGO_BIN_EXE_faulty");
/// The exit code of `ci/slurm` if it cannot run here.
const IMPOSSIBLE: i32 = 77;

fn tool() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").join("ci/slurm")
}

/// The protocols that this Slurm supports, by the names of `--mpi` and of the bootstrap.
fn languages() -> Vec<(&'static str, &'static str)> {
    let can = |(language, _): &(&str, &str)| {
        let mut command = Command::new(tool());
        command.args(["1", "srun", &format!("--mpi={language}"), "true"]).stdin(Stdio::null()).stderr(Stdio::piped());
        let ended = command.output().expect("ci/slurm can be started");
        // Slurm lists PMIx also if it cannot open its library.
        let lacks = ended.status.code() == Some(IMPOSSIBLE)
            || String::from_utf8_lossy(&ended.stderr).contains("can not load PMIx library");
        assert!(lacks || ended.status.success(), "{ended:?}");
        if lacks {
            eprintln!("skipped: there can be no Slurm here that speaks {language}");
        }
        !lacks
    };
    [("pmi2", "pmi1"), ("pmix", "pmix")].into_iter().filter(can).collect()
}

/// `srun --mpi=LANGUAGE LINE` on two nodes.
fn start(language: &str, line: &str) -> Job {
    let (mut command, mark) = job::marked(tool().to_str().expect("a path of text"));
    command.args(["2", "srun", &format!("--mpi={language}")]).args(line.split_whitespace()).env("RUST_BACKTRACE", "0");
    Job::spawn(command, mark)
}

fn run(language: &str, line: &str) -> Ended {
    start(language, line).end()
}

fn example(name: &str) -> String {
    common::example(FAULTY, name)
}

#[test]
fn programs_compute_the_same_as_a_serial_run() {
    for (language, bootstrap) in languages() {
        let stencil = format!("{} --size 32 --steps 10", example("stencil3d"));
        for (tasks, options) in [
            ("-n 4", ""),
            ("-n 4", "++transport tcp"),
            ("-n 2", "++ppn 2"),
            ("-n 8", "+p8"),
            ("-N 2 -n 4 -m cyclic", ""),
        ] {
            let ended = run(language, &format!("{tasks} {stencil} {options}"));
            assert!(ended.succeeded().stdout.contains("a serial run gives the same"), "{tasks} {options}: {ended:?}");
        }
        // More than Slurm accepts in a line: many processes, each of which gets the data of all.
        let ended = run(language, &format!("-n 16 {} ++verbose", example("hello")));
        let found = format!("charmrun: bootstrap {bootstrap} (processes: 16, hosts: 1)\n");
        assert_eq!((ended.code, &*ended.stderr), (0, &*found));
    }
}

#[test]
fn a_job_that_fails_reports_the_cause_and_ends() {
    for (language, _) in languages() {
        assert_eq!(run(language, &format!("-n 4 {FAULTY} exit")).code, 42);
        let ended = run(language, &format!("-n 4 {FAULTY} panic"));
        ended.failed_among_others(1, "Node[3].panics panicked on PE 3: on purpose");
        let ended = run(language, &format!("-n 2 {} +p5", example("hello")));
        ended.failed_among_others(64, "+p 5 does not fit: 2 processes have been started");
    }
}

#[test]
fn a_task_that_is_killed_ends_the_step() {
    for (language, _) in languages() {
        for victim in [0, 2] {
            let mut job = start(language, &format!("-n 4 {FAULTY} ready"));
            job.ready(4);
            // They have printed the numbers of their own namespace.
            let mut tasks: Vec<i32> = job::processes(&job.mark)
                .into_iter()
                .filter(|(_, line)| line.starts_with(FAULTY))
                .map(|(pid, _)| pid)
                .collect();
            tasks.sort_unstable();
            assert_eq!(tasks.len(), 4, "{tasks:?}");
            kill_process(Pid::from_raw(tasks[victim]).expect("a number"), Signal::KILL).expect("it runs");
            let ended = job.end();
            ended.failed_among_others(69, "of this host (pid ");
        }
    }
}

#[test]
fn processes_without_a_pmi_from_slurm_report_it_once_and_do_no_work() {
    if languages().is_empty() {
        return;
    }
    let hello = example("hello");
    let ended = run("none", &format!("-n 3 {hello}"));
    assert_eq!(ended.stdout, "");
    ended.failed_among_others(
        78,
        "srun started 3 processes, and gave them no way to find each other: use srun --mpi=pmix or",
    );
    for (line, jobs) in [(format!("-n 3 {hello} ++bootstrap alone"), 3), (format!("-n 1 {hello}"), 1)] {
        let ended = run("none", &line);
        let all = ended.succeeded().stdout.matches("have answered, and one of them again").count();
        assert_eq!(all, jobs, "{ended:?}");
    }
}
