//! The user's signals.

mod common;

use std::time::Duration;

use common::{Job, command, run, start};
use rustix::process::Signal;

#[test]
fn ctrl_c_ends_the_job_with_130_and_sigterm_with_143() {
    for (signal, code, name) in [
        (Signal::INT, 130, "interrupted by SIGINT"),
        (Signal::TERM, 143, "interrupted by SIGTERM"),
        (Signal::HUP, 129, "interrupted by SIGHUP"),
        (Signal::QUIT, 131, "interrupted by SIGQUIT"),
    ] {
        let mut job = start("+p3 ++ppn 1 PROCESS ready");
        job.ready(3);
        job.signal(signal);
        let ended = job.end();
        ended.failed(code, name);
        assert!(ended.took < Duration::from_secs(2), "{ended:?}");
    }
}

#[test]
fn a_program_that_ignores_signals_is_killed_within_two_seconds() {
    let mut job = start("+p2 ++ppn 1 PROCESS stubborn");
    job.ready(2);
    let since = std::time::Instant::now();
    job.signal(Signal::INT);
    let ended = job.end();
    let took = since.elapsed();
    ended.failed(130, "interrupted by SIGINT");
    assert!(took >= Duration::from_millis(1700) && took < Duration::from_millis(2500), "{took:?}");
    assert_eq!(ended.sorted(), ["0 heard Stop { signal: 2 }", "1 heard Stop { signal: 2 }"]);
}

#[test]
fn a_second_ctrl_c_kills_at_once() {
    let mut job = start("+p2 ++ppn 1 PROCESS stubborn");
    job.ready(2);
    job.signal(Signal::INT);
    // The first signal has arrived when the processes report it.
    let mut heard: Vec<_> = (0..2).map(|_| job.line()).collect();
    heard.sort_unstable();
    assert_eq!(heard, ["0 heard Stop { signal: 2 }\n", "1 heard Stop { signal: 2 }\n"]);
    let since = std::time::Instant::now();
    job.signal(Signal::INT);
    job.end().failed(130, "interrupted by SIGINT");
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

#[test]
fn a_process_may_take_interrupts_one_by_one_and_a_second_one_before_it_has_handled_the_first_ends_the_job() {
    let mut job = start("+p2 ++ppn 1 PROCESS interruptible");
    job.ready(2);
    for come in 1..=3 {
        job.signal(Signal::INT);
        assert_eq!(job.line(), format!("interrupt {come}\n"));
    }
    job.signal(Signal::INT);
    job.end().failed(130, "interrupted by SIGINT");
}

#[test]
fn other_signals_end_a_job_whose_process_takes_interrupts() {
    let mut job = start("+p2 ++ppn 1 PROCESS interruptible");
    job.ready(2);
    job.signal(Signal::TERM);
    job.end().failed(143, "interrupted by SIGTERM");
}

#[test]
fn a_program_may_end_in_its_own_way_when_asked_to() {
    let mut job = start("+p2 ++ppn 1 PROCESS obeys");
    job.ready(2);
    job.signal(Signal::INT);
    let ended = job.end();
    ended.failed(130, "interrupted by SIGINT");
    assert_eq!(ended.stdout, "stops by 2\nstops by 2\n");
}

#[test]
fn other_signals_are_passed_on() {
    let mut job = start("+p2 ++ppn 1 PROCESS ready");
    job.ready(2);
    // A signal that ends a process that does not handle it, and so shows that it arrived.
    job.signal(Signal::USR1);
    job.end().failed(138, "was killed by signal 10");
}

#[test]
fn ignored_hangups_stay_ignored() {
    let (base, mark) = command("+p2 ++ppn 1 PROCESS ready");
    let mut nohup = std::process::Command::new("sh");
    nohup.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", common::CHARMRUN]).args(base.get_args());
    nohup.envs(base.get_envs().filter_map(|(name, value)| Some((name, value?))));
    nohup.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut job = Job::spawn(nohup, mark);
    job.ready(2);
    job.signal(Signal::HUP);
    job.signal(Signal::TERM);
    job.end().failed(143, "interrupted by SIGTERM");
}

#[test]
fn a_suspended_job_continues_where_it_was() {
    let mut job = start("+p2 ++ppn 1 PROCESS ready");
    let processes = job.ready(2);
    let state = |pid: rustix::process::Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
        stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).expect("a state")
    };
    let stopped = |pid| state(pid) == 'T';
    job.signal(Signal::TSTP);
    while !(stopped(job.pid()) && processes.iter().all(|pid| stopped(*pid))) {
        std::thread::yield_now();
    }
    job.signal(Signal::CONT);
    while stopped(job.pid()) || processes.iter().any(|pid| stopped(*pid)) {
        std::thread::yield_now();
    }
    job.signal(Signal::TERM);
    job.end().failed(143, "interrupted by SIGTERM");
}

#[test]
fn signals_are_blocked_in_the_launcher_only() {
    // A process that started with the launcher's blocked signals would not be ended by them.
    run("+p1 sh -c kill${IFS}-TERM${IFS}$$").failed(143, "was killed by signal 15 before it joined the job");
}
