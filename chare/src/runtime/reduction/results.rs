//! Delivery of a reduction's result: to a future, to an entry method, or to every contributor.
//!
//! Results are processed in the order of the reductions at each PE. A result that calls an entry method waits in the queue, like any call; so results
//! that follow it in its collection go through the queue too, and a future on another PE gets one behind the calls that arrived there before.

use std::rc::Rc;

use charm4rs_scheduler::Class;
use charm4rs_transport::Msg;
use charm4rs_transport::port::{Incoming, Tag};
use smallvec::SmallVec;

use super::pipelined::Merge;
use super::{Reductions, send};
use crate::message::envelope::{FutureId, HEADER, Header, tag};
use crate::message::wire::{self, Packed, WireError};
use crate::runtime::Route;
use crate::runtime::chare::Arguments;
use crate::runtime::exit::Failure;
use crate::runtime::insertion::casts;
use crate::runtime::post::reply_tagged;
use crate::runtime::{Rt, broadcast, shared};

/// The futures here that wait for the result of a reduction.
#[derive(Default)]
pub(super) struct Waiters {
    pub(super) futures: SmallVec<[FutureId; 1]>,
    /// Of a large one: the reducer that makes values of it, and its length.
    pub(super) large: Option<(Rc<dyn Merge>, u64)>,
}

impl Waiters {
    pub(super) fn in_pieces(&self) -> bool {
        self.large.is_some()
    }

    /// The only waiting future, for a result that is not pipelined.
    fn only(&self) -> Option<FutureId> {
        match self.futures[..] {
            [only] if !self.in_pieces() => Some(only),
            _ => None,
        }
    }
}

/// At the root: sends the result to the receiver that the contributors named.
pub(super) fn deliver<O: Arguments>(rt: Rt, reductions: &Reductions, number: u64, route: &Route, value: O) {
    let packed = match route {
        Route::Everyone if let Some(to) = only_one(rt, reductions, number) => {
            rt.futures.hold(to, value);
            release(rt, reductions, to);
            Ok(())
        }
        Route::Everyone => Packed::of(&value).map(|value| in_turn(rt, reductions, number, value)),
        Route::Future(to) if reductions.called.get() => {
            let to = *to;
            rt.sched.call_self(Class::Default, move || fulfil(rt, to, tag::IN_TURN, value));
            Ok(())
        }
        route => {
            reductions.called.set(reductions.called.get() || matches!(route, Route::Entry { .. }));
            give_to(rt, route, value)
        }
    };
    if let Err(error) = packed {
        rt.fail(Failure { code: 1, what: format!("the result of a reduction cannot be sent: {error}") });
    }
}

/// Fulfils a future with the value that it holds, behind the calls of earlier results.
fn release(rt: Rt, reductions: &Reductions, to: FutureId) {
    if reductions.called.get() {
        rt.sched.call_self(Class::Default, move || rt.futures.release(to));
    } else {
        rt.futures.release(to);
    }
}

/// The only future that waits for a result for every contributor, if it is on this PE: it gets the value itself.
fn only_one(rt: Rt, reductions: &Reductions, number: u64) -> Option<FutureId> {
    if reductions.root() != rt.sched.pe() || !reductions.place(rt).children.is_empty() {
        return None;
    }
    let mut everyone = reductions.everyone.borrow_mut();
    let only = everyone.get(number)?.only()?;
    everyone.remove(number);
    Some(only)
}

/// A result for every contributor, behind the calls of earlier results.
fn in_turn(rt: Rt, reductions: &Reductions, number: u64, value: Packed) {
    if !reductions.called.get() {
        return to_everyone(rt, reductions, number, value);
    }
    let collection = reductions.collection.get();
    rt.sched.call_self(Class::Default, move || {
        if let Some(members) = rt.any_collection(collection) {
            to_everyone(rt, &members.common().reductions, number, value);
        }
    });
}

/// Gives a value to the target of a sink.
pub(in crate::runtime) fn give_to<O: Arguments>(rt: Rt, route: &Route, value: O) -> Result<(), WireError> {
    match route {
        Route::Nobody | Route::Everyone => {}
        Route::Future(to) => fulfil(rt, *to, tag::REPLY, value),
        Route::Entry { collection, method, before, broadcast } => {
            let mut header = Header::of_collection(*collection, rt.sched.pe());
            header.method = *method;
            return call_sink(rt, &header, before.clone(), *broadcast, value);
        }
    }
    Ok(())
}

/// Gives a value to a future; on another PE by a message of this kind.
fn fulfil<O: Arguments>(rt: Rt, to: FutureId, tag: Tag, value: O) {
    if to.pe == rt.sched.pe() {
        rt.futures.fulfil(to, value);
    } else {
        reply_tagged(rt, to, tag, value);
    }
}

/// Calls an entry method with a result; `bytes` precedes the result in the message.
fn call_sink<O: Arguments>(
    rt: Rt,
    header: &Header,
    mut bytes: Vec<u8>,
    to_all: bool,
    value: O,
) -> Result<(), WireError> {
    let here = rt.sched.pe();
    let beside = wire::pack(&value, &mut bytes)?;
    drop(value);
    if to_all {
        let to = broadcast::entrance(rt, header.collection());
        casts::post(rt, header.collection());
        shared::send(rt, to, tag::BROADCAST, header, &bytes, beside);
    } else {
        let msg = Msg::fill(rt.sched.slab(), HEADER + bytes.len(), |room| header.fill(&bytes, room));
        let payloads = beside.into_iter().map(|memory| shared::leaving(rt, memory)).collect();
        rt.sched.enqueue(Incoming::own(here, tag::CALL, msg, payloads), Class::Default);
    }
    Ok(())
}

/// The result for every contributor goes down the tree from its root, wherever it was computed.
fn to_everyone(rt: Rt, reductions: &Reductions, number: u64, value: Packed) {
    let root = reductions.root();
    if root == rt.sched.pe() {
        result(rt, reductions, number, value);
    } else {
        send(rt, root, tag::RESULT, reductions, (number, value));
    }
}

/// The result for every contributor: forwards it down the tree, and gives it to the futures that wait here.
pub(super) fn result(rt: Rt, reductions: &Reductions, number: u64, value: Packed) {
    let body = (number, value);
    for &child in &reductions.place(rt).children {
        send(rt, child, tag::RESULT, reductions, &body);
    }
    let waiting = reductions.everyone.borrow_mut().remove(number).unwrap_or_default();
    for to in waiting.futures {
        let (bytes, beside) = body.1.parts();
        rt.futures.fulfil_wire(to, bytes, beside);
    }
}
