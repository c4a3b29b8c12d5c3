//! Programs that a site's launcher starts, without `charmrun`: MPICH's `mpiexec.hydra`. What they compute, and how they end. Knows nothing of the
//! protocol between a process and that launcher.

#[path = "../../launcher/tests/common/job.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod job;

#[path = "../../launcher/tests/common/hosts.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod hosts;

#[path = "../../transport/bootstrap/src/pmi1/launcher.rs"]
mod launcher;

mod common;

#[path = "common/launchers.rs"]
mod launchers;

use std::io::{BufRead as _, BufReader};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use hosts::Hosts;
use job::Ended;
use launchers::Launcher;
use rustix::io::{FdFlags, fcntl_setfd};

const FAULTY: &str = env!("CARGO_BIN_EXE_faulty");
const LAUNCHER: Launcher = Launcher { program: "mpiexec.hydra", options: &[] };

fn example(name: &str) -> String {
    common::example(FAULTY, name)
}

/// `mpiexec LINE`.
fn run(line: &str) -> Ended {
    LAUNCHER.run(line)
}

/// The checksum of a serial run of the same problem.
fn checksum(ended: &Ended) -> &str {
    let line = ended.succeeded().stdout.lines().find(|line| line.contains("checksum: "));
    line.unwrap_or_else(|| panic!("{ended:?}"))
}

#[test]
fn programs_compute_the_same_as_alone() {
    if !LAUNCHER.possible() {
        return;
    }
    let stencil = format!("{} --size 32 --steps 10", example("stencil3d"));
    for options in ["-n 4", "-n 8", "-n 1"] {
        let ended = run(&format!("{options} {}", example("hello")));
        let answered = "have answered, and one of them again: 5050";
        assert!(ended.succeeded().stdout.contains(answered), "{options}: {ended:?}");
    }
    let alone = run(&format!("-n 1 {stencil} ++bootstrap alone +p2"));
    for (processes, options) in
        [(4, ""), (4, "++transport shm"), (4, "++transport tcp"), (2, "++ppn 2"), (2, "+p4"), (8, ""), (8, "+p8")]
    {
        let ended = run(&format!("-n {processes} {stencil} {options}"));
        assert!(ended.succeeded().stdout.contains("a serial run gives the same"), "{options}: {ended:?}");
        assert_eq!(checksum(&ended), checksum(&alone), "{options}");
    }
}

#[test]
fn a_program_with_the_option_is_a_job_by_itself() {
    if LAUNCHER.possible() {
        LAUNCHER.does_not_include_programs_that_are_jobs_by_themselves();
    }
}

#[test]
fn info_and_verbose_print_the_bootstrap() {
    if !LAUNCHER.possible() {
        return;
    }
    let ended = run(&format!("-n 3 {} ++verbose", example("hello")));
    assert_eq!((ended.code, &*ended.stderr), (0, "charmrun: bootstrap pmi1 (processes: 3, hosts: 1)\n"));
    let info = run(&format!("-n 1 {} ++info", common::charmrun(FAULTY).display()));
    assert!(info.succeeded().stdout.contains("pmi1: a launcher that speaks PMI-1 started this process"), "{info:?}");
}

#[test]
fn the_launcher_ends_with_the_code_of_the_job() {
    if !LAUNCHER.possible() {
        return;
    }
    let ended = run(&format!("-n 4 {FAULTY} exit"));
    assert_eq!((ended.code, &*ended.stderr), (42, ""), "{ended:?}");
    run(&format!("-n 4 {FAULTY} panic")).failed(1, "Node[3].panics panicked on PE 3: on purpose");
    run(&format!("-n 4 {FAULTY} panic ++transport tcp")).failed(1, "Node[3].panics panicked on PE 3: on purpose");
    run(&format!("-n 2 {} +p5", example("hello"))).failed(64, "+p 5 does not fit: 2 processes have been started");
    run(&format!("-n 2 {} ++transport sim", example("hello"))).failed(78, "a simulated job is one process");
    run(&format!("-n 2 {} ++transprot shm", example("hello"))).failed(64, "unknown option ++transprot");
}

#[test]
fn a_process_that_is_killed_ends_the_job() {
    if LAUNCHER.possible() {
        LAUNCHER.ends_the_job_of_a_process_that_is_killed();
    }
}

/// A job of a launcher that kills no process: its processes, and the readers of their output.
fn with_a_lenient_launcher(size: usize, args: &[&str]) -> Vec<Child> {
    let mut start = |(rank, socket): (usize, UnixStream)| {
        // Open in the process that is started, and in no other: this process closes its copy before the next one starts.
        fcntl_setfd(&socket, FdFlags::empty()).expect("a descriptor");
        let mut command = Command::new(FAULTY);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("PMI_FD", socket.as_raw_fd().to_string()).env("PMI_RANK", rank.to_string());
        command.env("PMI_SIZE", size.to_string()).spawn().expect("it starts")
    };
    launcher::launcher(size).into_iter().enumerate().map(&mut start).collect()
}

#[test]
fn processes_detect_a_death_and_end_if_the_launcher_does_not_kill_them() {
    for (victim, what) in [(0, "ready"), (1, "ready"), (3, "ready-and-compute")] {
        let mut job = with_a_lenient_launcher(4, &[what]);
        for process in &mut job {
            let mut line = String::new();
            BufReader::new(process.stdout.as_mut().expect("piped")).read_line(&mut line).expect("a pipe");
            assert!(line.starts_with("ready "), "{line:?}");
        }
        let pid = job[victim].id();
        job[victim].kill().expect("it runs");
        let ended: Vec<_> = job.into_iter().map(|process| process.wait_with_output().expect("our child")).collect();
        let codes: Vec<_> = ended.iter().map(|one| one.status.code()).collect();
        assert!((0..4).all(|rank| codes[rank] == if rank == victim { None } else { Some(69) }), "{codes:?}");
        let said: String = ended.iter().map(|one| String::from_utf8_lossy(&one.stderr)).collect();
        assert_eq!(said.lines().count(), 1, "told once: {said}");
        let first = said.starts_with(&format!(
            "charmrun: error[69]: process {victim} of this host (pid {pid}) is gone, pe=- host="
        ));
        assert!(first, "{said}");
    }
}

#[test]
fn a_process_that_never_joins_ends_the_job_in_time() {
    if !LAUNCHER.possible() {
        return;
    }
    let ended = run(&format!("-n 2 {} ++timeout 1 : -n 1 true", example("hello")));
    ended.failed(69, "not all 3 processes have joined within 1 s");
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
    let names = format!("{},{}", hosts.name(0), hosts.name(1));
    // By host, and round-robin over the hosts.
    for order in ["-ppn 2", "-ppn 1"] {
        let line = format!("-hosts {names} {order} -n 4 {stencil}");
        let by = |command: &mut Command, shell: &Path| {
            command.args(["-launcher", "ssh", "-launcher-exec"]).arg(shell);
        };
        let ended = LAUNCHER.run_on(&hosts, by, &line);
        // Between hosts there is a network, about which there may be further messages.
        assert!(ended.code == 0 && ended.stderr.contains("pmi1 (processes: 4, hosts: 2)\n"), "{ended:?}");
        assert!(ended.stdout.contains("a serial run gives the same"), "{order}: {ended:?}");
    }
}
