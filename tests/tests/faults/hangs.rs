//! Jobs that hang: endless loops and deadlocks, and those that only seem to.

use crate::job::Job;
use crate::{start, start_with};

/// All connections between the PEs of a job.
const JOBS: [&str; 3] = ["+p3", "+p3 ++transport shm", "+p3 ++transport tcp"];

/// An environment variable: after 0.9 s instead of half a minute a method is reported, after 0.3 s a deadlock.
const HASTE: (&str, &str) = ("CHARM4RS_PATIENCE", "0.03");

/// Jobs over all connections between PEs, at the same time.
fn in_haste(rest: &str) -> Vec<Job> {
    JOBS.map(|options| start_with(&format!("{options} {rest}"), HASTE)).into()
}

#[test]
fn an_endless_loop_ends_the_job_at_its_limit_with_a_report_of_every_pe() {
    let jobs = JOBS.map(|options| start(&format!("{options} ++hang-timeout 1 - endless-loop")));
    for job in jobs {
        let ended = job.end();
        ended.failed(124, "faulty::Node[2].spins on PE 2 has run for ");
        assert_eq!(ended.pe(), Some(2), "{ended:?}");
        for said in ["PE 0: idle for ", "PE 1: idle for ", "PE 2: faulty::Node[2].spins\n", "\n    spins\n"] {
            assert_eq!(ended.stderr.matches(said).count(), 1, "{said:?} in {ended:?}");
        }
        assert!(ended.stderr.contains("tests/src/bin/faulty.rs:"), "where it is: {ended:?}");
    }
}

#[test]
fn an_entry_method_that_does_not_return_is_reported_ever_more_rarely_and_the_job_continues() {
    for job in in_haste("- compute 5000") {
        let ended = job.end();
        assert_eq!((ended.code, &*ended.stdout), (0, "computed\n"), "{ended:?}");
        let lines: Vec<_> = ended.stderr.lines().collect();
        let warning = "charmrun: warning: faulty::Node[2].compute on PE 2 has run for ";
        // After 0.9, 1.8 and 3.6 seconds, if the machine is not so busy that a check comes late.
        assert!((1..=3).contains(&lines.len()) && lines.iter().all(|line| line.starts_with(warning)), "{ended:?}");
    }
}

#[test]
fn a_deadlock_is_reported_once_with_its_waiting_tasks_and_the_job_continues() {
    let mut jobs = in_haste("- ready-and-deadlock");
    jobs.iter_mut().for_each(|job| drop(job.ready(3)));
    // There is no event to wait for: the job must stay silent during some tens of searches.
    std::thread::sleep(std::time::Duration::from_secs(3));
    for job in jobs {
        job.signal(rustix::process::Signal::TERM);
        let ended = job.end();
        assert_eq!(ended.code, 143, "{ended:?}");
        let said = ended.stderr.strip_prefix("charmrun: warning: deadlock: all PEs have been idle for ");
        let lines: Vec<_> = said.unwrap_or_else(|| panic!("{ended:?}")).lines().collect();
        let [first, main, node, _] = lines[..] else { panic!("{ended:?}") };
        assert!(first.ends_with(" s, no message is in flight, waiting tasks: 2"), "{ended:?}");
        assert_eq!(main, "  PE 0: main waits for its call of faulty::Node::waits");
        assert_eq!(node, "  PE 2: faulty::Node[2].waits waits for a call of its go");
    }
}

#[test]
fn a_deadlock_ends_the_job_at_its_limit() {
    for options in JOBS {
        let ended = start(&format!("{options} ++hang-timeout 1 - deadlock")).end();
        ended.failed(124, "deadlock: all PEs have been idle for ");
        for said in
            ["main waits for its call of ", "faulty::Node[2].waits waits for a call of its go", "PE 1: idle for "]
        {
            assert_eq!(ended.stderr.matches(said).count(), 1, "{said:?} in {ended:?}");
        }
    }
}

#[test]
fn a_job_that_waits_for_a_timer_or_another_thread_or_works_does_not_hang() {
    for limit in ["", "++hang-timeout 2"] {
        for (what, said) in [("sleep", "slept\n"), ("thread", "woken\n"), ("calls", "called\n")] {
            for job in in_haste(&format!("{limit} - {what} 3000")) {
                assert_eq!(job.end().succeeded().stdout, said, "{limit} {what}");
            }
        }
    }
}
