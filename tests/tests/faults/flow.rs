//! Producers that run ahead of slow receivers: memory stays within the credit on both sides, over every backend, and every job ends.

use crate::command_of;
use crate::job::{Ended, Job};

const FLOWS: &str = env!("CARGO_BIN_EXE_flows");

/// All backends between two PEs.
const BACKENDS: [&str; 5] =
    ["+p2 ++ppn 2", "+p2 ++transport shm", "+p2 ++transport tcp", "+p2 ++transport ofi", "+p2 ++transport ucx"];

/// `charmrun OPTIONS flows ARGS`; `None` if there is no such backend.
fn run(options: &str, args: &str) -> Option<Ended> {
    let (command, mark) = command_of(FLOWS, &format!("{options} ++quiet - {args}"));
    let ended = Job::spawn(command, mark).end();
    if ended.code == 78 {
        eprintln!("{options}: skipped");
        return None;
    }
    Some(ended)
}

/// The number of calls that each PE took, and the growth of its process in KiB.
fn each(ended: &Ended) -> Vec<(u64, u64)> {
    let number = |word: &str| word.parse().expect("a number");
    let line = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        (number(words[3]), number(words[words.len() - 2]))
    };
    ended.stdout.lines().filter(|line| line.contains(" took ")).map(line).collect()
}

/// Runs over every backend, and asserts the number of calls of each PE and that no process grew by more than `most` MiB.
fn check(backends: &[&str], args: &str, credit: &str, took: &[u64], most: u64) {
    for backend in backends {
        let Some(ended) = run(&format!("{backend} ++credit {credit}"), args) else { continue };
        let each = each(ended.succeeded());
        assert_eq!(each.iter().map(|(took, _)| *took).collect::<Vec<_>>(), took, "{backend}: {ended:?}");
        for (_, grown) in each {
            assert!(grown < most << 10, "{backend} {args}: {ended:?}");
        }
    }
}

#[test]
fn payloads_for_a_slow_receiver_take_no_more_memory_than_the_credit_on_either_side() {
    // 200 MB.
    check(&BACKENDS, "one payload 2000 200", "4M", &[0, 2_000], 64);
}

#[test]
fn small_calls_for_a_slow_receiver_take_no_more_memory_than_the_credit_on_either_side() {
    // 60 MB in queues, if all of it could be there.
    check(&BACKENDS, "one small 500000 1", "1M", &[0, 500_000], 24);
}

#[test]
fn a_producer_that_awaits_its_sends_is_suspended_while_its_receiver_is_slow_and_its_pe_continues() {
    for backend in BACKENDS {
        let Some(ended) = run(&format!("{backend} ++credit 4M"), "suspended payload 2000 200") else { continue };
        assert!(ended.succeeded().stdout.starts_with("PE 0 answered many times\n"), "{backend}: {ended:?}");
        let each = each(&ended);
        assert_eq!((each[0].0, each[1].0), (0, 2_000), "{backend}: {ended:?}");
        assert!(each.iter().all(|(_, grown)| *grown < 64 << 10), "{backend}: {ended:?}");
    }
}

#[test]
fn vectors_that_are_moved_to_a_slow_thread_take_no_more_memory_than_the_credit() {
    check(&BACKENDS[..1], "one vector 2000 200", "4M", &[0, 2_000], 64);
}

#[test]
fn a_broadcast_flood_takes_no_more_memory_than_the_credit() {
    check(&BACKENDS, "all payload 1000 400", "4M", &[1_000, 1_000], 64);
}

#[test]
fn pes_that_flood_each_other_in_entry_methods_that_do_not_return_all_end() {
    // No PE takes a message before it has sent all, so this needs memory for all of them.
    check(&BACKENDS, "circle small 50000 0", "100k", &[50_000, 50_000], 64);
}

#[test]
fn a_receiver_that_ends_the_job_releases_its_waiting_senders() {
    for backend in BACKENDS {
        if let Some(ended) = run(&format!("{backend} ++credit 100k"), "leave small 200000 1") {
            assert_eq!(ended.succeeded().stdout, "", "{backend}");
        }
    }
}
