//! Calls of single elements: out, in, and the answer.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use charm4rs_scheduler::{Class, TaskId};
use charm4rs_transport::port::{Incoming, Offer, Tag};
use charm4rs_transport::{Msg, Payloads, Pe, RegBuf};

use super::collection::{CollectionId, Members};
use super::exit::{Failure, Panicked};
use super::{Rt, class_of, here, location, shared};
use crate::call::Options;
use crate::cx::Element;
use crate::envelope::{FutureId, HEADER, Header, MOVED, PASSED, tag};
use crate::{Arguments, CallError, Chare, Entry, One, Started, Target, This, moved, wire};

/// What travels when a call is moved.
pub(super) type Body<E> = (<<E as Entry>::Chare as Chare>::Index, <E as Entry>::Args);

/// Sends a call to one element; its answer goes to `reply`.
#[inline]
pub(crate) fn call<E: Entry>(rt: Rt, target: &Target<E::Chare, One>, args: E::Args, options: Options, reply: FutureId) {
    let to = match rt.collection::<E::Chare>(target.collection) {
        Some(members) => match members.find(&target.which) {
            Some(element) => return here::call::<E>(rt, element, args, options, reply),
            None => match members.believed(rt, &target.which) {
                Some(to) => to,
                None => return wait::<E>(rt, members, target.which, args, options, reply),
            },
        },
        // A collection that is not known here yet: the call waits on this PE until it is.
        None => rt.sched.pe(),
    };
    let header = header_of::<E>(rt, target.collection, options, reply);
    if rt.same_process(to) {
        send_moved::<Body<E>>(rt, to, tag::CALL, header, (target.which, args));
    } else if let Err(error) = send_wire(rt, to, tag::CALL, &header, (target.which, args), E::POSTS) {
        fail_call(rt, reply, wire_error::<E>(rt, &error));
    }
}

/// Keeps a call until it is known where its element is.
#[cold]
fn wait<E: Entry>(
    rt: Rt,
    members: &Members<E::Chare>,
    index: <E::Chare as Chare>::Index,
    args: E::Args,
    options: Options,
    reply: FutureId,
) {
    let header = header_of::<E>(rt, members.id(), options, reply);
    members.wait(index, moved_here::<Body<E>>(rt, tag::CALL, header, (index, args)));
}

/// The header of a call.
#[inline]
pub(super) fn header_of<E: Entry>(rt: Rt, collection: CollectionId, options: Options, reply: FutureId) -> Header {
    let mut header = Header::new(collection.0, rt.sched.pe()).with_reply(reply);
    header.method = E::info().id();
    header.flags = options.flags;
    header.priority = options.priority;
    header
}

/// Moves a value to a PE of this process.
#[inline]
pub(super) fn send_moved<B: Send>(rt: Rt, to: Pe, tag: Tag, mut header: Header, body: B) {
    if to == rt.sched.pe() {
        let class = match tag {
            tag::CALL => class_of(&header),
            tag::SOLO => Class::Expedited,
            _ => Class::Default,
        };
        return rt.sched.enqueue(moved_here(rt, tag, header, body), class);
    }
    header.flags |= MOVED;
    rt.sched.send(to, tag, HEADER + moved::size::<B>(), |room| write_moved(room, header, body));
}

/// A message of this PE to itself.
#[inline]
fn moved_here<B: Send>(rt: Rt, tag: Tag, mut header: Header, body: B) -> Incoming {
    header.flags |= MOVED;
    let len = HEADER + moved::size::<B>();
    let msg = Msg::fill(rt.sched.slab(), len, |room| write_moved(room, header, body));
    Incoming::own(rt.sched.pe(), tag, msg, Payloads::default())
}

#[inline]
fn write_moved<B: Send>(room: &mut [std::mem::MaybeUninit<u8>], header: Header, body: B) {
    moved::put_pod(room, 0, &header);
    moved::write(body, &mut room[HEADER..]);
}

/// Serializes a value for any PE.
pub(super) fn send_wire<B: serde::Serialize>(
    rt: Rt,
    to: Pe,
    tag: Tag,
    header: &Header,
    body: B,
    offer: bool,
) -> Result<(), wire::WireError> {
    rt.with_scratch(|bytes| {
        let payloads = pack(rt, body, bytes)?;
        let len = HEADER + bytes.len();
        let fill = |room: &mut [std::mem::MaybeUninit<u8>]| header.fill(bytes, room);
        if payloads.is_empty() {
            rt.sched.send(to, tag, len, fill);
        } else {
            rt.sched.send_payloads(to, tag, len, fill, payloads, offer);
        }
        Ok(())
    })
}

/// Serializes a value, and ends it: then its payloads' memory belongs to the message alone, and need not be copied, unless
/// somebody keeps a share.
fn pack<B: serde::Serialize>(rt: Rt, body: B, bytes: &mut Vec<u8>) -> Result<Vec<RegBuf>, wire::WireError> {
    let aside = wire::once(|| wire::pack(&body, bytes))?;
    drop(body);
    if aside.is_empty() {
        return Ok(Vec::new());
    }
    Ok(aside.into_iter().map(|memory| shared::leaving(rt, memory)).collect())
}

#[inline]
pub(super) fn owners(payloads: Payloads) -> Vec<Arc<RegBuf>> {
    if payloads.is_empty() {
        return Vec::new();
    }
    payloads.into_iter().map(Arc::new).collect()
}

/// A call has arrived: runs it, sends it on, or keeps it.
pub(crate) fn deliver<E: Entry>(rt: Rt, header: &Header, mut msg: Incoming) {
    let id = CollectionId(header.collection);
    let Some(members) = rt.collection::<E::Chare>(id) else {
        return rt.keep(id, msg);
    };
    let body = msg.msg.as_ptr().wrapping_add(HEADER).cast_const();
    let (index, rest) = if header.is_moved() {
        // SAFETY: `call` wrote a Body<E> (the header names E) in this process (the dispatcher checked); it stays there.
        (unsafe { moved::peek::<Body<E>>(body) }.0, 0)
    } else {
        match wire::unpack_first::<<E::Chare as Chare>::Index>(&msg.msg[HEADER..], Vec::new()) {
            Ok((index, rest)) => (index, rest.len()),
            Err(_) => return rt.violation(msg.from, "an index that cannot be read", u64::from(header.method)),
        }
    };
    let Some(element) = members.find(&index) else {
        return elsewhere::<E>(rt, members, index, header, msg);
    };
    if header.flags & PASSED != 0 {
        location::hint(rt, members, index, header.source);
    }
    let args = if header.is_moved() {
        // SAFETY: as above, and the message is dropped below without another look.
        Ok(unsafe { moved::read::<Body<E>>(body) }.1)
    } else {
        let payloads = owners(std::mem::take(&mut msg.payloads));
        wire::once(|| wire::unpack::<E::Args>(&msg.msg[msg.msg.len() - rest..], payloads))
    };
    drop(msg);
    match args {
        Ok(args) => run::<E>(rt, element, args, header.reply()),
        Err(error) => fail_call(rt, header.reply(), wire_error::<E>(rt, &error)),
    }
}

/// A call with payloads is on its way: asks the chare where they shall land.
pub(crate) fn offer<E: Entry>(rt: Rt, header: &Header, offer: &Offer) -> Vec<Option<RegBuf>> {
    let nowhere = || offer.sizes.iter().map(|_| None).collect();
    let members = rt.collection::<E::Chare>(CollectionId(header.collection));
    let index = wire::unpack_first::<<E::Chare as Chare>::Index>(&offer.head[HEADER..], Vec::new());
    let (Some(members), Ok((index, _)), false) = (members, index, header.is_moved()) else { return nowhere() };
    let Some(element) = members.find(&index) else { return nowhere() };
    let this = This::new(element.clone());
    let landing = |(at, &size): (usize, &u64)| {
        let landing = E::post(&this, at, usize::try_from(size).ok()?)?;
        (landing.0.len() as u64 == size).then_some(landing.0)
    };
    match guard(|| offer.sizes.iter().enumerate().map(landing).collect()) {
        Ok(landings) => landings,
        Err(panic) => {
            rt.fail(Failure::call(&panicked::<E>(rt, &element, &panic)));
            nowhere()
        }
    }
}

/// The element does not live here.
fn elsewhere<E: Entry>(
    rt: Rt,
    members: &Members<E::Chare>,
    index: <E::Chare as Chare>::Index,
    header: &Header,
    msg: Incoming,
) {
    let here = rt.sched.pe();
    match members.next(rt, &index, msg.from == here) {
        Some(to) if to == here => members.wait(index, msg),
        Some(to) => forward::<E>(rt, to, header, msg),
        None => no_such_element::<E>(rt, index, header, msg),
    }
}

/// Sends a call on to another PE, in the form that it needs there.
fn forward<E: Entry>(rt: Rt, to: Pe, header: &Header, msg: Incoming) {
    let mut header = *header;
    if header.source != rt.sched.pe().0 {
        header.flags |= PASSED;
    }
    if !header.is_moved() {
        let Incoming { msg, payloads, .. } = msg;
        let fill = |room: &mut [std::mem::MaybeUninit<u8>]| header.fill(&msg[HEADER..], room);
        if payloads.is_empty() {
            return rt.sched.send(to, tag::CALL, msg.len(), fill);
        }
        return rt.sched.send_payloads(to, tag::CALL, msg.len(), fill, payloads.into_vec(), false);
    }
    // SAFETY: as in `deliver`; the message is not looked at again.
    let body = unsafe { moved::read::<Body<E>>(msg.msg.as_ptr().wrapping_add(HEADER)) };
    header.flags &= !MOVED;
    if rt.same_process(to) {
        send_moved::<Body<E>>(rt, to, tag::CALL, header, body);
    } else if let Err(error) = send_wire(rt, to, tag::CALL, &header, body, E::POSTS) {
        fail_call(rt, header.reply(), wire_error::<E>(rt, &error));
    }
}

/// Drops a call that will not be delivered, and what was moved into it.
pub(crate) fn discard_call<E: Entry>(header: &Header, msg: Incoming) {
    if header.is_moved() {
        // SAFETY: as in `deliver`; read only to be dropped.
        drop(unsafe { moved::read::<Body<E>>(msg.msg.as_ptr().wrapping_add(HEADER)) });
    }
}

fn no_such_element<E: Entry>(rt: Rt, index: <E::Chare as Chare>::Index, header: &Header, msg: Incoming) {
    discard_call::<E>(header, msg);
    let error = CallError::NoSuchElement {
        chare: E::Chare::NAME.into(),
        index: format!("{index:?}"),
        entry: E::NAME.into(),
        pe: rt.sched.pe(),
    };
    fail_call(rt, header.reply(), error);
}

/// Runs an entry method of an element, and answers when it is done.
#[inline]
pub(super) fn run<E: Entry>(rt: Rt, element: Rc<Element<E::Chare>>, args: E::Args, reply_to: FutureId) {
    run_then::<E>(rt, element, args, move |result| match result {
        Ok(value) => {
            if reply_to.wanted().is_some() {
                reply(rt, reply_to, value);
            }
        }
        // It is no failure that a chare ends while methods of its are suspended.
        Err(CallError::Dropped { .. }) if reply_to.wanted().is_none() => {}
        Err(error) => fail_call(rt, reply_to, error),
    });
}

/// Runs an entry method and gives its result, or why there is none, to `then`: now, or when it has ended.
#[inline]
pub(super) fn run_then<E: Entry>(
    rt: Rt,
    element: Rc<Element<E::Chare>>,
    args: E::Args,
    then: impl FnOnce(Result<E::Output, CallError>) + 'static,
) {
    let this = This::new(element);
    let began = rt.running.begin(E::info(), this.element());
    let ran = guard(|| E::run(&this, args));
    drop(began);
    match ran {
        Ok(Started::Done(value)) => then(Ok(value)),
        Ok(Started::Suspended(rest)) => suspend::<E>(rt, this.element().clone(), rest, then),
        Err(panic) => then(Err(panicked::<E>(rt, this.element(), &panic))),
    }
}

/// Makes a task of the rest of an entry method.
fn suspend<E: Entry>(
    rt: Rt,
    element: Rc<Element<E::Chare>>,
    rest: Pin<Box<dyn Future<Output = E::Output>>>,
    then: impl FnOnce(Result<E::Output, CallError>) + 'static,
) {
    let slot = element.suspended.reserve();
    let end = Ending::<E, _> { rt, element: element.clone(), slot, then: Some(then) };
    let task = rt.sched.spawn(async move {
        let mut rest = Guarded(rest);
        let result = std::future::poll_fn(|cx| {
            let _running = rt.running.begin(E::info(), &end.element);
            Pin::new(&mut rest).poll(cx)
        });
        let result = result.await.map_err(|panic| panicked::<E>(rt, &end.element, &panic));
        drop(rest); // before whoever waits learns of the end
        end.end(result);
    });
    element.suspended.set(slot, task, E::info());
}

/// What follows a suspended method, also if it is dropped because its chare was destroyed.
struct Ending<E: Entry, F: FnOnce(Result<E::Output, CallError>)> {
    rt: Rt,
    element: Rc<Element<E::Chare>>,
    slot: usize,
    then: Option<F>,
}

impl<E: Entry, F: FnOnce(Result<E::Output, CallError>)> Ending<E, F> {
    fn end(mut self, result: Result<E::Output, CallError>) {
        let then = self.then.take();
        drop(self);
        if let Some(then) = then {
            then(result);
        }
    }
}

impl<E: Entry, F: FnOnce(Result<E::Output, CallError>)> Drop for Ending<E, F> {
    fn drop(&mut self) {
        self.element.suspended.free(self.slot);
        // At the job's end nobody waits any more.
        if let Some(then) = self.then.take().filter(|_| self.rt.sched.stopping().is_none()) {
            then(Err(CallError::Dropped { entry: E::NAME.into(), pe: self.rt.sched.pe() }));
        }
    }
}

fn panicked<E: Entry>(rt: Rt, element: &Element<E::Chare>, panic: &Panicked) -> CallError {
    // An error that another call brought passes through, so that its cause stays readable.
    if let Some(error) = &panic.passed_on {
        return error.clone();
    }
    CallError::Panicked {
        chare: E::Chare::NAME.into(),
        index: format!("{:?}", element.index),
        entry: E::NAME.into(),
        pe: rt.sched.pe(),
        message: panic.message.clone(),
    }
}

/// Catches a panic of user code.
#[inline]
pub(crate) fn guard<R>(f: impl FnOnce() -> R) -> Result<R, Box<Panicked>> {
    std::panic::catch_unwind(AssertUnwindSafe(f)).map_err(|panic| Box::new(Panicked::take(panic)))
}

/// A future whose panics are values.
struct Guarded<O>(Pin<Box<dyn Future<Output = O>>>);

impl<O> Future for Guarded<O> {
    type Output = Result<O, Box<Panicked>>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match guard(|| self.0.as_mut().poll(cx)) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

/// Runs a future of the user's on this PE; a panic in it ends the job.
pub(crate) fn spawn(rt: Rt, future: impl Future<Output = ()> + 'static) -> TaskId {
    spawn_named(rt, "a task", Box::pin(future))
}

/// The same, of a future that a report of its panic calls `who`.
pub(crate) fn spawn_named(rt: Rt, who: &'static str, future: Pin<Box<dyn Future<Output = ()>>>) -> TaskId {
    rt.sched.spawn(async move {
        if let Err(panic) = Guarded(future).await {
            rt.fail(Failure::panic(who, &panic));
        }
    })
}

fn wire_error<E: Entry>(rt: Rt, error: &wire::WireError) -> CallError {
    CallError::Wire { entry: E::NAME.into(), pe: rt.sched.pe(), why: error.to_string() }
}

/// A message of this PE's could not be delivered: there is no memory for it, or it is too long. Who waits for what it was about learns so.
pub(super) fn refused(rt: Rt, to: Pe, tag: Tag, header: Option<Header>, bytes: u64) {
    let entry = header.and_then(|header| rt.registry.methods.get(usize::from(header.method)));
    let what = match (tag, entry) {
        (tag::CALL, Some(entry)) => format!("a call of {}", entry.name),
        (tag::REPLY, _) => "a result".to_owned(),
        _ => "a message".to_owned(),
    };
    let from = rt.sched.pe();
    let limit = rt.sched.with_port(|port| port.message_max()).filter(|limit| bytes > *limit);
    let error = match limit {
        Some(limit) => CallError::TooLong { what, from, to, bytes, limit },
        None => CallError::TooLarge { what, from, to, bytes },
    };
    match header.filter(|_| matches!(tag, tag::CALL | tag::REPLY)).and_then(|header| header.reply().wanted()) {
        Some(reply) => send_failure(rt, reply, error),
        None => rt.fail(Failure { code: 71, what: error.to_string() }),
    }
}

/// A call has failed: who waits for it learns why; if nobody does, the job ends.
pub(super) fn fail_call(rt: Rt, reply: FutureId, error: CallError) {
    match reply.wanted() {
        Some(to) => send_failure(rt, to, error),
        None => rt.fail(Failure::call(&error)),
    }
}

pub(super) fn send_failure(rt: Rt, to: FutureId, error: CallError) {
    if to.pe == rt.sched.pe() {
        return rt.futures.fail(to, error);
    }
    let header = Header::new(0, rt.sched.pe()).with_reply(to);
    send_wire(rt, to.pe, tag::FAILURE, &header, error, false).expect("an error is made of text and numbers");
}

/// Answers a call that is answered once.
#[inline]
pub(crate) fn reply<R: Arguments>(rt: Rt, to: FutureId, value: R) {
    if to.pe == rt.sched.pe() {
        return rt.futures.fulfil(to, value);
    }
    if rt.same_process(to.pe) {
        send_moved(rt, to.pe, tag::REPLY, Header::new(0, rt.sched.pe()).with_reply(to), value);
    } else {
        reply_serialized(rt, to, value);
    }
}

/// Gives a future a value that may not be the first one.
pub(crate) fn reply_serialized(rt: Rt, to: FutureId, value: impl serde::Serialize) {
    let header = Header::new(0, rt.sched.pe()).with_reply(to);
    if let Err(error) = send_wire(rt, to.pe, tag::REPLY, &header, value, false) {
        let pe = rt.sched.pe();
        send_failure(rt, to, CallError::Wire { entry: "a result".into(), pe, why: error.to_string() });
    }
}

/// An answer has arrived.
pub(super) fn settle(rt: Rt, header: &Header, mut msg: Incoming) {
    let id = header.reply();
    if id.pe != rt.sched.pe() {
        return rt.violation(msg.from, "an answer for another PE", u64::from(id.pe.0));
    }
    let payloads = owners(std::mem::take(&mut msg.payloads));
    if msg.tag == tag::FAILURE {
        match wire::unpack(&msg.msg[HEADER..], payloads) {
            Ok(error) => rt.futures.fail(id, error),
            Err(_) => rt.violation(msg.from, "an error that cannot be read", msg.msg.len() as u64),
        }
    } else if header.is_moved() {
        // SAFETY: `reply` wrote a value of the type that the call's entry method, and so its future, has.
        unsafe { rt.futures.fulfil_moved(id, msg.msg.as_ptr().wrapping_add(HEADER)) };
    } else {
        wire::once(|| rt.futures.fulfil_wire(id, &msg.msg[HEADER..], payloads));
    }
}
