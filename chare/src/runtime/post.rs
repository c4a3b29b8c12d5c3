//! Messages about calls that leave a PE: calls, answers and failures. Nothing here knows an entry method; code that is generic over a value takes its
//! bytes, or serializes it, and leaves the rest to functions that are compiled once.

use std::mem::MaybeUninit;
use std::sync::Arc;

use charm4rs_scheduler::Class;
use charm4rs_transport::port::{Charge, Incoming, Tag};
use charm4rs_transport::{Msg, Payloads, Pe, RegBuf};

use super::exit::Failure;
use super::{Rt, shared};
use crate::message::CallError;
use crate::message::CollectionId;
use crate::message::envelope::{CallOptions, FutureId, HEADER, Header, tag};
use crate::message::moved::{self, Loose};
use crate::message::wire::{self, Aside, WireError};
use crate::runtime::chare::Arguments;
use crate::runtime::registry::MethodInfo;

/// The header of a call.
#[inline]
pub(super) fn header_of(
    rt: Rt,
    method: &MethodInfo,
    collection: CollectionId,
    options: CallOptions,
    reply: FutureId,
) -> Header {
    let mut header = Header::of_collection(collection, rt.sched.pe()).with_reply(reply).with_priority(options.priority);
    header.method = method.id();
    header.flags = options.flags;
    header
}

/// Sends a value to any PE: moved, or serialized.
pub(super) fn send<B: Send + serde::Serialize>(
    rt: Rt,
    to: Pe,
    tag: Tag,
    header: &Header,
    body: B,
    offer: bool,
) -> Result<(), WireError> {
    if rt.same_process(to) {
        send_moved(rt, to, tag, *header, body, Charge::PLAIN);
        Ok(())
    } else {
        send_wire(rt, to, tag, header, body, offer)
    }
}

/// Moves a value to a PE of this process. `charge`: its charge against this PE's credit.
#[inline]
pub(super) fn send_moved<B: Send>(rt: Rt, to: Pe, tag: Tag, header: Header, body: B, charge: Charge) {
    moved::loosen(body, |body| send_loose(rt, to, tag, &header.moved(), body, charge));
}

pub(super) fn send_loose(rt: Rt, to: Pe, tag: Tag, header: &Header, body: Loose<'_>, charge: Charge) {
    if to == rt.sched.pe() {
        let class = if tag == tag::SOLO { Class::Expedited } else { Class::Default };
        return rt.sched.enqueue(loose_here(rt, tag, header, body), class);
    }
    rt.sched.send_charged(to, tag, charge, HEADER + body.len(), |room| write_loose(room, header, body));
}

/// A message of this PE to itself.
pub(super) fn loose_here(rt: Rt, tag: Tag, header: &Header, body: Loose<'_>) -> Incoming {
    let msg = Msg::fill(rt.sched.slab(), HEADER + body.len(), |room| write_loose(room, header, body));
    Incoming::own(rt.sched.pe(), tag, msg, Payloads::default())
}

#[inline]
fn write_loose(room: &mut [MaybeUninit<u8>], header: &Header, body: Loose<'_>) {
    moved::put_pod(room, 0, header);
    body.put(&mut room[HEADER..]);
}

/// Serializes a value for any PE, and drops it: then its payloads' memory belongs to the message alone, and need not be copied, unless other code
/// keeps a reference.
pub(super) fn send_wire<B: serde::Serialize>(
    rt: Rt,
    to: Pe,
    tag: Tag,
    header: &Header,
    body: B,
    offer: bool,
) -> Result<(), WireError> {
    let mut body = Some(body);
    send_packed(rt, to, tag, header, offer, &mut |bytes| pack_and_end(&mut body, bytes))
}

pub(super) fn pack_and_end<B: serde::Serialize>(
    value: &mut Option<B>,
    bytes: &mut Vec<u8>,
) -> Result<Aside, WireError> {
    value.take().map_or(Ok(Vec::new()), |value| wire::pack(&value, bytes))
}

/// Appends a value to bytes, and drops it; returns the payloads that travel beside them.
pub(super) type Pack<'a> = &'a mut dyn FnMut(&mut Vec<u8>) -> Result<Aside, WireError>;

pub(super) fn send_packed(
    rt: Rt,
    to: Pe,
    tag: Tag,
    header: &Header,
    offer: bool,
    pack: Pack<'_>,
) -> Result<(), WireError> {
    rt.with_scratch(|bytes| {
        let aside = {
            let _once = wire::Once::begin();
            pack(bytes)?
        };
        let payloads = aside.into_iter().map(|memory| shared::leaving(rt, memory)).collect();
        send_bytes(rt, to, tag, header, bytes, payloads, offer);
        Ok(())
    })
}

/// Sends serialized bytes.
pub(super) fn send_bytes(rt: Rt, to: Pe, tag: Tag, header: &Header, bytes: &[u8], payloads: Vec<RegBuf>, offer: bool) {
    let len = HEADER + bytes.len();
    let fill = |room: &mut [MaybeUninit<u8>]| header.fill(bytes, room);
    if payloads.is_empty() {
        rt.sched.send(to, tag, len, fill);
    } else {
        rt.sched.send_payloads(to, tag, len, fill, payloads, offer);
    }
}

#[inline]
pub(super) fn owners(payloads: Payloads) -> Aside {
    if payloads.is_empty() {
        return Vec::new();
    }
    payloads.into_iter().map(Arc::new).collect()
}

pub(super) fn wire_error(rt: Rt, method: &MethodInfo, error: &WireError) -> CallError {
    CallError::Wire { entry: method.name.into(), pe: rt.sched.pe(), why: error.to_string() }
}

/// A message of this PE could not be delivered: there is no memory for it, or it is too long. The PE that waits for its result gets the error.
pub(super) fn refused(rt: Rt, to: Pe, tag: Tag, header: Option<Header>, bytes: u64) {
    let entry = header.and_then(|header| rt.registry.methods.get(usize::from(header.method)));
    let what = match (tag, entry) {
        (tag::CALL, Some(entry)) => format!("a call of {}", entry.name),
        (tag::REPLY | tag::IN_TURN, _) => "a result".to_owned(),
        _ => "a message".to_owned(),
    };
    let from = rt.sched.pe();
    let limit = rt.sched.with_port(|port| port.message_max()).filter(|limit| bytes > *limit);
    let error = match limit {
        Some(limit) => CallError::TooLong { what, from, to, bytes, limit },
        None => CallError::TooLarge { what, from, to, bytes },
    };
    match header
        .filter(|_| matches!(tag, tag::CALL | tag::REPLY | tag::IN_TURN))
        .and_then(|header| header.reply().wanted())
    {
        Some(reply) => send_failure(rt, reply, error),
        None => rt.fail(Failure { code: 71, what: error.to_string() }),
    }
}

/// A call has failed: its caller gets the error; if no caller waits, the job ends.
pub(super) fn fail_call(rt: Rt, reply: FutureId, error: CallError) {
    match reply.wanted() {
        Some(to) => send_failure(rt, to, error),
        None => rt.fail(Failure::call(&error)),
    }
}

/// A call has failed whose target cannot be read.
#[cold]
pub(crate) fn fail_unsent(rt: Rt, method: &MethodInfo, reply: FutureId, error: &WireError) {
    fail_call(rt, reply, wire_error(rt, method, error));
}

pub(super) fn send_failure(rt: Rt, to: FutureId, error: CallError) {
    if to.pe == rt.sched.pe() {
        return rt.futures.fail(to, error);
    }
    let header = Header::of_job(rt.sched.pe()).with_reply(to);
    send_wire(rt, to.pe, tag::FAILURE, &header, error, false).expect("an error is made of text and numbers");
}

/// Answers a call that has one answer.
#[inline]
pub(crate) fn reply<R: Arguments>(rt: Rt, to: FutureId, value: R) {
    if to.pe == rt.sched.pe() {
        return rt.futures.fulfil(to, value);
    }
    if rt.same_process(to.pe) {
        send_moved(rt, to.pe, tag::REPLY, Header::of_job(rt.sched.pe()).with_reply(to), value, Charge::PLAIN);
    } else {
        reply_serialized(rt, to, value);
    }
}

/// Gives a future a value that may not be its first one.
pub(crate) fn reply_serialized(rt: Rt, to: FutureId, value: impl serde::Serialize) {
    reply_tagged(rt, to, tag::REPLY, value);
}

/// The same; with [`tag::IN_TURN`] behind the calls that wait at the future's PE.
pub(super) fn reply_tagged(rt: Rt, to: FutureId, tag: Tag, value: impl serde::Serialize) {
    let mut value = Some(value);
    reply_packed(rt, to, tag, &mut |bytes| pack_and_end(&mut value, bytes));
}

fn reply_packed(rt: Rt, to: FutureId, tag: Tag, pack: Pack<'_>) {
    let header = Header::of_job(rt.sched.pe()).with_reply(to);
    if let Err(error) = send_packed(rt, to.pe, tag, &header, false, pack) {
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
        let _once = wire::Once::begin();
        rt.futures.fulfil_wire(id, &msg.msg[HEADER..], payloads);
    }
}
