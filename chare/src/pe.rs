//! The life of one PE, in a thread of a process, a test, or a simulation. Knows nothing of how jobs start.
//!
//! # The end
//! 1. The loop has ended: `exit` was called, or there was a failure.
//! 2. [`drain`]: messages that will not be delivered are dropped, with the values that were moved into them. As long as any PE of the process runs,
//!    more may arrive; the owner of the PEs calls it until none runs.
//! 3. [`close`]: the chares are dropped, then the scheduler's tasks and the port, then values that were not awaited. Destructors are user code: they
//!    may send, and their messages are dropped.

use std::rc::Rc;

use charm4rs_bootstrap as bootstrap;
use charm4rs_scheduler::{Config, Scheduler};
use charm4rs_transport::TransportError;
use charm4rs_transport::port::Port;

use crate::readonly;
pub(crate) use crate::runtime::Dispatcher;
use crate::runtime::{self, Failure, Host, Rt, Runtime};

/// What a PE does before its loop begins.
pub(crate) type Begin<'a> = Box<dyn FnOnce(Rt) + 'a>;

/// Creates a PE, on its thread.
pub(crate) fn open(port: Port, config: Config, host: Rc<dyn Host>) -> Rt {
    let rt = Runtime::new(Scheduler::new(port, config), host);
    if let Err(failure) = readonly::init_pe(rt.sched.pe()) {
        rt.fail(failure);
    }
    rt
}

/// A child process that user code has forked leaves the loop when that code returns to it: the PE belongs to the parent.
pub(crate) fn leave_fork() {
    if let Some(rt) = runtime::try_current() {
        rt.sched.leave_fork();
    }
}

/// Runs its loop until the job ends.
pub(crate) fn run(rt: Rt) -> Result<i32, TransportError> {
    let code = guarded(rt, || rt.sched.run(&Dispatcher(rt))).unwrap_or(Ok(i32::from(u8::MAX)));
    if bootstrap::is_fork() {
        bootstrap::end_fork(code.unwrap_or(i32::from(u8::MAX)));
    }
    code
}

/// Runs code that may call user code outside of entry methods: a serializer, a reducer, a map, a destructor. A panic in it ends the job.
// Into each caller: a call of its own would move the result of every step of a PE through memory once more.
#[inline(always)]
pub(crate) fn guarded<R>(rt: Rt, f: impl FnOnce() -> R) -> Option<R> {
    runtime::guard(f).map_err(|panic| rt.fail(Failure::panic("code outside of the entry methods", &panic))).ok()
}

/// Drops undelivered messages.
pub(crate) fn drain(rt: Rt) {
    while let Some(msg) = rt.sched.take_undelivered() {
        guarded(rt, || rt.discard(msg));
    }
}

/// Ends the PE, when its messages are with their receivers.
pub(crate) fn close(rt: Rt) -> Result<(), TransportError> {
    clear(rt, || guarded(rt, || rt.sched.close()).unwrap_or(Ok(())))
}

/// Ends the PE without delivering its messages: no PE receives them any more.
pub(crate) fn abandon(rt: Rt) {
    let _ = clear(rt, || guarded(rt, || rt.sched.abandon()));
}

fn clear<R>(rt: Rt, close: impl FnOnce() -> R) -> R {
    rt.sched.stop(i32::from(u8::MAX)); // if a simulation ended before the loop
    guarded(rt, || rt.clear());
    drain(rt);
    let closed = close();
    guarded(rt, || rt.futures.clear());
    closed
}
