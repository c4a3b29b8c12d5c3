//! What a PE sends: calls and system messages to others, and calls to itself.

use std::mem::MaybeUninit;

use charm4rs_transport::memory::InlineTask;
use charm4rs_transport::port::{Charge, Incoming, PortEvent, Tag};
use charm4rs_transport::{Msg, Payloads, Pe, RegBuf};

use super::{Ready, Scheduler, bump};
use crate::queue::Class;

impl Scheduler {
    /// Sends a call: a message of `len` bytes, all of which `fill` writes. A call to this PE itself is queued. Counted for quiescence.
    #[inline]
    pub fn send(&self, to: Pe, tag: Tag, len: usize, fill: impl FnOnce(&mut [MaybeUninit<u8>])) {
        self.send_charged(to, tag, tag.charge(), len, fill);
    }

    /// As [`Scheduler::send`], for a call that may own memory besides its bytes.
    #[inline]
    pub fn send_charged(
        &self,
        to: Pe,
        tag: Tag,
        charge: Charge,
        len: usize,
        fill: impl FnOnce(&mut [MaybeUninit<u8>]),
    ) {
        bump(&self.sent);
        self.post(to, tag, charge, len, fill);
    }

    /// Sends a system message: `tag` is in the range that the layers above use for such messages ([`Tag::is_system`]). Its receiver delivers it
    /// directly from the poll. Not counted for quiescence, so work must not wait for it.
    #[inline]
    pub fn send_system(&self, to: Pe, tag: Tag, len: usize, fill: impl FnOnce(&mut [MaybeUninit<u8>])) {
        debug_assert!(tag.is_system());
        self.post(to, tag, Charge::NONE, len, fill);
    }

    #[inline]
    pub(super) fn post(&self, to: Pe, tag: Tag, charge: Charge, len: usize, fill: impl FnOnce(&mut [MaybeUninit<u8>])) {
        if to == self.pe {
            let msg = Msg::fill(&self.slab, len, fill);
            self.arrive(Incoming::own(to, tag, msg, Payloads::default()));
        } else if let Some(port) = &mut *self.port.borrow_mut() {
            port.send_charged(to, tag, charge, len, fill);
        }
    }

    pub(super) fn arrive(&self, msg: Incoming) {
        self.arrived.borrow_mut().push_back(PortEvent::Message(msg));
    }

    /// Sends a call with payloads out of band. `offer`: the receiver chooses the memory for them. To this PE itself, the payloads change their owner.
    /// Counted for quiescence.
    pub fn send_payloads(
        &self,
        to: Pe,
        tag: Tag,
        len: usize,
        fill: impl FnOnce(&mut [MaybeUninit<u8>]),
        payloads: Vec<RegBuf>,
        offer: bool,
    ) {
        bump(&self.sent);
        if to == self.pe {
            let msg = Msg::fill(&self.slab, len, fill);
            self.arrive(Incoming::own(to, tag, msg, payloads.into()));
        } else if let Some(port) = &mut *self.port.borrow_mut() {
            port.send_payloads(to, tag, len, fill, payloads, offer);
        }
    }

    /// A buffer that can be sent to any PE at the least cost.
    #[must_use]
    pub fn alloc(&self, len: usize) -> RegBuf {
        match &mut *self.port.borrow_mut() {
            Some(port) => port.alloc(len),
            None => RegBuf::heap(len),
        }
    }

    /// Queues a call to this PE whose class is known. Counted for quiescence.
    #[inline]
    pub fn enqueue(&self, msg: Incoming, class: Class) {
        debug_assert!(!msg.tag.is_system(), "a call is not a system message");
        bump(&self.sent);
        self.queue.borrow_mut().push(Ready::Message(msg), class);
    }

    /// Queues a call to this PE itself, as a closure: the shortest path. Counted for quiescence. If the PE ends before the call runs, the closure is
    /// dropped.
    #[inline]
    pub fn call_self(&self, class: Class, call: impl FnOnce() + 'static) {
        bump(&self.sent);
        self.queue.borrow_mut().push(Ready::Call(InlineTask::new(&self.slab, call)), class);
    }
}
