//! Faults that take their time, or whose time counts.

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::job::Job;
use crate::{run, start};

/// Jobs over both transports between processes, at the same time.
fn both(rest: &str) -> Vec<Job> {
    ["tcp", "shm"].map(|transport| start(&format!("+p2 ++transport {transport} {rest}"))).into()
}

#[test]
fn a_receiver_that_takes_nothing_for_ten_seconds_is_reported_and_its_sender_holds_no_more_than_its_credit() {
    // Ten seconds, one that the first 300 MB may take, and some to spare.
    for job in both("- flood 13500") {
        let ended = job.end();
        assert_eq!(ended.code, 0, "{ended:?}");
        let warning = "charmrun: warning: PE 0 has waited for 10 s to send to PE 1, which takes no messages\n";
        assert_eq!(ended.stderr, warning);
        let most: u64 = ended.stdout.trim().parse().expect("KiB");
        assert!(most < 200 << 10, "{most} KiB for 300 MB");
    }
}

#[test]
fn a_stopped_process_is_unresponsive_within_six_seconds_over_every_transport() {
    let jobs = [both("- ready"), both("- ready")].into_iter().flatten().enumerate();
    let stopped: Vec<_> = jobs
        .map(|(i, mut job)| {
            let pids = job.ready(2);
            kill_process(pids[i / 2], Signal::STOP).expect("it runs");
            (job, Instant::now())
        })
        .collect();
    for (job, since) in stopped {
        let ended = job.end();
        assert!(since.elapsed() < Duration::from_secs(7), "{:?}", since.elapsed());
        assert_eq!(ended.code, 69, "{ended:?}");
        let error = ended.stderr.lines().find(|line| line.starts_with("charmrun: error[69]: "));
        assert!(error.is_some_and(|line| line.contains("unresponsive")), "{ended:?}");
    }
}

#[test]
fn for_a_debugger_a_stopped_process_is_waited_for() {
    let mut job = start("+p2 ++transport tcp ++no-liveness - ready-and-leave 8000");
    let pids = job.ready(2);
    kill_process(pids[1], Signal::STOP).expect("it runs");
    std::thread::sleep(Duration::from_secs(7));
    kill_process(pids[1], Signal::CONT).expect("it runs");
    assert_eq!(job.end().succeeded().stdout, "left\n");
}

#[test]
fn a_pe_that_computes_for_long_is_not_taken_for_dead() {
    for job in both("- compute 8000") {
        assert_eq!(job.end().succeeded().stdout, "computed\n");
    }
}

#[test]
fn a_job_is_gone_within_a_second_of_any_process_s_death_whatever_the_others_do() {
    for transport in ["tcp", "shm"] {
        for what in ["ready", "ready-and-compute"] {
            for victim in [0, 2] {
                let mut job = start(&format!("+p3 ++transport {transport} - {what}"));
                let pids = job.ready(3);
                let since = Instant::now();
                kill_process(pids[victim], Signal::KILL).expect("it runs");
                job.end().failed(137, "was killed by signal 9 (out of memory?)");
                assert!(since.elapsed() < Duration::from_secs(1), "{transport} {what}: {:?}", since.elapsed());
            }
        }
    }
}

#[test]
fn a_job_is_gone_within_a_second_of_the_death_of_the_process_that_others_put_into_or_that_puts() {
    for transport in ["shm", "tcp", "ofi", "ucx"] {
        if run(&format!("+p2 ++quiet ++transport {transport} - ready-and-leave 0")).code == 78 {
            eprintln!("{transport}: skipped");
            continue;
        }
        for victim in [0, 1] {
            let mut job = start(&format!("+p2 ++quiet ++transport {transport} - ready-and-put"));
            let pids = job.ready(2);
            let since = Instant::now();
            kill_process(pids[victim], Signal::KILL).expect("it runs");
            job.end().failed(137, "was killed by signal 9 (out of memory?)");
            assert!(since.elapsed() < Duration::from_secs(1), "{transport}: {:?}", since.elapsed());
        }
    }
}

#[test]
fn every_process_is_gone_within_a_second_of_the_launcher_s_death_whatever_it_does() {
    for what in ["ready", "ready-and-compute"] {
        let mut job = start(&format!("+p3 ++transport tcp - {what}"));
        job.ready(3);
        job.signal(Signal::KILL);
        // That nothing is left a second later is looked at for every job.
        assert_eq!(job.end().code, -9);
    }
}

#[test]
fn a_failure_ends_the_job_within_a_second_though_others_compute() {
    for (what, code, words) in [
        ("panic", 1, "Node[2].panics panicked on PE 2: on purpose"),
        ("panic-in-reduction", 1, "on purpose"),
        ("panic-in-serialization", 1, "on purpose"),
        ("panic-in-destructor", 1, "Node[2].drops_hostile panicked on PE 2: on purpose"),
        ("double-panic", 134, "a panic that cannot be caught, such as one during another one at "),
        ("exit", 42, ""),
    ] {
        for options in ["+p3 ++transport tcp", "+p3 ++transport shm", "+p3"] {
            if (options, what) == ("+p3", "panic-in-serialization") {
                // Between threads nothing is serialized.
                continue;
            }
            let mut job = start(&format!("{options} - {what}"));
            assert_eq!(job.line(), "now\n");
            let since = Instant::now();
            let ended = job.end();
            assert!(since.elapsed() < Duration::from_secs(1), "{options} {what}: {:?}", since.elapsed());
            assert_eq!(ended.code, code, "{options} {what}: {ended:?}");
            if what == "exit" {
                assert_eq!(ended.stderr, "");
            } else {
                ended.failed(code, words);
            }
        }
    }
}
