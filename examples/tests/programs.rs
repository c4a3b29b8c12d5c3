//! Runs every program as a user does, on several numbers of PEs, and checks its output.

#[path = "../../tests/tests/common/mod.rs"]
mod common;

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// No program takes a second here; this is the limit on a busy machine.
const WATCHDOG: Duration = Duration::from_secs(120);

struct Ended {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs a command to its end; kills it at the watchdog's limit.
fn run(program: &str, args: &[&str]) -> Ended {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
    let mut stdout = child.stdout.take().expect("it is piped");
    let mut stderr = child.stderr.take().expect("it is piped");
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).map(|_| text)
        });
        let mut text = String::new();
        let output = stdout.read_to_string(&mut text).map(|_| text);
        sender.send((output, errors.join().expect("a reader does not panic")))
    });
    let Ok((stdout, stderr)) = receiver.recv_timeout(WATCHDOG) else {
        child.kill().and_then(|()| child.wait()).expect("a child can be killed");
        panic!("{program} {args:?} has not ended in {WATCHDOG:?}");
    };
    let status = child.wait().expect("it has a status").code();
    Ended { status, stdout: stdout.expect("it prints text"), stderr: stderr.expect("it prints text") }
}

/// Runs a program on 1, 2 and 4 PEs, and simulated on more: it must end with status 0 and nothing on standard error, and print all these texts.
#[track_caller]
fn check(program: &str, args: &str, wanted: &[&str]) {
    for pes in ["+p1", "+p2", "+p4", "+p13 ++transport sim ++seed 5"] {
        let args: Vec<_> = pes.split_whitespace().chain(args.split_whitespace()).collect();
        let Ended { status, stdout, stderr } = run(program, &args);
        assert_eq!((status, &*stderr), (Some(0), ""), "{args:?} printed {stdout}");
        for text in wanted {
            assert!(stdout.contains(text), "{args:?}: no {text:?} in {stdout}");
        }
    }
}

/// Runs a program that must end with this status, and an error that begins like this.
#[track_caller]
fn check_error(program: &str, args: &str, wanted: i32, begin: &str) {
    let args: Vec<_> = args.split_whitespace().collect();
    let Ended { status, stdout, stderr } = run(program, &args);
    assert_eq!((status, &*stdout), (Some(wanted), ""), "{args:?} complained: {stderr}");
    assert!(stderr.starts_with(begin), "{args:?} complained: {stderr}");
}

const STENCIL: &str = env!("CARGO_BIN_EXE_stencil3d");

#[test]
fn hello_greets_from_every_element() {
    let wanted = [
        "Hello from 0 of a group on PE 0: the sum is 5050",
        "Good day from 9 of an array",
        "Good night from 7 of an array",
        "and 10 elements have answered, and one of them again: 5050",
    ];
    check(env!("CARGO_BIN_EXE_hello"), "", &wanted);
}

#[test]
fn stencil3d_prints_the_serial_checksum_however_the_grid_is_cut() {
    // The first is the result of the sweep when the program was written; no order of operations may change it.
    let checksum = "checksum: eeaa4a9866fc7d53";
    for blocks in
        ["--blocks 1", "--blocks 4,3,2", "--block-size 7,32,10", "--blocks 32,1,1", "--blocks 3,2,1 --imbalance 1.5"]
    {
        check(STENCIL, &format!("--size 32 {blocks}"), &[checksum, "a serial run gives the same"]);
    }
    let threads = run(env!("CARGO_BIN_EXE_stencil3d-threads"), &["--size", "32", "--threads", "3"]);
    assert!(threads.status == Some(0) && threads.stdout.contains(checksum), "{}", threads.stdout);
}

#[test]
fn stencil3d_prints_the_serial_checksum_over_libfabric() {
    let launcher = common::charmrun(STENCIL);
    let line = format!("+p4 ++quiet ++transport ofi {STENCIL} --size 32 --blocks 4,3,2");
    let args: Vec<_> = line.split(' ').collect();
    let Ended { status, stdout, stderr } = run(launcher.to_str().expect("a path of text"), &args);
    if status == Some(78) {
        return eprintln!("skipped: {stderr}");
    }
    assert_eq!((status, &*stderr), (Some(0), ""), "{stdout}");
    assert!(stdout.contains("checksum: eeaa4a9866fc7d53"), "{stdout}");
}

#[test]
fn stencil3d_can_be_cut_into_single_cells_and_check_every_step() {
    check(STENCIL, "--size 4,3,2 --blocks 4,3,2 --steps 20 --check 1 --warm-up 0", &["a serial run gives the same"]);
}

#[test]
fn fib_is_right_with_futures_all_the_way_down() {
    check(env!("CARGO_BIN_EXE_fib"), "18 --cutoff 2", &["fib(18) = 2584", "8361 chares in"]);
    check(env!("CARGO_BIN_EXE_fib"), "25", &["fib(25) = 75025"]);
    check(env!("CARGO_BIN_EXE_fib"), "1", &["fib(1) = 1", "1 chares in"]);
}

#[test]
fn nqueens_finds_the_known_counts() {
    for (args, count) in
        [("1", "1 sol"), ("3", "0 sol"), ("6 --grain 0", "4 sol"), ("8 --grain 3", "92 sol"), ("10", "724 sol")]
    {
        check(env!("CARGO_BIN_EXE_nqueens"), args, &[&format!("queens: {count}utions")]);
    }
}

#[test]
fn a_token_visits_every_chare_of_a_ring_equally_often() {
    for args in ["--hops 1003", "--hops 1003 --bytes 300000", "--hops 500 --elements 17 --bytes 10", "--hops 0"] {
        check(env!("CARGO_BIN_EXE_ring"), args, &["every chare was visited equally often"]);
    }
}

#[test]
fn pi_counts_the_same_hits_with_any_number_of_workers() {
    for workers in ["1", "7", "64"] {
        check(
            env!("CARGO_BIN_EXE_pi"),
            &format!("--darts 1000000 --workers {workers}"),
            &["785406 of 1000000 darts hit"],
        );
    }
}

#[test]
fn jacobi2d_converges_as_one_block_alone_does() {
    for args in ["", "--size 13 --blocks 5", "--size 8 --blocks 8 --tolerance 0.01", "--size 20 --blocks 2 --steps 7"] {
        check(env!("CARGO_BIN_EXE_jacobi2d"), args, &["one block alone ends with the same cells"]);
    }
}

#[test]
fn wrong_options_end_the_job_with_status_64_and_a_reason() {
    for (args, begin) in [
        ("+p2 --sice 5", "charmrun: error[64]: unexpected argument '--sice' found, pe=0"),
        ("+p2 --size 0", "charmrun: error[64]: invalid value '0' for '--size <CELLS>': expected one or three counts"),
        ("+p2 --size 5,5", "charmrun: error[64]: invalid value '5,5' for '--size <CELLS>'"),
        ("+p2 --check 0", "charmrun: error[64]: invalid value '0' for '--check <STEPS>'"),
        ("+p2 --size 5 --blocks 6", "charmrun: error[64]: [6, 6, 6] blocks are more than"),
        ("+p0", "charmrun: error[64]: +p 0"),
    ] {
        check_error(STENCIL, args, 64, begin);
    }
}

#[test]
fn help_is_printed_once_and_ends_the_job_well() {
    let Ended { status, stdout, stderr } = run(STENCIL, &["+p4", "--help"]);
    assert_eq!((status, &*stderr, stdout.matches("Usage: stencil3d").count()), (Some(0), "", 1));
}
