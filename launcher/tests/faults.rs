//! How a job fails: with which code, which words, and that it is gone.

mod common;

use std::time::Duration;

use common::{assert_gone, processes, run, start};
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
    run("+p4 ++ppn 1 PROCESS hard-exit 3 0").failed(69, "process 3 ended with 0 while the job still ran");
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
    assert_eq!(lines[0], "charmrun: warning: process 1 is unresponsive for 3 s");
    assert!(lines[1].starts_with("charmrun: error[69]: process 1 is unresponsive for 5 s"), "{ended:?}");
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
    // Children too: those of a process's group by the guardian.
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
fn a_killed_guardian_does_no_harm() {
    let mut job = start("+p2 ++ppn 1 PROCESS ready");
    let numbers = job.ready(2);
    let launcher = job.pid();
    let children = std::fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).expect("proc");
    let guardian = children
        .split_whitespace()
        .filter_map(|n| rustix::process::Pid::from_raw(n.parse().ok()?))
        .find(|pid| !numbers.contains(pid))
        .expect("a third child");
    kill_process(guardian, Signal::KILL).expect("it runs");
    kill_process(numbers[0], Signal::KILL).expect("it runs");
    job.end().failed(137, "was killed by signal 9");
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
    let mark = job.end().mark;
    assert_gone(&mark);
    let child = std::process::Command::new("sleep").arg("1000.75").env("CHARMRUN_TEST_JOB", &mark).spawn();
    let mut child = child.expect("sleep");
    while processes(&mark).is_empty() {
        std::thread::yield_now();
    }
    child.kill().and_then(|()| child.wait()).expect("ours");
    assert_gone(&mark);
}
