//! Calls of elements that live on the caller's own PE: the shortest way.
//!
//! Such a call is no message but a closure, which has the element itself, so that nothing is looked up when it is
//! run. Between the two the element may have been destroyed; then the call begins anew, as one by name.

use std::rc::Rc;

use super::Rt;
use super::calls::call_at_once;
use super::execute::{Then, run};
use super::post::header_of;
use crate::Entry;
use crate::call::Options;
use crate::cx::Element;
use crate::envelope::FutureId;

/// Queues a call of an element of this PE.
#[inline]
pub(super) fn call<E: Entry>(rt: Rt, element: Rc<Element<E::Chare>>, args: E::Args, options: Options, reply: FutureId) {
    rt.sched.call_self(options.class(), move || {
        if element.is_gone() {
            let header = header_of(rt, E::info(), element.members.id(), options, reply);
            call_at_once::<E>(rt, header, (element.index, args));
        } else {
            run::<E>(rt, element, args, Then::reply(reply));
        }
    });
}
