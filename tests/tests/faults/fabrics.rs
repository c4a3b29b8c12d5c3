//! Jobs over RDMA networks, with the providers of the library on this machine; there may be no library.

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::{run, start, start_with};

/// Whether libfabric is installed here; prints a message if not.
fn has_libfabric() -> bool {
    let ended = run("+p2 ++quiet ++transport ofi - ready-and-leave 0");
    if ended.code == 78 {
        eprintln!("skipped: {}", ended.stderr);
        return false;
    }
    assert!(ended.succeeded().stdout.contains("left\n"), "{ended:?}");
    true
}

#[test]
fn a_missing_fabric_that_was_requested_ends_the_job_with_78_and_the_searched_names() {
    let nowhere = ("CHARM4RS_LIBFABRIC", "/nowhere/libfabric.so.1");
    let ended = start_with("+p2 ++transport ofi - ready-and-leave 0", nowhere).end();
    ended.failed(78, "there is no libfabric (1.17 or newer): /nowhere/libfabric.so.1: ");
    if has_libfabric() {
        let none = ("FI_PROVIDER", "nobody");
        let ended = start_with("+p2 ++transport ofi - ready-and-leave 0", none).end();
        ended.failed(78, "has none of the providers ");
    }
}

#[test]
fn the_death_and_the_silence_of_a_process_end_a_job_over_libfabric_as_over_any_other_network() {
    if !has_libfabric() {
        return;
    }
    let mut job = start("+p3 ++quiet ++transport ofi - ready-and-compute");
    let pids = job.ready(3);
    kill_process(pids[1], Signal::KILL).expect("it runs");
    let since = Instant::now();
    job.end().failed(137, "killed by signal 9");
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());

    let mut job = start("+p3 ++quiet ++transport ofi - ready");
    let pids = job.ready(3);
    kill_process(pids[1], Signal::STOP).expect("it runs");
    let since = Instant::now();
    let ended = job.end();
    assert!(since.elapsed() < Duration::from_secs(7), "{:?}", since.elapsed());
    assert_eq!(ended.code, 69, "{ended:?}");
    assert!(ended.stderr.contains("unresponsive"), "{ended:?}");
}
