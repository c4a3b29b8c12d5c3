//! The table of a collection's elements on one PE.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use super::collection::Table;
use crate::runtime::chare::Chare;
use crate::runtime::element::Element;

/// The elements that live here: those of the array's own block in a vector, others in a table.
pub(super) struct Elements<T: Chare> {
    start: Cell<u64>,
    block: RefCell<Vec<Option<Rc<Element<T>>>>>,
    others: Table<T::Index, Rc<Element<T>>>,
    count: Cell<u64>,
}

impl<T: Chare> Default for Elements<T> {
    fn default() -> Self {
        Self { start: Cell::new(0), block: RefCell::default(), others: RefCell::default(), count: Cell::new(0) }
    }
}

impl<T: Chare> Elements<T> {
    pub(super) fn count(&self) -> u64 {
        self.count.get()
    }

    /// Makes room for a block of positions.
    pub(super) fn reserve(&self, block: Range<u64>) {
        self.start.set(block.start);
        let len = usize::try_from(block.end - block.start).expect("a PE's elements fit its memory");
        self.block.borrow_mut().resize_with(len, || None);
    }

    #[inline]
    pub(super) fn slot(&self, position: u64) -> Option<usize> {
        let slot = usize::try_from(position.checked_sub(self.start.get())?).ok()?;
        (slot < self.block.borrow().len()).then_some(slot)
    }

    #[inline(always)]
    pub(super) fn with<R>(
        &self,
        slot: Option<usize>,
        index: &T::Index,
        f: impl FnOnce(Option<&Rc<Element<T>>>) -> R,
    ) -> R {
        match slot {
            Some(slot) => f(self.block.borrow()[slot].as_ref()),
            None => f(self.others.borrow().get(index)),
        }
    }

    pub(super) fn add(&self, slot: Option<usize>, element: Rc<Element<T>>) -> Option<()> {
        if self.with(slot, &element.index, |there| there.is_some()) {
            return None;
        }
        match slot {
            Some(slot) => self.block.borrow_mut()[slot] = Some(element),
            None => drop(self.others.borrow_mut().insert(element.index, element)),
        }
        self.count.set(self.count.get() + 1);
        Some(())
    }

    pub(super) fn remove(&self, slot: Option<usize>, index: &T::Index) -> Option<Rc<Element<T>>> {
        let removed = match slot {
            Some(slot) => self.block.borrow_mut()[slot].take(),
            None => self.others.borrow_mut().remove(index),
        };
        self.count.set(self.count.get() - u64::from(removed.is_some()));
        removed
    }

    pub(super) fn all(&self) -> Vec<Rc<Element<T>>> {
        self.block.borrow().iter().flatten().chain(self.others.borrow().values()).cloned().collect()
    }

    pub(super) fn take(&self) -> Vec<Rc<Element<T>>> {
        self.count.set(0);
        let others = std::mem::take(&mut *self.others.borrow_mut());
        let block = std::mem::take(&mut *self.block.borrow_mut());
        block.into_iter().flatten().chain(others.into_values()).collect()
    }
}
