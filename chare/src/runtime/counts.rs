//! How many elements a PE, or its subtree, has at each reduction of a collection: fewer from that on to which a destroyed one has not contributed,
//! more from that on which is the first of those that were inserted later.

use std::cell::{Cell, RefCell};

/// See the module's text.
#[derive(Default)]
pub(super) struct Count {
    /// `None` until they have been counted.
    first: Cell<Option<u64>>,
    /// By rising numbers of reductions, each once.
    changes: RefCell<Vec<Change>>,
}

#[derive(Clone, Copy)]
struct Change {
    from: u64,
    joined: u64,
    departed: u64,
}

impl Count {
    /// They have been counted for the first time.
    pub(super) fn begin(&self, elements: u64) {
        self.first.set(Some(elements));
    }

    /// Elements that contribute to reduction `from` and to all after it.
    pub(super) fn join(&self, from: u64, elements: u64) {
        if elements > 0 {
            self.change(from, |change| change.joined = change.joined.saturating_add(elements));
        }
    }

    /// One that contributes to reduction `from`, and to those after it, no more.
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
    }

    /// How many contribute to reduction `number`.
    #[inline]
    pub(super) fn at(&self, number: u64) -> Option<u64> {
        let mut elements = self.first.get()?;
        let mut departed = 0u64;
        for change in self.changes.borrow().iter().take_while(|change| change.from <= number) {
            elements = elements.saturating_add(change.joined);
            departed += change.departed;
        }
        // Only a peer that lies tells of more departures than there are elements.
        Some(elements.saturating_sub(departed))
    }

    /// No element that came or went has contributed to a reduction of this number, or of a greater one.
    pub(super) fn bound(&self) -> u64 {
        self.changes.borrow().last().map_or(0, |change| change.from)
    }

    /// For each that has gone, the first reduction that does not expect it.
    pub(super) fn departures(&self) -> Vec<u64> {
        let repeated =
            |change: &Change| std::iter::repeat_n(change.from, usize::try_from(change.departed).unwrap_or(0));
        self.changes.borrow().iter().flat_map(repeated).collect()
    }

    /// As of a new collection.
    pub(super) fn renew(&self) {
        self.first.set(None);
        self.changes.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_came_and_went_is_counted_from_its_reduction_on() {
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
        count.renew();
        assert!(count.at(0).is_none() && count.departures().is_empty());
    }
}
