//! Calls of elements that live on the caller's own PE: the shortest way.
//!
//! Such a call names its element by reference instead of by collection and index, so that nothing is looked up when it is
//! delivered. Between the two the element may have been destroyed; then the call begins anew, as one by name.

use std::mem::MaybeUninit;
use std::rc::Rc;

use charm4rs_transport::port::Incoming;

use super::calls::{Body, run, send_moved};
use super::{Rt, class_of};
use crate::cx::Element;
use crate::envelope::{HEADER, Header, MOVED, tag};
use crate::{Entry, moved};

/// What such a message holds behind its header.
type Here<E> = (Rc<Element<<E as Entry>::Chare>>, <E as Entry>::Args);

/// Queues a call of an element of this PE.
#[inline]
pub(super) fn call<E: Entry>(rt: Rt, element: Rc<Element<E::Chare>>, args: E::Args, mut header: Header) {
    header.flags |= MOVED;
    let len = HEADER + moved::size::<Here<E>>();
    rt.sched.call_self(tag::HERE, class_of(&header), len, |room: &mut [MaybeUninit<u8>]| {
        moved::put_pod(room, 0, &header);
        moved::write::<Here<E>>((element, args), &mut room[HEADER..]);
    });
}

/// Runs such a call.
pub(crate) fn deliver<E: Entry>(rt: Rt, msg: Incoming) {
    let (header, element, args) = take::<E>(msg);
    if !element.is_gone() {
        return run::<E>(rt, element, args, header.reply());
    }
    let header = Header { flags: header.flags & !MOVED, ..header };
    send_moved::<Body<E>>(rt, rt.sched.pe(), tag::CALL, header, (element.index, args));
}

/// Drops such a call.
pub(crate) fn discard<E: Entry>(msg: Incoming) {
    drop(take::<E>(msg));
}

/// Moves a call out of its message.
#[inline]
fn take<E: Entry>(msg: Incoming) -> (Header, Rc<Element<E::Chare>>, E::Args) {
    let header = Header::of(&msg).expect("the dispatcher has read it");
    // SAFETY: the dispatcher has checked that this PE sent the message to itself, and the header names E: so `call` wrote a
    // Here<E>. The message is dropped unread.
    let (element, args) = unsafe { moved::read::<Here<E>>(msg.msg.as_ptr().wrapping_add(HEADER)) };
    (header, element, args)
}
