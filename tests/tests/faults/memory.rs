//! Lack of memory.

use crate::job::{self, Ended, Job};
use crate::{FAULTY, common, run};

#[test]
fn a_payload_too_large_for_its_receiver_is_an_error_of_the_call_and_both_pes_continue() {
    let ended = run("+p2 ++transport tcp - too-large-to-take");
    let lines: Vec<_> = ended.succeeded().stdout.lines().collect();
    let [error, after] = lines[..] else { panic!("{ended:?}") };
    assert!(
        error.starts_with("there is no memory for the 5368")
            && error.ends_with("of a call of length between PE 0 and PE 1"),
        "{error}"
    );
    assert_eq!(after, "100000");
}

#[test]
fn a_result_too_large_for_its_caller_is_an_error_of_the_call_and_both_pes_continue() {
    let ended = run("+p2 ++transport tcp - too-large-for-the-caller");
    let lines: Vec<_> = ended.succeeded().stdout.lines().collect();
    let [error, after] = lines[..] else { panic!("{ended:?}") };
    assert!(error.ends_with("of a result between PE 1 and PE 0"), "{error}");
    assert_eq!(after, "100000");
}

#[test]
fn a_payload_too_large_in_a_call_without_a_waiting_caller_ends_the_job_with_71() {
    let ended = run("+p2 ++transport tcp - too-large-for-nobody");
    ended.failed(71, "there is no memory for the 5368");
}

#[test]
fn a_call_longer_than_messages_may_be_is_an_error_that_names_the_limit_and_its_option() {
    for transport in ["shm", "tcp", "ofi", "ucx"] {
        let ended = run(&format!("+p2 ++ppn 1 ++quiet ++message-max 1M ++transport {transport} - too-long"));
        if ended.code == 78 {
            eprintln!("skipped: {}", ended.stderr);
            continue;
        }
        let lines: Vec<_> = ended.succeeded().stdout.lines().collect();
        let [call, result, after] = lines[..] else { panic!("{transport}: {ended:?}") };
        for (error, what) in [(call, "a call of"), (result, "a result between PE 1 and PE 0")] {
            assert!(error.contains(what) && error.contains("more than the 1048576 "), "{transport}: {error}");
            assert!(error.ends_with("++message-max sets another limit"), "{transport}: {error}");
        }
        assert_eq!(after, "1000000", "{transport}");
    }
}

/// A job of two processes, each of which may have this much address space in KiB.
fn limited(kib: u32, options: &str) -> Ended {
    let (mut command, mark) = job::marked("sh");
    command.args(["-c", "ulimit -v $0; exec \"$@\"", &kib.to_string()]).arg(common::charmrun(FAULTY));
    command.args(["+p2", "++ppn", "1", "++quiet"]).args(options.split_whitespace());
    command.arg(common::example(FAULTY, "stencil3d")).args(["--size", "24", "--steps", "5"]);
    Job::spawn(command, mark).end()
}

/// In steps from nearly none to plenty: correct results, or an error about the lack; never an endless wait, never a signal.
fn works_or_reports_with_few_addresses(options: &str, enough: u32) {
    for kib in [40_000, 60_000, 100_000, 150_000, 200_000, 250_000, 350_000, 500_000, 1_000_000, 2_000_000, 4_000_000] {
        let ended = limited(kib, options);
        if ended.code == 0 {
            assert!(ended.stdout.contains("a serial run gives the same"), "{kib} KiB: {ended:?}");
        } else if ended.code == 78 {
            return eprintln!("skipped: {}", ended.stderr);
        } else {
            ended.failed(71, "out of");
            assert!(kib < enough, "{kib} KiB are enough: {ended:?}");
        }
    }
}

#[test]
fn a_job_in_shared_memory_with_few_addresses_works_or_ends_with_71() {
    works_or_reports_with_few_addresses("", 400_000);
}

#[test]
fn a_job_over_tcp_with_few_addresses_works_or_ends_with_71() {
    works_or_reports_with_few_addresses("++transport tcp", 400_000);
}

#[test]
fn a_job_over_libfabric_with_few_addresses_works_or_ends_with_71() {
    works_or_reports_with_few_addresses("++transport ofi", 1_000_000);
}

#[test]
fn a_job_over_ucx_with_few_addresses_works_or_ends_with_71() {
    works_or_reports_with_few_addresses("++transport ucx", 1_000_000);
}
