//! What a PE remembers of its elements besides their locations: the PEs that it has told, and the elements that are gone.
//!
//! Nothing here depends on the chare type, so that it is compiled once.

use std::cell::RefCell;

use charm4rs_transport::Pe;
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::runtime::collection::Key;
use crate::runtime::intervals::Intervals;

type Map<K, V> = RefCell<HashMap<K, V, foldhash::fast::FixedState>>;

/// The PEs that were told that an element lives here.
#[derive(Default)]
pub(in crate::runtime) struct Hinted(Map<Key, SmallVec<[Pe; 2]>>);

impl Hinted {
    /// Records that a PE is told of an element. Returns `false` if it was told before.
    pub(super) fn note(&self, element: Key, pe: Pe) -> bool {
        let mut told = self.0.borrow_mut();
        let told = told.entry(element).or_default();
        let is_new = !told.contains(&pe);
        if is_new {
            told.push(pe);
        }
        is_new
    }

    /// An element is gone: calls `tell` with each PE that was told its location.
    pub(super) fn forget(&self, element: &dyn Fn() -> Key, tell: &mut dyn FnMut(Pe)) {
        if !self.0.borrow().is_empty() {
            let told = self.0.borrow_mut().remove(&element());
            told.into_iter().flatten().for_each(tell);
        }
    }

    pub(in crate::runtime) fn clear(&self) {
        self.0.take();
    }
}

/// At their home: elements that are gone and whose indices are used only once. Each index is a number that its creator has given out in order.
#[derive(Default)]
pub(in crate::runtime) struct Ended(Map<Pe, Intervals>);

impl Ended {
    pub(in crate::runtime) fn note(&self, creator: Pe, number: u64) {
        self.0.borrow_mut().entry(creator).or_default().insert(number);
    }

    pub(in crate::runtime) fn has(&self, creator: Pe, number: u64) -> bool {
        self.0.borrow().get(&creator).is_some_and(|ended| ended.contains(number))
    }

    pub(in crate::runtime) fn clear(&self) {
        self.0.take();
    }

    #[cfg(test)]
    pub(in crate::runtime) fn runs(&self) -> usize {
        self.0.borrow().values().map(Intervals::runs).sum()
    }
}
