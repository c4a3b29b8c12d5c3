//! Calls of elements that live on the caller's own PE: the shortest path.
//!
//! Such a call is not a message but a closure that holds the element, so that there is no lookup when it runs. The element may have been destroyed in
//! between; then the call begins again, by its index.

use std::rc::Rc;

use super::Rt;
use super::calls::call_at_once;
use super::execute::{Then, run};
use super::post::header_of;
use crate::message::envelope::{CallOptions, FutureId};
use crate::runtime::chare::Entry;
use crate::runtime::element::Element;

/// Queues a call of an element of this PE.
#[inline]
pub(super) fn call<E: Entry>(
    rt: Rt,
    element: Rc<Element<E::Chare>>,
    args: E::Args,
    options: CallOptions,
    reply: FutureId,
) {
    rt.sched.call_self(options.class(), move || {
        if element.is_gone() {
            let header = header_of(rt, E::info(), element.members.id(), options, reply);
            call_at_once::<E>(rt, header, (element.index, args));
        } else {
            run::<E>(rt, element, args, Then::reply(reply));
        }
    });
}
