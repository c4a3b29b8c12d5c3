//! Faults that take long, or whose duration is checked.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use charm4rs_transport::seed::{self, Rng};
use rustix::process::{Pid, Signal, kill_process};

use crate::job::{GONE, Job, processes};
use crate::{run, start, start_with};

/// Jobs over both transports between processes, at the same time.
fn both(rest: &str) -> Vec<Job> {
    ["tcp", "shm"].map(|transport| start(&format!("+p2 ++transport {transport} {rest}"))).into()
}

#[test]
fn a_receiver_that_takes_nothing_for_ten_seconds_is_reported_and_its_sender_holds_no_more_than_its_credit() {
    // Ten seconds, one that the first 300 MB may take, and some reserve.
    for job in both("- flood 13500") {
        let ended = job.end();
        assert_eq!(ended.code, 0, "{ended:?}");
        let warning = "charmrun: warning: PE 0 has waited for 10 s to send to PE 1, which receives no messages\n";
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
fn without_liveness_checks_a_stopped_process_is_waited_for() {
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
        // Every job checks that nothing is left a second later.
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

/// Names of shared memory on this machine: files, and System V segments.
fn names() -> BTreeSet<String> {
    let files = std::fs::read_dir("/dev/shm").expect("a folder").flatten();
    let files = files.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let segments = std::fs::read_to_string("/proc/sysvipc/shm").expect("proc");
    let segment = |line: &str| {
        let id = line.split_whitespace().nth(1)?;
        Some(format!("segment {id}"))
    };
    files.chain(segments.lines().skip(1).filter_map(segment)).collect()
}

#[test]
fn a_job_that_is_killed_while_it_starts_leaves_no_shared_memory_behind() {
    let clock = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| u64::from(since.subsec_nanos()));
    let seed = seed::from_environment().unwrap_or_else(clock);
    println!("{}={seed}", seed::SEED_VARIABLE);
    let mut random = Rng::new(seed);
    let before = names();
    let ways = [("ofi", "FI_PROVIDER", "shm"), ("ofi", "FI_PROVIDER", "tcp"), ("ucx", "UCX_WARN_UNUSED_ENV_VARS", "n")];
    for round in 0..45 {
        let (transport, name, value) = ways[round % ways.len()];
        let job = start_with(&format!("+p3 ++quiet ++transport {transport} - ready-and-compute"), (name, value));
        std::thread::sleep(Duration::from_micros(random.range(0..800_000)));
        let others: Vec<_> = processes(&job.mark).into_iter().filter_map(|(pid, _)| Pid::from_raw(pid)).collect();
        let victim = match random.below(2) {
            0 => job.pid(),
            _ => others.get(random.below(4)).copied().unwrap_or(job.pid()),
        };
        // The process may have ended, because there is no such transport.
        let _ = kill_process(victim, Signal::KILL);
        if victim != job.pid() {
            // The victim may have been the launcher's guardian, whose death ends nothing.
            let _ = kill_process(job.pid(), Signal::TERM);
        }
        job.end();
        let since = Instant::now();
        loop {
            let left: Vec<_> = names().difference(&before).cloned().collect();
            if left.is_empty() {
                break;
            }
            assert!(since.elapsed() < GONE, "seed {seed}, round {round}, {transport}: {left:?} is left");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
