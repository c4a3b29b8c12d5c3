//! How a job ends: by `exit`, by a panic without a waiting caller, by an error of the transport.
//!
//! `exit(code)` on any PE sends a request to PE 0, which takes the first code that arrives and sends it down a tree to all PEs; each forwards it and
//! leaves its loop after the current entry method. (There is one tree for all: with one for each caller, a PE whose parents in two trees had both
//! left because of the other tree's code would receive neither.) A failure does not wait for PE 0: it is reported, once, and the process ends; the
//! launcher ends the others. In a simulation only the simulation ends.

use std::any::Any;
use std::cell::RefCell;
use std::panic::PanicHookInfo;
use std::sync::Once;

use charm4rs_bootstrap as bootstrap;
use charm4rs_transport::{Pe, TransportError};

use super::deadlock::Deadlock;
use super::{Rt, stack, tree};
use crate::message::CallError;
use crate::message::envelope::{Header, tag};

/// Why a job ends before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The job's exit status.
    pub code: u8,
    /// What happened.
    pub what: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl Failure {
    pub(crate) fn call(error: &CallError) -> Self {
        let hint = if let CallError::Panicked { .. } = error { stack::hint() } else { "" };
        Self { code: 1, what: format!("{error}{hint}") }
    }

    pub(crate) fn panic(what: &str, panic: &Panicked) -> Self {
        if panic.usage {
            return Self { code: USAGE, what: panic.message.clone() };
        }
        Self { code: 1, what: format!("{what} panicked: {}{}", panic.message, stack::hint()) }
    }
}

impl From<&TransportError> for Failure {
    fn from(error: &TransportError) -> Self {
        Self { code: error.code(), what: error.to_string() }
    }
}

/// The environment of a PE's runtime: a process, a test, a simulation.
pub trait Host {
    /// Reports a failure and ends the job.
    fn fail(&self, pe: Pe, failure: Failure);

    /// Whether the process runs no other job, before or after this one.
    fn has_the_process(&self) -> bool {
        false
    }

    /// The whole job is in a deadlock. Called on PE 0.
    fn deadlock(&self, found: &Deadlock) {
        let _ = found;
    }

    /// The user's next interrupt is for this process, and does not end the job.
    fn take_interrupt(&self) {}

    /// The PE's thread is about to sleep, and sleeps when `sleep` is called.
    fn sleep(&self, sleep: &mut dyn FnMut()) {
        sleep();
    }
}

/// `exit` was called on this PE.
pub(crate) fn exit(rt: Rt, code: i32) {
    if bootstrap::is_fork() {
        bootstrap::end_fork(code);
    }
    let header = Header::of_job(rt.sched.pe()).with_exit_code(code);
    if rt.sched.pe() == FIRST {
        pass_on(rt, &header);
    } else {
        send(rt, FIRST, &header);
    }
}

/// At PE 0: a request; elsewhere: the exit status.
pub(super) fn arrived(rt: Rt, header: &Header) {
    pass_on(rt, header);
}

fn pass_on(rt: Rt, header: &Header) {
    if rt.sched.stopping().is_none() {
        tree(rt, FIRST).children(rt.sched.pe()).for_each(|child| send(rt, child, header));
        rt.sched.stop(header.exit_code());
    }
}

fn send(rt: Rt, to: Pe, header: &Header) {
    rt.sched.send_system(to, tag::EXIT, crate::message::envelope::HEADER, |room| header.fill(&[], room));
}

/// The PE that decides on the exit status.
const FIRST: Pe = Pe(0);

/// A panic of user code, caught.
#[derive(Debug)]
pub(crate) struct Panicked {
    /// One line with its text and location; then the full text if it has several lines, and the stack, if the user wants it.
    pub(crate) message: String,
    /// Set if the panic only passes on the error of a call.
    pub(crate) passed_on: Option<CallError>,
    /// The program's arguments are wrong.
    usage: bool,
}

/// The exit status of a program whose arguments are wrong.
const USAGE: u8 = 64;

/// The payload of a panic that reports wrong arguments of the program.
struct Usage(String);

/// Panics because an argument of the program is wrong.
#[track_caller]
pub(crate) fn wrong_usage(what: String) -> ! {
    if super::try_current().is_none() {
        panic!("{what}");
    }
    std::panic::panic_any(Usage(what))
}

thread_local! {
    /// The location of the last panic on this PE, and further lines for its stack.
    static LAST: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
}

impl Panicked {
    /// From the payload that `catch_unwind` returned.
    #[cold]
    pub(crate) fn take(panic: Box<dyn Any + Send>) -> Self {
        if bootstrap::is_fork() {
            // A child that user code has forked ends like an ordinary program: the hook has printed the reason.
            bootstrap::end_fork(1);
        }
        let (place, stack) = LAST.take().unwrap_or_default();
        let panic = match panic.downcast::<CallError>() {
            Ok(error) => return Self { message: error.to_string(), passed_on: Some(*error), usage: false },
            Err(panic) => panic,
        };
        match panic.downcast::<Usage>() {
            Ok(usage) => Self { message: usage.0, passed_on: None, usage: true },
            Err(panic) => Self { message: message(text(&*panic), &place, &stack), passed_on: None, usage: false },
        }
    }
}

/// A panic's text and location in one line, then the full text.
fn message(text: &str, place: &str, stack: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines[..] {
        [] | [_] => format!("{text}{place}{stack}", text = text.trim_end()),
        _ => format!("{}{place}\n{text}{stack}", lines.join(", ")),
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is not text")
}

/// The texts of panics that end the process: in a destructor while another panic unwinds, and in a function that cannot unwind.
const FATAL: [&str; 2] = ["panic in a destructor during cleanup", "panic in a function that cannot unwind"];
/// 128 and SIGABRT.
const ABORTED: u8 = 134;

/// Records the location of a panic on a PE's thread, and its stack if the user wants it, for the report, instead of printing them there. Other
/// threads keep the previous hook.
pub(crate) fn install_panic_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            let Some(rt) = super::try_current().filter(|_| !bootstrap::is_fork()) else { return others(info) };
            if FATAL.contains(&text(info.payload())) {
                // The process is about to abort: this panic will not be caught.
                let (place, stack) = LAST.take().unwrap_or_default();
                let what = format!("a panic that cannot be caught, such as one during another one{place}{stack}");
                return rt.fail(Failure { code: ABORTED, what });
            }
            if info.payload().is::<CallError>() || info.payload().is::<Usage>() {
                return; // the location does not matter
            }
            let place = info.location().map(|at| format!(" at {at}")).unwrap_or_default();
            LAST.set(Some((place, stack::of_panic())));
        }));
    });
}
