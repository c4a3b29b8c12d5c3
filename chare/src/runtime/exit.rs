//! How a job ends: by `exit`, by a panic nobody waits for, by an error of the transport.
//!
//! `exit(code)` on any PE asks PE 0, which takes the first code that comes and sends it down a tree to all PEs; each passes it on
//! and leaves its loop after the entry method that runs. (One tree for all: were there one for each caller, a PE
//! whose parents in two trees had both left because of the other tree's code would hear of neither.) A failure does not ask anybody: it is reported, once, and the process ends; the
//! launcher ends the others. In a simulation nothing ends but the simulation.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::panic::PanicHookInfo;
use std::sync::Once;

use charm4rs_transport::{Pe, TransportError};

use super::deadlock::Deadlock;
use super::{Rt, tree};
use crate::CallError;
use crate::envelope::{Header, tag};

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
        let stack = if let CallError::Panicked { .. } = error { stack() } else { String::new() };
        Self { code: 1, what: format!("{error}{stack}") }
    }

    pub(crate) fn panic(what: &str, panic: &Panicked) -> Self {
        if panic.usage {
            return Self { code: USAGE, what: panic.message.clone() };
        }
        Self { code: 1, what: format!("{what} panicked: {}{}", panic.message, stack()) }
    }
}

impl From<&TransportError> for Failure {
    fn from(error: &TransportError) -> Self {
        Self { code: error.code(), what: error.to_string() }
    }
}

/// What a PE's runtime stands in: a process, a test, a simulation.
pub trait Host {
    /// Reports a failure and ends the job.
    fn fail(&self, pe: Pe, failure: Failure);

    /// The whole job is in a deadlock. Asked on PE 0.
    fn deadlock(&self, found: &Deadlock) {
        let _ = found;
    }

    /// The user's next interrupt is for this process, and does not end the job.
    fn take_interrupt(&self) {}

    /// The PE's thread is about to sleep, and does when `sleep` is called.
    fn sleep(&self, sleep: &mut dyn FnMut()) {
        sleep();
    }
}

/// `exit` was called here.
pub(crate) fn exit(rt: Rt, code: i32) {
    let mut header = Header::new(0, rt.sched.pe());
    header.priority = code;
    if rt.sched.pe() == FIRST {
        pass_on(rt, &header);
    } else {
        send(rt, FIRST, &header);
    }
}

/// At PE 0: a request; elsewhere: the verdict.
pub(super) fn arrived(rt: Rt, header: &Header) {
    pass_on(rt, header);
}

fn pass_on(rt: Rt, header: &Header) {
    if rt.sched.stopping().is_none() {
        tree(rt, FIRST).children(rt.sched.pe()).for_each(|child| send(rt, child, header));
        rt.sched.stop(header.priority);
    }
}

fn send(rt: Rt, to: Pe, header: &Header) {
    rt.sched.send_system(to, tag::EXIT, crate::envelope::HEADER, |room| header.fill(&[], room));
}

/// Who decides on the exit status.
const FIRST: Pe = Pe(0);

/// A panic of user code, caught.
#[derive(Debug)]
pub(crate) struct Panicked {
    /// Its text and place.
    pub(crate) message: String,
    /// It only passes on the error of a call.
    pub(crate) passed_on: Option<CallError>,
    /// The program's arguments are wrong.
    usage: bool,
}

/// The status of a program whose arguments are wrong.
const USAGE: u8 = 64;

/// A panic that says that the program's arguments are wrong.
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
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
    /// Of the last panic of user code on this PE. Its symbols are looked up only if it is printed.
    static STACK: RefCell<Option<Backtrace>> = const { RefCell::new(None) };
}

/// The stack of the last panic, as further lines of a failure: the frames between the panic and the runtime.
fn stack() -> String {
    let Some(stack) = STACK.take() else { return String::new() };
    let text = stack.to_string();
    let user = text.split_once("rust_begin_unwind").or_else(|| text.split_once("begin_panic_handler")).map_or(
        &*text,
        |(_, rest)| {
            let frames = rest.split_once('\n').map_or(rest, |(_, frames)| frames);
            // The line that says where the panic handler itself is.
            if frames.trim_start().starts_with("at ") { frames.split_once('\n').map_or("", |(_, f)| f) } else { frames }
        },
    );
    let end = user.find("charm4rs::runtime::").map_or(user.len(), |at| user[..at].rfind('\n').unwrap_or(at));
    format!("\n{}", &user[..end])
}

impl Panicked {
    /// From what `catch_unwind` caught.
    #[cold]
    pub(crate) fn take(panic: Box<dyn Any + Send>) -> Self {
        let place = PLACE.take().unwrap_or_default();
        match panic.downcast::<CallError>() {
            Ok(error) => Self { message: error.to_string(), passed_on: Some(*error), usage: false },
            Err(panic) => match panic.downcast::<Usage>() {
                Ok(usage) => Self { message: usage.0, passed_on: None, usage: true },
                Err(panic) => Self { message: format!("{}{place}", text(&*panic)), passed_on: None, usage: false },
            },
        }
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is not text")
}

/// What the language says of panics that end the process: in a destructor while another panic unwinds, and where nothing unwinds.
const FATAL: [&str; 2] = ["panic in a destructor during cleanup", "panic in a function that cannot unwind"];
/// 128 and SIGABRT.
const ABORTED: u8 = 134;

/// Keeps the place and the stack of a panic on a PE's thread for its report, instead of printing it there.
/// Other threads keep the hook that was there.
pub(crate) fn install_panic_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            let Some(rt) = super::try_current() else { return others(info) };
            if FATAL.contains(&text(info.payload())) {
                // The process is about to abort: nobody will ever catch it.
                let place = PLACE.take().unwrap_or_default();
                let what = format!("a panic that cannot be caught, such as one during another one{place}{}", stack());
                return rt.fail(Failure { code: ABORTED, what });
            }
            PLACE.set(info.location().map(|at| format!(" at {at}")));
            STACK.set(Some(Backtrace::force_capture()));
        }));
    });
}
