//! An element on its PE: a chare, and what the runtime knows of it.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;

use charm4rs_scheduler::TaskId;

use super::mailboxes::Mailboxes;
use super::{AnyCollection, Members, Membership, Rt};
use crate::runtime::chare::Chare;
use crate::runtime::registry::MethodInfo;

/// An element on its PE.
pub(crate) struct Element<T: Chare> {
    pub(crate) index: T::Index,
    pub(crate) members: &'static Members<T>,
    /// `None` while it is constructed, and after it was destroyed.
    pub(crate) state: RefCell<Option<T>>,
    base: Base,
}

/// The part of an element that does not depend on its type.
pub(crate) struct Base {
    pub(crate) rt: Rt,
    pub(crate) mailboxes: Mailboxes,
    pub(crate) suspended: Suspended,
    /// The number of reductions it has contributed to.
    pub(crate) contributed: Cell<u64>,
    /// The sections that it is in.
    pub(crate) sections: RefCell<Vec<Membership>>,
}

impl Base {
    fn new(rt: Rt) -> Self {
        Self {
            rt,
            mailboxes: Mailboxes::default(),
            suspended: Suspended::default(),
            contributed: Cell::new(0),
            sections: RefCell::default(),
        }
    }
}

impl<T: Chare> Deref for Element<T> {
    type Target = Base;
    #[inline]
    fn deref(&self) -> &Base {
        &self.base
    }
}

impl<T: Chare> Element<T> {
    pub(crate) fn new(rt: Rt, members: &'static Members<T>, index: T::Index) -> Rc<Self> {
        members.alive.set(members.alive.get() + 1);
        Rc::new(Self { index, members, state: RefCell::new(None), base: Base::new(rt) })
    }

    /// Whether it was destroyed.
    #[inline]
    pub(crate) fn is_gone(&self) -> bool {
        self.state.try_borrow().is_ok_and(|state| state.is_none())
    }
}

impl<T: Chare> Drop for Element<T> {
    fn drop(&mut self) {
        self.members.alive.set(self.members.alive.get() - 1);
    }
}

/// An element, independent of its type.
pub(crate) trait AnyElement {
    fn base(&self) -> &Base;
    fn members(&self) -> &'static dyn AnyCollection;
    fn index_text(&self) -> String;
    /// Drops the chare.
    fn drop_state(&self);
    /// Whether its collection has it under its index.
    fn is_listed(&self) -> bool;
    /// Leaves a section.
    fn leave(&self, section: &'static dyn AnyCollection);
}

impl<T: Chare> AnyElement for Element<T> {
    fn base(&self) -> &Base {
        &self.base
    }

    fn members(&self) -> &'static dyn AnyCollection {
        self.members
    }

    fn index_text(&self) -> String {
        format!("{:?}", self.index)
    }

    fn drop_state(&self) {
        drop(self.state.take());
    }

    fn is_listed(&self) -> bool {
        self.members.find(&self.index).is_some_and(|living| std::ptr::eq(&*living, self))
    }

    fn leave(&self, section: &'static dyn AnyCollection) {
        if let Some(section) = section.as_any().downcast_ref::<Members<T>>() {
            section.remove(&self.index);
        }
    }
}

/// The suspended methods of a chare.
#[derive(Default)]
pub(crate) struct Suspended {
    tasks: RefCell<Vec<Option<(TaskId, &'static MethodInfo)>>>,
    free: RefCell<Vec<usize>>,
}

impl Suspended {
    /// Reserves a slot for a method that is about to be suspended.
    pub(crate) fn reserve(&self) -> usize {
        let reused = self.free.borrow_mut().pop();
        reused.unwrap_or_else(|| {
            let mut tasks = self.tasks.borrow_mut();
            tasks.push(None);
            tasks.len() - 1
        })
    }

    pub(crate) fn set(&self, slot: usize, task: TaskId, method: &'static MethodInfo) {
        self.tasks.borrow_mut()[slot] = Some((task, method));
    }

    pub(crate) fn free(&self, slot: usize) {
        self.tasks.borrow_mut()[slot] = None;
        self.free.borrow_mut().push(slot);
    }

    /// All of them.
    pub(crate) fn tasks(&self) -> Vec<(TaskId, &'static MethodInfo)> {
        self.tasks.borrow().iter().flatten().copied().collect()
    }
}
