//! The mailboxes of an element: calls of entry methods without a body, which wait until a receive takes them. What a mailbox holds, and how receives
//! take it, is in `receive/`.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;

use charm4rs_scheduler::WakerKey;

use crate::runtime::chare::Entry;

/// A chare's mailboxes, by entry method.
#[derive(Default)]
pub(crate) struct Mailboxes {
    boxes: RefCell<Vec<(u16, Rc<dyn AnyMailbox>)>>,
}

impl Mailboxes {
    /// That of `E`. All callers for one entry method name the same type.
    pub(crate) fn of<E: Entry, M: AnyMailbox + Default>(&self) -> Rc<M> {
        let id = E::info().id();
        let mut boxes = self.boxes.borrow_mut();
        let found = match boxes.iter().position(|(method, _)| *method == id) {
            Some(at) => boxes[at].1.clone(),
            None => {
                let new: Rc<dyn AnyMailbox> = Rc::new(M::default());
                boxes.push((id, new.clone()));
                new
            }
        };
        let found: Rc<dyn Any> = found;
        found.downcast().expect("a method's mailbox holds its arguments")
    }

    /// Who waits for calls of which entry method.
    pub(crate) fn waiting(&self) -> Vec<(u16, WakerKey)> {
        let boxes = self.boxes.borrow();
        boxes.iter().flat_map(|(method, mailbox)| mailbox.keys().into_iter().map(|key| (*method, key))).collect()
    }
}

/// A mailbox, whatever it holds.
pub(crate) trait AnyMailbox: Any {
    /// Whom it would wake.
    fn keys(&self) -> Vec<WakerKey>;
}
