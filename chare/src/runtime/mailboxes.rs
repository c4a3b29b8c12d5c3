//! The mailboxes of an element: calls of entry methods without a body, which wait until a receive takes them. `receive/` has the contents of a mailbox,
//! and how receives take calls.

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
    /// The mailbox of `E`. All callers for one entry method name the same type.
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

    /// The entry methods for whose calls tasks wait, with the tasks.
    pub(crate) fn waiting(&self) -> Vec<(u16, WakerKey)> {
        let boxes = self.boxes.borrow();
        boxes.iter().flat_map(|(method, mailbox)| mailbox.keys().into_iter().map(|key| (*method, key))).collect()
    }
}

/// A mailbox with arguments of any type.
pub(crate) trait AnyMailbox: Any {
    /// The tasks that wait in it.
    fn keys(&self) -> Vec<WakerKey>;
}
