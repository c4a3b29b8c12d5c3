//! A PE's own calls of elements that are not here, in its queue: their destination is decided when they leave the queue.
//!
//! Such a call stays in the queue, behind the calls and broadcasts that were made before. When a message before it in the queue tells where the
//! element lives, a later call must not go there directly: it would overtake the queued one. So later calls of the same element are queued, too,
//! until no call of it is left in the queue.

use std::cell::{Cell, RefCell};

use charm4rs_scheduler::{Class, Handler};
use charm4rs_transport::port::Incoming;
use hashbrown::HashMap;

use super::collection::Key;
use super::{Dispatcher, Rt};
use crate::message::CollectionId;

type Element = (CollectionId, Key);

/// The number of such calls in the queue.
#[derive(Default)]
pub(super) struct Queued {
    all: Cell<usize>,
    by_element: RefCell<HashMap<Element, u32, foldhash::fast::FixedState>>,
}

impl Queued {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.all.get() == 0
    }

    /// Whether calls of an element are in the queue.
    pub(super) fn has(&self, collection: CollectionId, element: Key) -> bool {
        self.by_element.borrow().contains_key(&(collection, element))
    }

    fn add(&self, element: Element) {
        self.all.set(self.all.get() + 1);
        *self.by_element.borrow_mut().entry(element).or_default() += 1;
    }

    fn remove(&self, element: &Element) {
        self.all.set(self.all.get() - 1);
        let mut queued = self.by_element.borrow_mut();
        if let Some(calls) = queued.get_mut(element) {
            *calls -= 1;
            if *calls == 0 {
                queued.remove(element);
            }
        }
    }
}

/// A call in the queue. If the PE ends before it leaves the queue, its arguments are dropped.
struct Call {
    rt: Rt,
    msg: Option<Incoming>,
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(msg) = self.msg.take() {
            self.rt.discard(msg);
        }
    }
}

/// Queues a call of an element, which is delivered when it leaves the queue.
pub(super) fn queue(rt: Rt, class: Class, collection: CollectionId, element: Key, msg: Incoming) {
    let element = (collection, element);
    rt.queued.add(element.clone());
    let mut call = Call { rt, msg: Some(msg) };
    rt.sched.call_self(class, move || {
        rt.queued.remove(&element);
        if let Some(msg) = call.msg.take() {
            Dispatcher(rt).deliver(msg);
        }
    });
}
