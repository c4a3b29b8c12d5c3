//! How a job fails: its exit code, its message, and that nothing is left.

mod common;

use std::io::BufRead as _;
use std::path::PathBuf;
use std::time::Duration;

use common::{Ended, assert_gone, processes, run, start};
use rustix::process::{Signal, kill_process};

#[test]
fn the_jobs_exit_status_is_the_programs() {
    for code in [0, 1, 3, 255] {
        let ended = run(&format!("+p4 ++ppn 1 PROCESS exit {code}"));
        assert_eq!((ended.code, &*ended.stderr), (code, ""));
    }
    assert_eq!(run("+p2 PROCESS exit 256").code, 0);
}

#[test]
fn a_process_that_exits_in_the_middle_ends_the_job_with_its_code() {
    let ended = run("+p4 ++ppn 2 PROCESS hard-exit 1 5");
    assert_eq!(ended.failed(5, "process 1 ended with exit code 5").pe(), Some(2));
    run("+p4 ++ppn 1 PROCESS hard-exit 3 0").failed(69, "process 3 ended with 0 while the job was running");
}

#[test]
fn a_reported_failure_is_printed_once_with_all_its_text() {
    let ended = run("+p4 ++ppn 1 PROCESS abort 2");
    assert_eq!(ended.failed(1, "it broke: here").pe(), Some(2));
    assert_eq!(ended.stderr.lines().skip(1).collect::<Vec<_>>(), ["  at a", "  at b"]);
}

#[test]
fn a_killed_process_ends_the_job_with_137_whichever_it_is() {
    for rank in [0, 3] {
        let ended = run(&format!("+p4 ++ppn 1 PROCESS kill {rank}"));
        ended.failed(137, &format!("process {rank} was killed by signal 9 (out of memory?)"));
        assert!(ended.stderr.contains(" MiB resident"), "the process's size: {ended:?}");
        assert_eq!(ended.pe(), Some(rank));
    }
}

#[test]
fn a_job_is_gone_within_a_second_of_a_processs_death() {
    let mut job = start("+p4 ++ppn 1 PROCESS ready");
    let processes = job.ready(4);
    let since = std::time::Instant::now();
    kill_process(processes[2], Signal::KILL).expect("it runs");
    job.end().failed(137, "killed by signal 9");
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

#[test]
fn a_crash_names_its_signal_its_reason_and_its_pe() {
    let ended = run("+p4 ++ppn 2 PROCESS segv 1");
    assert_eq!(ended.failed(139, "killed by signal 11 (access outside memory)").pe(), Some(2));
    let ended = run("+p3 ++ppn 1 PROCESS overflow 2");
    assert_eq!(ended.failed(139, "killed by signal 11 (stack overflow)").pe(), Some(2));
}

#[test]
fn of_two_deaths_at_once_one_is_reported() {
    let mut job = start("+p4 ++ppn 1 PROCESS ready");
    let processes = job.ready(4);
    job.signal(Signal::STOP);
    kill_process(processes[1], Signal::KILL).expect("it runs");
    kill_process(processes[2], Signal::ABORT).expect("it runs");
    job.signal(Signal::CONT);
    let ended = job.end();
    ended.failed(if ended.code == 134 { 134 } else { 137 }, "was killed by signal");
}

#[test]
fn a_death_explains_the_lost_peers_that_were_reported_before_it() {
    for _ in 0..10 {
        run("+p4 ++ppn 1 PROCESS lost-peer").failed(137, "process 0 was killed by signal 9");
    }
}

#[test]
fn a_stopped_process_is_called_unresponsive_and_ends_the_job_with_69() {
    let ended = run("+p2 ++ppn 1 PROCESS stop 1");
    assert_eq!(ended.code, 69, "{ended:?}");
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert_eq!(lines[0], "charmrun: warning: process 1 has been unresponsive for 3 s");
    assert!(lines[1].starts_with("charmrun: error[69]: process 1 has been unresponsive for 5 s"), "{ended:?}");
    assert!(ended.took < Duration::from_secs(8), "{ended:?}");
}

#[test]
fn children_that_processes_leave_behind_end_with_the_job() {
    run("+p2 ++ppn 1 PROCESS children").succeeded();
}

#[test]
fn nothing_outlives_a_killed_launcher() {
    let mut job = start("+p3 ++ppn 1 PROCESS ready");
    job.ready(3);
    job.signal(Signal::KILL);
    assert_eq!(job.end().code, -9);
    // Children too: the guardian kills those in a process's group.
    let mut job = start("+p3 ++ppn 1 PROCESS children-in-group");
    job.ready(3);
    job.signal(Signal::KILL);
    assert_eq!(job.end().code, -9);
}

#[test]
fn nothing_outlives_a_launcher_that_is_killed_while_it_starts() {
    for delay_us in (0..12_000).step_by(400) {
        let job = start("+p8 ++ppn 1 PROCESS ready");
        std::thread::sleep(Duration::from_micros(delay_us));
        job.signal(Signal::KILL);
        assert_eq!(job.end().code, -9);
    }
}

#[test]
fn a_job_needs_no_guardian_whenever_it_is_killed_or_stopped() {
    for signal in [Signal::KILL, Signal::STOP] {
        for _ in 0..5 {
            let job = start("+p3 ++ppn 1 PROCESS exchange");
            // The job may end first.
            let _ = job.guardian().map(|guardian| kill_process(guardian, signal));
            let ended = job.end();
            assert_eq!((ended.code, &*ended.stderr), (0, ""), "{ended:?}");
        }
        let mut job = start("+p2 ++ppn 1 PROCESS ready");
        let numbers = job.ready(2);
        kill_process(job.guardian().expect("the job runs"), signal).expect("it runs");
        kill_process(numbers[0], Signal::KILL).expect("it runs");
        job.end().failed(137, "was killed by signal 9");
    }
}

#[test]
fn a_killed_guardian_is_replaced() {
    let mut job = start("+p2 ++ppn 1 PROCESS children-in-group");
    job.ready(2);
    let first = job.guardian().expect("the job runs");
    kill_process(first, Signal::KILL).expect("it runs");
    while job.guardian() == Some(first) {
        std::thread::yield_now();
    }
    job.signal(Signal::KILL);
    assert_eq!(job.end().code, -9);
}

#[test]
fn what_has_left_its_session_ends_with_a_killed_launcher() {
    let mut job = start("+p2 ++ppn 1 PROCESS children-in-session");
    job.ready(2);
    job.signal(Signal::KILL);
    assert_eq!(job.end().code, -9);
}

#[test]
fn a_second_fault_while_a_job_ends_changes_nothing() {
    for (to, signal) in [(1, Signal::KILL), (1, Signal::STOP), (2, Signal::ABORT)] {
        let mut job = start("+p3 ++ppn 1 PROCESS stubborn");
        let processes = job.ready(3);
        job.signal(Signal::INT);
        // The end has begun when the processes report it.
        (0..3).for_each(|_| assert!(job.line().contains("heard Stop")));
        kill_process(processes[to], signal).expect("it runs");
        let ended = job.end();
        ended.failed(130, "interrupted by SIGINT");
        assert!(ended.took < Duration::from_secs(4), "{ended:?}");
    }
    // The launcher itself, and its guardian before it.
    for guardian in [None, Some(Signal::KILL)] {
        let mut job = start("+p3 ++ppn 1 PROCESS stubborn");
        job.ready(3);
        job.signal(Signal::INT);
        (0..3).for_each(|_| assert!(job.line().contains("heard Stop")));
        guardian.into_iter().for_each(|signal| {
            kill_process(job.guardian().expect("the job runs"), signal).expect("it runs");
        });
        job.signal(Signal::KILL);
        assert_eq!(job.end().code, -9);
    }
}

#[test]
fn many_jobs_at_once_do_not_disturb_each_other() {
    let jobs: Vec<_> =
        (0..6).map(|i| start(&format!("+p3 ++ppn 1 PROCESS {}", ["exchange", "exit 4"][i % 2]))).collect();
    for (i, job) in jobs.into_iter().enumerate() {
        assert_eq!(job.end().code, [0, 4][i % 2]);
    }
}

#[test]
fn the_test_would_see_what_a_job_leaves_behind() {
    let mut job = start("+p2 ++ppn 1 PROCESS ready");
    job.ready(2);
    job.signal(Signal::TERM);
    let Ended { mark, mut traces, .. } = job.end();
    assert_gone(&mark, &traces);
    // A process with the mark, a listening socket, an object in shared memory and a temporary file.
    let script = "import os, socket, sys, tempfile, time
listens = socket.create_server(('127.0.0.1', 0))
files = [open(name, 'w') for name in sys.argv[1:]]
print('ready', flush=True)
time.sleep(1000.75)";
    let files =
        [PathBuf::from("/dev/shm"), std::env::temp_dir()].map(|folder| folder.join(format!("charmrun-test-{mark}")));
    let mut command = std::process::Command::new("python3");
    command.args(["-c", script]).args(&files).env("CHARMRUN_TEST_JOB", &mark).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().expect("python3");
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a pipe");
    traces.look(&mark);
    assert!(!processes(&mark).is_empty());
    let left = traces.left();
    assert_eq!(left.len(), 3, "{left:?}");
    child.kill().and_then(|()| child.wait()).expect("ours");
    let left = traces.left();
    assert_eq!(left, files.clone().map(|file| file.display().to_string()), "the socket has gone, files have not");
    files.iter().for_each(|file| std::fs::remove_file(file).expect("it is there"));
    assert_gone(&mark, &traces);
}
