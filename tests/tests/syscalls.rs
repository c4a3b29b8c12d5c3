//! A small message needs no system call: two PEs of one thread, warmed up, send calls to one another under a filter that kills the process on any
//! system call. Knows nothing of the time that they take.
//!
//! A filter stays as long as its thread, and kills the whole process, so each case is a child process: this test program again, running only
//! [`child`]. In it, a thread proves the law; another one, without a filter, ends the process, since that takes system calls.

#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used, reason = "a failed test panics")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use charm4rs::prelude::*;
use charm4rs::testing::LockstepJob;
use charm4rs_bootstrap::Threads;
use charm4rs_scheduler::{Class, Config, Handler, Scheduler, Step};
use charm4rs_transport::port::{Incoming, Offer, PortBuilder, Tag};
use charm4rs_transport::wireup;
use charm4rs_transport::{Layout, RegBuf};
use charm4rs_transport::{TransportKind, TransportOptions};
use rustix::process::Signal;
use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};

/// The case that the child runs under the filter.
const CASE: &str = "CHARM4RS_TEST_CASE";
/// If set, the child makes one system call.
const SLIP: &str = "CHARM4RS_TEST_SLIP";
/// If set, this machine's clock cannot be read without a system call, so that call is allowed.
const CLOCK: &str = "CHARM4RS_TEST_CLOCK";
/// The child's exit status if filters are not available.
const NO_FILTER: i32 = 77;

/// Calls of each kind before the filter, and under it.
const WARM: u32 = 5_000;
const CALLS: u32 = 30_000;
/// The number of calls at once; more than a ring and its reader have room for is another law.
const BURST: u32 = 100;

/// From here on this thread may write to output and errors, so that a panic can be read; any other system call kills the process.
fn forbid_system_calls() {
    let to = |fd| {
        let is_fd = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, fd).unwrap();
        SeccompRule::new(vec![is_fd]).unwrap()
    };
    let mut allowed = BTreeMap::from([(libc::SYS_write, vec![to(1), to(2)])]);
    if std::env::var_os(CLOCK).is_some() {
        allowed.insert(libc::SYS_clock_gettime, vec![]);
    }
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(allowed, SeccompAction::KillProcess, SeccompAction::Allow, arch).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    if let Err(error) = seccompiler::apply_filter(&program) {
        eprintln!("no filter: {error}");
        std::process::exit(NO_FILTER);
    }
}

/// Set by the thread that proves. (A channel might make system calls.)
static PROVED: AtomicBool = AtomicBool::new(false);

/// Runs `work` until all is warm, then once more under the filter.
fn prove(work: impl Fn(u32)) -> ! {
    let slip = std::env::var_os(SLIP).is_some();
    work(WARM);
    work(WARM);
    forbid_system_calls();
    work(CALLS);
    if slip {
        std::hint::black_box(std::process::id());
    }
    PROVED.store(true, Ordering::Release);
    loop {
        std::hint::spin_loop();
    }
}

// ---- at the scheduler ---------------------------------------------------------------------------------------------

/// A call that goes back as long as its number is above 0.
const BALL: Tag = Tag(2);

struct Player(Rc<Scheduler>, Cell<u64>);

impl Handler for Player {
    fn class(&self, _: &Incoming) -> Class {
        Class::Default
    }

    fn deliver(&self, msg: Incoming) {
        self.1.set(self.1.get() + 1);
        let left = u32::from_le_bytes(msg.msg[..4].try_into().unwrap());
        if left > 0 {
            throw(&self.0, msg.from, left - 1);
        }
    }

    fn offer(&self, _: &Offer) -> Vec<Option<RegBuf>> {
        Vec::new()
    }
}

fn throw(pe: &Scheduler, to: Pe, left: u32) {
    pe.send(to, BALL, 4, |out| out.iter_mut().zip(left.to_le_bytes()).for_each(|(to, b)| _ = to.write(b)));
}

fn settle(pes: &[Player]) {
    let step = |player: &Player| match player.0.step(player) {
        Step::Busy => true,
        Step::Idle { .. } | Step::Stopped(_) => false,
        Step::Failed(error) => panic!("{error}"),
    };
    while pes.iter().fold(false, |busy, player| step(player) | busy) {}
}

fn schedulers(builders: Vec<PortBuilder>) -> ! {
    let pes: Vec<_> = builders
        .into_iter()
        .map(|builder| Player(Scheduler::new(builder.open().unwrap(), Config::default()), Cell::new(0)))
        .collect();
    let delivered = || pes.iter().map(|player| player.1.get()).sum::<u64>();
    prove(|calls| {
        let before = delivered();
        for to in [Pe(0), Pe(1)] {
            throw(&pes[0].0, to, calls - 1);
            settle(&pes);
            for _ in 0..calls / BURST {
                (0..BURST).for_each(|_| throw(&pes[0].0, to, 0));
                settle(&pes);
            }
        }
        assert_eq!(delivered() - before, u64::from(4 * calls));
    })
}

// ---- entry methods ------------------------------------------------------------------------------------------------

static CALLED: AtomicU64 = AtomicU64::new(0);

/// One on each PE.
struct Counter;

#[chare(index = u32)]
impl Counter {
    #[init]
    fn new() -> Self {
        Self
    }

    #[entry]
    fn hit(&mut self, cx: &mut Cx<Self>, back: Proxy<Self>, left: u32) {
        CALLED.fetch_add(1, Ordering::Relaxed);
        if left > 0 {
            back.hit(cx.proxy(), left - 1);
        }
    }

    #[entry]
    fn add(&mut self, by: u64) {
        CALLED.fetch_add(by, Ordering::Relaxed);
    }
}

fn entry_methods(job: &LockstepJob) -> ! {
    let counters = job.on(Pe(0), |job| job.group::<Counter>(()));
    job.settle().unwrap();
    prove(|calls| {
        let before = CALLED.load(Ordering::Relaxed);
        for to in [Pe(0), Pe(1)] {
            job.on(Pe(0), |_| drop(counters.on(to).hit(counters.on(Pe(0)), calls - 1)));
            job.settle().unwrap();
            for _ in 0..calls / BURST {
                job.on(Pe(0), |_| (0..BURST).for_each(|_| drop(counters.on(to).add(1))));
                job.settle().unwrap();
            }
        }
        assert_eq!(CALLED.load(Ordering::Relaxed) - before, u64::from(4 * calls));
    })
}

// ---- the children -------------------------------------------------------------------------------------------------

#[test]
#[ignore = "it is started by the other tests"]
fn child() {
    let Ok(case) = std::env::var(CASE) else { return };
    let proof = std::thread::spawn(move || prove_case(&case));
    while !PROVED.load(Ordering::Acquire) {
        assert!(!proof.is_finished(), "the proof panicked");
        std::thread::yield_now();
    }
    std::process::exit(0);
}

fn prove_case(case: &str) -> ! {
    let options = TransportOptions { may_block: false, ..TransportOptions::default() };
    match case {
        "clock" => prove(|count| (0..count).for_each(|_| _ = std::hint::black_box(Instant::now()))),
        "schedulers of a process" => schedulers(wireup::local(Layout::one_host(2, 2), &options).unwrap()),
        "schedulers of two processes" => {
            let options = TransportOptions { force: Some(TransportKind::Shm), ..options };
            let builders = Threads::open_all(&Layout::one_host(2, 1), |boot| wireup::open(boot, &options));
            schedulers(builders.into_iter().flatten().collect())
        }
        "entry methods of a process" => entry_methods(&LockstepJob::threads(2).unwrap()),
        "entry methods of two processes" => entry_methods(&LockstepJob::processes(2).unwrap()),
        other => panic!("no case is called {other}"),
    }
}

fn run(case: &str, variables: &[&str]) -> (ExitStatus, String) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads", "1"])
        .env(CASE, case)
        .envs(variables.iter().map(|name| (name, "1")))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    (output.status, text)
}

fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::SYS.as_raw())
}

/// Asserts that the case passes, and that it would not if it made one system call.
fn check(case: &str) {
    let (clock, text) = run("clock", &[]);
    if clock.code() == Some(NO_FILTER) {
        eprintln!("not tested: {text}");
        return;
    }
    let allowed: &[&str] = if was_killed(clock) { &[CLOCK] } else { &[] };
    if !allowed.is_empty() {
        eprintln!("reading this machine's clock takes a system call, which is allowed here");
    }
    let (status, text) = run(case, allowed);
    assert!(status.success(), "{case}: {status}, {text}");
    let (status, text) = run(case, &[allowed, &[SLIP]].concat());
    assert!(was_killed(status), "a system call of the case {case} was not noticed: {status}, {text}");
}

#[test]
fn small_messages_between_schedulers_of_a_process_need_no_system_call() {
    check("schedulers of a process");
}

#[test]
fn small_messages_between_schedulers_of_two_processes_need_no_system_call() {
    check("schedulers of two processes");
}

#[test]
fn small_calls_between_chares_of_a_process_need_no_system_call() {
    check("entry methods of a process");
}

#[test]
fn small_calls_between_chares_of_two_processes_need_no_system_call() {
    check("entry methods of two processes");
}
