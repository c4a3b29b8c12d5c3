//! Broadcasts that a new element of a sparse array must not get: those that are older than the element.
//!
//! A broadcast may still be on its way to a PE when an element is inserted there by code that has already seen it: a chare that was told by the
//! broadcast to insert, or its caller. So each PE numbers the broadcasts of which it is the root, and counts the broadcasts that have arrived, by
//! root. Before an insertion, the inserting PE tells the element's PE which broadcasts it has seen (once for all elements until it has seen others).
//! Those are not given to the element.
//!
//! Before an array is closed for the first time broadcasts wait, so there is nothing to report.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};

use charm4rs_transport::Pe;
use hashbrown::HashMap;

use crate::message::CollectionId;
use crate::runtime::Rt;
use crate::runtime::collection::{Common, Key};

type Map<K, V> = RefCell<HashMap<K, V, foldhash::fast::FixedState>>;

/// For each root, the number after the last broadcast that was seen.
pub(super) type Seen = Vec<(Pe, u64)>;

/// See the module's text.
#[derive(Default)]
pub(in crate::runtime) struct Casts {
    /// Broadcasts of this PE that were sent, and that have begun.
    posted: Cell<u64>,
    begun: Cell<u64>,
    /// By root.
    come: RefCell<BTreeMap<Pe, Come>>,
    /// Grows with each broadcast that was posted or has arrived.
    news: Cell<u64>,
    /// The value of `news` that each PE was last told.
    told: Map<Pe, u64>,
    /// What the PEs that insert here have seen.
    seen: Map<Pe, Seen>,
    /// Elements, with the broadcasts still to come that they must not get.
    spared: Map<Key, Seen>,
}

#[derive(Clone, Copy, Default)]
struct Come {
    count: u64,
    /// One more than the greatest number.
    until: u64,
}

impl Come {
    /// Whether all broadcasts with smaller numbers have arrived.
    fn has(self, until: u64) -> bool {
        self.count == self.until && self.until >= until
    }
}

impl Casts {
    /// This PE sends a broadcast.
    pub(super) fn post(&self) {
        self.posted.set(self.posted.get() + 1);
        self.news.set(self.news.get() + 1);
    }

    /// A broadcast of this PE begins; returns its number.
    pub(in crate::runtime) fn begin(&self) -> u64 {
        self.begun.set(self.begun.get() + 1);
        self.begun.get() - 1
    }

    /// A broadcast has arrived. Returns the elements that must not get it.
    pub(in crate::runtime) fn come(&self, root: Pe, number: u64) -> HashSet<Key> {
        self.news.set(self.news.get() + 1);
        {
            let mut all = self.come.borrow_mut();
            let come = all.entry(root).or_default();
            come.count = come.count.saturating_add(1);
            come.until = come.until.max(number.saturating_add(1));
        }
        let mut spared = self.spared.borrow_mut();
        if spared.is_empty() {
            return HashSet::new();
        }
        let is_before = |seen: &Seen| seen.iter().any(|(of, until)| *of == root && number < *until);
        let not_for = spared.iter().filter(|(_, seen)| is_before(seen)).map(|(element, _)| element.clone()).collect();
        spared.retain(|_, seen| {
            seen.retain(|(of, until)| !self.has_come(*of, *until));
            !seen.is_empty()
        });
        not_for
    }

    fn has_come(&self, root: Pe, until: u64) -> bool {
        self.come.borrow().get(&root).copied().unwrap_or_default().has(until)
    }

    /// What the PE of an insertion must be told before it, if it does not know.
    pub(super) fn to_tell(&self, here: Pe, to: Pe) -> Option<Seen> {
        let news = self.news.get();
        if news == 0 || self.told.borrow_mut().insert(to, news) == Some(news) {
            return None;
        }
        let own = (here, self.posted.get().max(self.begun.get()));
        let others = self.come.borrow();
        let others = others.iter().map(|(root, come)| (*root, come.until)).filter(|(root, _)| *root != here);
        Some(others.chain([own]).collect())
    }

    /// A PE reports what it has seen.
    pub(super) fn told(&self, by: Pe, seen: Seen) {
        self.seen.borrow_mut().insert(by, seen);
    }

    /// An element is inserted here.
    pub(in crate::runtime) fn meet(&self, by: Pe, element: &dyn Fn() -> Key) {
        let seen = self.seen.borrow();
        let Some(seen) = seen.get(&by) else { return };
        let missing: Seen = seen.iter().copied().filter(|&(root, until)| !self.has_come(root, until)).collect();
        if !missing.is_empty() {
            self.spared.borrow_mut().insert(element(), missing);
        }
    }

    /// An element is gone.
    pub(in crate::runtime) fn part(&self, element: &dyn Fn() -> Key) {
        let mut spared = self.spared.borrow_mut();
        if !spared.is_empty() {
            spared.remove(&element());
        }
    }

    /// Resets this for a new array.
    pub(in crate::runtime) fn renew(&self) {
        self.posted.set(0);
        self.begun.set(0);
        self.come.take();
        self.news.set(0);
        self.told.take();
        self.seen.take();
        self.spared.take();
    }
}

/// This PE sends a call of all elements of a collection.
pub(in crate::runtime) fn post(rt: Rt, id: CollectionId) {
    if let Some(members) = rt.any_collection(id)
        && members.common().sparse
    {
        members.common().casts.post();
    }
}

/// What an element's PE must know before it is inserted.
pub(super) fn to_tell(rt: Rt, members: &Common, to: Pe) -> Option<Seen> {
    if members.complete.get() { members.casts.to_tell(rt.sched.pe(), to) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_element_does_not_get_broadcasts_that_its_inserter_has_seen() {
        let (here, there) = (Casts::default(), Casts::default());
        let [me, other, third] = [Pe(0), Pe(1), Pe(2)];
        assert_eq!(here.to_tell(me, other), None);
        here.post();
        assert!(here.come(third, 0).is_empty() && here.come(third, 1).is_empty());
        let seen = here.to_tell(me, other).unwrap();
        assert_eq!((seen.clone(), here.to_tell(me, other)), (vec![(third, 2), (me, 1)], None));
        there.told(me, seen);
        there.come(third, 0);
        there.meet(me, &|| vec![7]);
        let seven = HashSet::from([vec![7]]);
        assert_eq!(there.come(third, 1), seven);
        assert!(there.come(third, 2).is_empty());
        assert_eq!(there.come(me, here.begin()), seven);
        assert!(there.come(me, here.begin()).is_empty() && there.spared.borrow().is_empty());
        // A broadcast that has arrived need not be withheld.
        there.meet(me, &|| vec![8]);
        assert!(there.spared.borrow().is_empty());
    }
}
