//! Calls of single elements, on both ends: where they go, and what happens to those that arrive.
//!
//! Each entry method has little code of its own: it moves or serializes the arguments, reads them, and calls the method
//! ([`execute`](super::execute)). The code that finds an element exists once for each chare type; the rest ([`super::post`]) is the same for all.

use std::rc::Rc;

use charm4rs_transport::port::{Charge, Incoming, Offer};
use charm4rs_transport::{Pe, RegBuf};

use super::collection::key;
use super::execute::{Args, Then, guard, panicked};
use super::exit::Failure;
use super::post::{self, fail_call, header_of, owners, wire_error};
use super::{Rt, local_call, location, queued};
use crate::message::CallError;
use crate::message::CollectionId;
use crate::message::envelope::{CallOptions, FutureId, HEADER, Header, MOVED, PASSED, tag};
use crate::message::moved;
use crate::message::wire::{self, WireError};
use crate::runtime::This;
use crate::runtime::chare::{Chare, Entry};
use crate::runtime::element::Element;
use crate::runtime::registry::MethodInfo;

/// The value that a moved call carries.
pub(super) type Body<E> = (<<E as Entry>::Chare as Chare>::Index, <E as Entry>::Args);

/// Operations on the moved body of a call, for code that does not know the entry method.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyOps {
    index: moved::MovedField,
    /// Takes it out and serializes it.
    pack: unsafe fn(*const u8, &mut Vec<u8>) -> Packed,
    /// Takes it out and drops it.
    discard: unsafe fn(*const u8),
}

type Packed = Result<wire::Aside, WireError>;

impl BodyOps {
    pub(crate) const fn of<E: Entry>() -> Self {
        Self {
            index: moved::MovedField::of::<Body<E>>(std::mem::offset_of!(Body<E>, 0)),
            pack: pack::<E>,
            discard: discard::<E>,
        }
    }
}

/// # Safety
/// `body` points to a moved `Body<E>` that is not read again.
unsafe fn pack<E: Entry>(body: *const u8, bytes: &mut Vec<u8>) -> Packed {
    // SAFETY: the caller's promise.
    wire::pack(&unsafe { moved::read::<Body<E>>(body) }, bytes)
}

/// # Safety
/// As for [`pack`].
unsafe fn discard<E: Entry>(body: *const u8) {
    // SAFETY: the caller's promise.
    drop(unsafe { moved::read::<Body<E>>(body) });
}

/// Sends a call to one element; its answer goes to `reply`.
#[inline]
pub(crate) fn call<E: Entry>(
    rt: Rt,
    collection: CollectionId,
    index: <E::Chare as Chare>::Index,
    args: E::Args,
    options: CallOptions,
    reply: FutureId,
) {
    let to = match rt.collection::<E::Chare>(collection) {
        Some(members) => match members.find(&index) {
            Some(element) => return local_call::call::<E>(rt, element, args, options, reply),
            None => members.last_known_pe(rt, &index),
        },
        // Where the element lives is decided when this PE knows the collection.
        None => Some(rt.sched.pe()),
    };
    let header = header_of(rt, E::info(), collection, options, reply);
    let charge = Charge::weighing(E::weight(&args));
    let body: Body<E> = (index, args);
    let direct = to.filter(|to| *to != rt.sched.pe() && rt.queued.is_empty());
    let Some(to) = direct else { return call_absent::<E>(rt, to, options, header, body, charge) };
    send_call::<E>(rt, to, header, body, charge);
}

#[inline]
fn send_call<E: Entry>(rt: Rt, to: Pe, header: Header, body: Body<E>, charge: Charge) {
    if rt.same_process(to) {
        post::send_moved(rt, to, tag::CALL, header, body, charge);
    } else if let Err(error) = post::send_wire(rt, to, tag::CALL, &header, body, E::POSTS) {
        fail_call(rt, header.reply(), wire_error(rt, E::info(), &error));
    }
}

/// Calls an element that is not here, and is not known to be elsewhere (or for which calls are in the queue). The call goes behind those in the queue
/// ([`queued`]); while a location is being requested, it joins the waiting calls at once.
#[cold]
fn call_absent<E: Entry>(rt: Rt, to: Option<Pe>, options: CallOptions, header: Header, body: Body<E>, charge: Charge) {
    let (here, id, element) = (rt.sched.pe(), header.collection(), key(&body.0));
    let is_queued = to == Some(here) || rt.queued.has(id, element.clone());
    match to {
        _ if is_queued => queued::queue(rt, options.class(), id, element, moved_here::<E>(rt, &header, body)),
        Some(to) => send_call::<E>(rt, to, header, body, charge),
        None => call_at_once::<E>(rt, header, body),
    }
}

/// A call as a message of this PE to itself.
fn moved_here<E: Entry>(rt: Rt, header: &Header, body: Body<E>) -> Incoming {
    moved::loosen(body, |body| post::loose_here(rt, tag::CALL, &header.moved(), body))
}

/// Delivers a call of this PE at once.
#[cold]
pub(super) fn call_at_once<E: Entry>(rt: Rt, header: Header, body: Body<E>) {
    let msg = moved_here::<E>(rt, &header, body);
    deliver::<E::Chare>(rt, E::info(), &header.moved(), msg);
}

/// The address of the moved body of a message.
fn body_of(msg: &Incoming) -> *const u8 {
    msg.msg.as_ptr().wrapping_add(HEADER).cast_const()
}

/// A call to a chare type has arrived: runs it, forwards it, or keeps it.
pub(crate) fn deliver<T: Chare>(rt: Rt, method: &'static MethodInfo, header: &Header, msg: Incoming) {
    let mut rest = 0;
    let Some(element) = find::<T>(rt, method, header, &msg, &mut rest) else {
        return not_here::<T>(rt, method, header, msg);
    };
    let (then, Incoming { msg, payloads, .. }) = (Then::reply(header.reply()), msg);
    // SAFETY: the dispatcher finds this function in the row of a method of `T`. A moved call was written by `call` in this process, as the dispatcher
    // has checked, and nothing else reads it.
    unsafe {
        if header.is_moved() {
            method.start.start(rt, element, Args::Moved(msg), then);
        } else {
            let bytes = &msg[msg.len() - rest..];
            method.start.start(rt, element, Args::Packed { bytes, payloads: owners(payloads), once: true }, then);
        }
    }
}

/// The element that a call is for, if it is here; `rest`: the length of the serialized arguments.
#[inline(always)]
fn find<T: Chare>(
    rt: Rt,
    method: &MethodInfo,
    header: &Header,
    msg: &Incoming,
    rest: &mut usize,
) -> Option<Rc<Element<T>>> {
    let members = rt.collection::<T>(header.collection())?;
    let index = index_of::<T>(method, header, msg, rest)?;
    let element = members.find(&index)?;
    if header.flags & PASSED != 0 {
        location::hint(rt, members, index, header.source);
    }
    Some(element)
}

#[inline]
fn index_of<T: Chare>(method: &MethodInfo, header: &Header, msg: &Incoming, rest: &mut usize) -> Option<T::Index> {
    if header.is_moved() {
        // SAFETY: `call` wrote this method's body in this process (the dispatcher checked), whose first part is the index.
        return Some(unsafe { method.body.index.copy::<T::Index>(body_of(msg)) });
    }
    index_packed::<T>(msg, rest)
}

#[inline(never)]
fn index_packed<T: Chare>(msg: &Incoming, rest: &mut usize) -> Option<T::Index> {
    let (index, behind) = wire::unpack_first::<T::Index>(&msg.msg[HEADER..], Vec::new()).ok()?;
    *rest = behind.len();
    Some(index)
}

/// A call has arrived whose element does not live here.
#[cold]
fn not_here<T: Chare>(rt: Rt, method: &MethodInfo, header: &Header, msg: Incoming) {
    let (here, id) = (rt.sched.pe(), header.collection());
    let Some(members) = rt.collection::<T>(id) else { return rt.keep(id, msg) };
    let Some(index) = index_of::<T>(method, header, &msg, &mut 0) else {
        return rt.violation(msg.from, "an index that cannot be read", u64::from(header.method));
    };
    match members.next(rt, &index, msg.from == here) {
        Some(to) if to == here => members.wait(rt, index, msg),
        Some(to) => forward(rt, method, to, header, msg),
        None => no_such_element(rt, method, format!("{index:?}"), header, msg),
    }
}

/// Forwards a call to another PE, in the form that it needs there.
fn forward(rt: Rt, method: &MethodInfo, to: Pe, header: &Header, msg: Incoming) {
    let mut header = *header;
    if header.source != rt.sched.pe().0 {
        header.flags |= PASSED;
    }
    if !header.is_moved() || rt.same_process(to) {
        // A moved call stays as it is within the process: its bytes change their owner again.
        let Incoming { msg, payloads, .. } = msg;
        return post::send_bytes(rt, to, tag::CALL, &header, &msg[HEADER..], payloads.into_vec(), false);
    }
    header.flags &= !MOVED;
    // SAFETY: as in `deliver`; the message is not read again.
    let pack = &mut |bytes: &mut Vec<u8>| unsafe { (method.body.pack)(body_of(&msg), bytes) };
    if let Err(error) = post::send_packed(rt, to, tag::CALL, &header, method.offer.is_some(), pack) {
        fail_call(rt, header.reply(), wire_error(rt, method, &error));
    }
}

/// A call with payloads is on its way: asks the chare for their memory.
pub(crate) fn offer<E: Entry>(rt: Rt, header: &Header, offer: &Offer) -> Vec<Option<RegBuf>> {
    let nowhere = || offer.sizes.iter().map(|_| None).collect();
    let members = rt.collection::<E::Chare>(header.collection());
    let index = wire::unpack_first::<<E::Chare as Chare>::Index>(&offer.head[HEADER..], Vec::new());
    let (Some(members), Ok((index, _)), false) = (members, index, header.is_moved()) else { return nowhere() };
    let Some(element) = members.find(&index) else { return nowhere() };
    let this = This::new(element.clone());
    let destination = |(at, &size): (usize, &u64)| {
        let destination = E::post(&this, at, usize::try_from(size).ok()?)?;
        (destination.0.len() as u64 == size).then_some(destination.0)
    };
    match guard(|| offer.sizes.iter().enumerate().map(destination).collect()) {
        Ok(destinations) => destinations,
        Err(panic) => {
            rt.fail(Failure::call(&panicked(rt, E::info(), &*element, &panic)));
            nowhere()
        }
    }
}

/// Drops a call that will not be delivered, and the value that was moved into it.
pub(super) fn discard_call(method: &MethodInfo, header: &Header, msg: &Incoming) {
    if header.is_moved() {
        // SAFETY: as in `deliver`; read only to be dropped, by callers that drop the message next.
        unsafe { (method.body.discard)(body_of(msg)) };
    }
}

fn no_such_element(rt: Rt, method: &MethodInfo, index: String, header: &Header, msg: Incoming) {
    let (chare, entry) = (method.chare.into(), method.name.into());
    let error = CallError::NoSuchElement { chare, index, entry, pe: rt.sched.pe() };
    undeliverable(rt, method, header, msg, error);
}

/// A call will not be delivered: its caller gets the error; if no caller waits, the job ends.
pub(super) fn undeliverable(rt: Rt, method: &MethodInfo, header: &Header, msg: Incoming, error: CallError) {
    let Some(front) = rt.front.get() else {
        discard_call(method, header, &msg);
        drop(msg);
        return fail_call(rt, header.reply(), error);
    };
    let mut body = Vec::new();
    if header.is_moved() {
        // SAFETY: as in `deliver`; the message is not read again. If packing fails the body stays empty, which is harmless.
        drop(unsafe { (method.body.pack)(body_of(&msg), &mut body) });
    } else {
        body.extend_from_slice(&msg.msg[HEADER..]);
    }
    drop(msg);
    if let Some(error) = front.undelivered(header.collection(), method.name, &body, error) {
        fail_call(rt, header.reply(), error);
    }
}
