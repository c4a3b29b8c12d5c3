//! The number of elements that a PE, or its subtree, has at each reduction of a collection: it decreases at the first reduction to which a destroyed
//! element has not contributed, and increases at the first reduction of elements that were inserted later.

use std::cell::{Cell, RefCell};

/// See the module's text.
#[derive(Default)]
pub(super) struct Count {
    /// `None` until they have been counted.
    first: Cell<Option<u64>>,
    /// Ordered by the numbers of reductions, one entry each. Changes before all open reductions are included in `first`.
    changes: RefCell<Vec<Change>>,
    /// The number of the last change.
    bound: Cell<u64>,
}

/// The number of changes that are kept without a check whether they are still needed.
const KEPT: usize = 8;

#[derive(Clone, Copy)]
struct Change {
    from: u64,
    joined: u64,
    departed: u64,
}

impl Count {
    /// The elements have been counted for the first time.
    pub(super) fn begin(&self, elements: u64) {
        self.first.set(Some(elements));
    }

    /// Adds elements that contribute to reduction `from` and to all after it.
    pub(super) fn join(&self, from: u64, elements: u64) {
        if elements > 0 {
            self.change(from, |change| change.joined = change.joined.saturating_add(elements));
        }
    }

    /// Removes an element, which does not contribute to reduction `from` and those after it.
    pub(super) fn depart(&self, from: u64) {
        self.change(from, |change| change.departed += 1);
    }

    fn change(&self, from: u64, f: impl FnOnce(&mut Change)) {
        let mut changes = self.changes.borrow_mut();
        let at = changes.binary_search_by_key(&from, |change| change.from).unwrap_or_else(|at| {
            changes.insert(at, Change { from, joined: 0, departed: 0 });
            at
        });
        f(&mut changes[at]);
        self.bound.set(self.bound.get().max(from));
    }

    /// The counts of reductions below `number` are not needed any more.
    pub(super) fn forget(&self, number: u64) {
        let mut changes = self.changes.borrow_mut();
        let Some(first) = self.first.get().filter(|_| changes.len() > KEPT) else { return };
        let past = changes.partition_point(|change| change.from <= number);
        let change = |count: u64, change: Change| (count + change.joined).saturating_sub(change.departed);
        self.first.set(Some(changes.drain(..past).fold(first, change)));
    }

    /// The first reduction after `number` that has another count.
    pub(super) fn next_change(&self, number: u64) -> Option<u64> {
        self.changes.borrow().iter().map(|change| change.from).find(|from| *from > number)
    }

    /// The number of elements that contribute to reduction `number`.
    #[inline]
    pub(super) fn at(&self, number: u64) -> Option<u64> {
        let mut elements = self.first.get()?;
        let mut departed = 0u64;
        for change in self.changes.borrow().iter().take_while(|change| change.from <= number) {
            elements = elements.saturating_add(change.joined);
            departed += change.departed;
        }
        // Only a faulty peer reports more departures than there are elements.
        Some(elements.saturating_sub(departed))
    }

    /// No element that came or went has contributed to this reduction, or to a later one.
    pub(super) fn bound(&self) -> u64 {
        self.bound.get()
    }

    /// For each element that is gone, the first reduction that does not expect it.
    pub(super) fn departures(&self) -> Vec<u64> {
        let repeated =
            |change: &Change| std::iter::repeat_n(change.from, usize::try_from(change.departed).unwrap_or(0));
        self.changes.borrow().iter().flat_map(repeated).collect()
    }

    /// The number of changes that are kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.changes.borrow().len()
    }

    /// Resets this for a new collection.
    pub(super) fn renew(&self) {
        self.first.set(None);
        self.bound.set(0);
        self.changes.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_that_come_and_go_are_counted_from_their_reduction_on() {
        let count = Count::default();
        count.depart(3);
        assert_eq!((count.at(5), count.bound()), (None, 3));
        count.begin(10);
        count.join(7, 4);
        count.depart(3);
        count.depart(9);
        count.join(9, 2);
        let at = [0, 2, 3, 6, 7, 8, 9, u64::MAX].map(|number| count.at(number).unwrap());
        assert_eq!(at, [10, 10, 8, 8, 12, 12, 13, 13]);
        assert_eq!((count.departures(), count.bound()), (vec![3, 3, 9], 9));
        (0..KEPT as u64).for_each(|i| count.join(20 + i, 1));
        assert_eq!((count.next_change(3), count.next_change(27)), (Some(7), None));
        count.forget(9);
        assert_eq!(count.changes.borrow().len(), KEPT);
        assert_eq!([9, 19, 20, 27].map(|number| count.at(number).unwrap()), [13, 13, 14, 21]);
        assert_eq!(count.bound(), 27);
        count.renew();
        assert!(count.at(0).is_none() && count.departures().is_empty());
    }
}
