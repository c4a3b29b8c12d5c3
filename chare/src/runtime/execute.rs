//! Runs entry methods, delivers their results, and catches their panics. Only `start` and [`run`] are compiled for each entry method; the handling of
//! results is compiled for each result type, and the rest once.

use std::any::TypeId;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use charm4rs_scheduler::TaskId;
use charm4rs_transport::Msg;

use super::Rt;
use super::broadcast::WavePart;
use super::calls::Body;
use super::exit::{Failure, Panicked};
use super::post::{fail_call, reply, wire_error};
use crate::message::CallError;
use crate::message::envelope::{FutureId, HEADER};
use crate::message::{moved, wire};
use crate::runtime::This;
use crate::runtime::chare::{Arguments, Chare, Entry, Started};
use crate::runtime::element::{AnyElement, Element};
use crate::runtime::registry::MethodInfo;

/// The receiver of an entry method's end: a future, the wave of a broadcast, or none.
pub(super) struct Then {
    reply: FutureId,
    wave: Option<Box<WavePart>>,
}

impl Then {
    #[inline]
    pub(super) fn reply(reply: FutureId) -> Self {
        Self { reply, wave: None }
    }

    pub(super) fn wave(part: WavePart) -> Self {
        Self { reply: FutureId::NONE, wave: Some(Box::new(part)) }
    }

    #[inline]
    fn is_none(&self) -> bool {
        self.wave.is_none() && self.reply.wanted().is_none()
    }

    #[inline]
    fn done<O: Arguments>(self, rt: Rt, value: O) {
        if self.is_none() {
            return;
        }
        match self.wave {
            None => reply(rt, self.reply, value),
            Some(part) => part.done(rt, value),
        }
    }

    pub(super) fn failed(self, rt: Rt, error: CallError) {
        match error {
            // A chare that ends while its methods are suspended is not a failure.
            CallError::Dropped { .. } if self.is_none() => {}
            error => match self.wave {
                None => fail_call(rt, self.reply, error),
                Some(part) => part.failed(rt, error),
            },
        }
    }
}

/// The arguments of a call that has arrived.
pub(crate) enum Args<'a> {
    /// The message that they were moved in.
    Moved(Msg),
    /// Serialized; `once`: for only one call, so the arguments may contain values that cannot be duplicated.
    Packed { bytes: &'a [u8], payloads: wire::Aside, once: bool },
}

/// Begins an entry method, from any form of arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    start: unsafe fn(Rt, *const (), Args<'_>, Then),
    chare: TypeId,
}

impl Start {
    pub(crate) const fn of<E: Entry>() -> Self {
        Self { start: start::<E>, chare: TypeId::of::<E::Chare>() }
    }

    /// Begins it with the arguments of a message.
    ///
    /// # Safety
    /// The method belongs to `T`. A moved call was written by [`super::calls::call`] for this method in this process, and nothing else reads it.
    #[inline]
    pub(super) unsafe fn start<T: Chare>(self, rt: Rt, element: Rc<Element<T>>, args: Args<'_>, then: Then) {
        debug_assert_eq!(self.chare, TypeId::of::<T>());
        // SAFETY: `start` for a method of `T` takes a raw `Rc<Element<T>>`, once.
        unsafe { (self.start)(rt, Rc::into_raw(element).cast(), args, then) }
    }

    /// Begins it with serialized arguments that other elements get too.
    pub(super) fn start_packed<T: Chare>(
        self,
        rt: Rt,
        element: Rc<Element<T>>,
        bytes: &[u8],
        payloads: wire::Aside,
        then: Then,
    ) {
        assert_eq!(self.chare, TypeId::of::<T>());
        // SAFETY: just checked; nothing was moved.
        unsafe { self.start(rt, element, Args::Packed { bytes, payloads, once: false }, then) }
    }
}

/// # Safety
/// `element` is a raw `Rc<Element<E::Chare>>`, which is consumed; for the rest see [`Start::start`].
unsafe fn start<E: Entry>(rt: Rt, element: *const (), args: Args<'_>, then: Then) {
    // SAFETY: the caller's promise.
    let element = unsafe { Rc::from_raw(element.cast::<Element<E::Chare>>()) };
    let args = match args {
        Args::Moved(msg) => {
            // SAFETY: the caller's promise. The message is dropped unread.
            let body: Body<E> = unsafe { moved::read(msg.as_ptr().wrapping_add(HEADER)) };
            body.1
        }
        Args::Packed { bytes, payloads, once } => {
            let _once = once.then(wire::Once::begin);
            match wire::unpack::<E::Args>(bytes, payloads) {
                Ok(args) => args,
                Err(error) => return then.failed(rt, wire_error(rt, E::info(), &error)),
            }
        }
    };
    run::<E>(rt, element, args, then);
}

/// Runs an entry method of an element; `then` gets its result: now, or when it has ended.
pub(super) fn run<E: Entry>(rt: Rt, element: Rc<Element<E::Chare>>, args: E::Args, then: Then) {
    let this = This::new(element);
    let began = rt.running.begin(E::info(), this.element());
    let ran = guard(|| E::run(&this, args));
    drop(began);
    match ran {
        Ok(Started::Done(value)) => then.done(rt, value),
        Ok(Started::Suspended(rest)) => suspend(rt, E::info(), this.into_element(), rest, then),
        Err(panic) => failed(rt, E::info(), this.into_element(), &panic, then),
    }
}

#[cold]
fn failed(rt: Rt, method: &'static MethodInfo, element: Rc<dyn AnyElement>, panic: &Panicked, then: Then) {
    then.failed(rt, panicked(rt, method, &*element, panic));
}

/// Turns the rest of an entry method into a task.
fn suspend<O: Arguments>(
    rt: Rt,
    method: &'static MethodInfo,
    element: Rc<dyn AnyElement>,
    rest: Pin<Box<dyn Future<Output = O>>>,
    then: Then,
) {
    let slot = element.base().suspended.reserve();
    let end = Ending { rt, method, element: element.clone(), slot, then: Some(then) };
    let task = rt.sched.spawn(Rest { rest: Some(rest), end });
    element.base().suspended.set(slot, task, method);
}

/// The rest of an entry method, as a task.
struct Rest<O> {
    /// `None` when it has ended.
    rest: Option<Pin<Box<dyn Future<Output = O>>>>,
    end: Ending,
}

impl<O: Arguments> Future for Rest<O> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(rest) = &mut this.rest else { return Poll::Ready(()) };
        let running = this.end.begin();
        let polled = guard(|| rest.as_mut().poll(cx));
        drop(running);
        let ended = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(value)) => Ok(value),
            Err(panic) => Err(panic),
        };
        this.rest = None; // before the result is delivered
        let then = this.end.take();
        let end = &this.end;
        match (ended, then) {
            (Ok(value), Some(then)) => then.done(end.rt, value),
            (Err(panic), Some(then)) => then.failed(end.rt, panicked(end.rt, end.method, &*end.element, &panic)),
            (_, None) => {}
        }
        Poll::Ready(())
    }
}

/// What happens after a suspended method, also if it is dropped because its chare was destroyed.
struct Ending {
    rt: Rt,
    method: &'static MethodInfo,
    element: Rc<dyn AnyElement>,
    slot: usize,
    then: Option<Then>,
}

impl Ending {
    fn begin(&self) -> super::running::Run<'_> {
        self.rt.running.begin_any(self.method, &self.element)
    }

    /// The method is not suspended any more.
    fn take(&mut self) -> Option<Then> {
        let then = self.then.take();
        if then.is_some() {
            self.element.base().suspended.free(self.slot);
        }
        then
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        // At the job's end no caller waits any more.
        if let Some(then) = self.take().filter(|_| self.rt.sched.stopping().is_none()) {
            then.failed(self.rt, CallError::Dropped { entry: self.method.name.into(), pe: self.rt.sched.pe() });
        }
    }
}

pub(super) fn panicked(rt: Rt, method: &MethodInfo, element: &dyn AnyElement, panic: &Panicked) -> CallError {
    // An error of another call is passed on, so that its cause stays readable.
    if let Some(error) = &panic.passed_on {
        return error.clone();
    }
    CallError::Panicked {
        chare: method.chare.into(),
        index: element.index_text(),
        entry: method.name.into(),
        pe: rt.sched.pe(),
        message: panic.message.clone(),
    }
}

/// Catches a panic of user code.
#[inline]
pub(crate) fn guard<R>(f: impl FnOnce() -> R) -> Result<R, Box<Panicked>> {
    std::panic::catch_unwind(AssertUnwindSafe(f)).map_err(boxed)
}

#[cold]
fn boxed(panic: Box<dyn std::any::Any + Send>) -> Box<Panicked> {
    Box::new(Panicked::take(panic))
}

/// Runs a future of the user on this PE; a panic in it ends the job.
pub(crate) fn spawn(rt: Rt, future: impl Future<Output = ()> + 'static) -> TaskId {
    spawn_named(rt, "a task", Box::pin(future))
}

/// The same, for a future that a report of its panic calls `who`.
pub(crate) fn spawn_named(rt: Rt, who: &'static str, mut future: Pin<Box<dyn Future<Output = ()>>>) -> TaskId {
    rt.sched.spawn(std::future::poll_fn(move |cx| {
        guard(|| future.as_mut().poll(cx)).unwrap_or_else(|panic| {
            rt.fail(Failure::panic(who, &panic));
            Poll::Ready(())
        })
    }))
}
