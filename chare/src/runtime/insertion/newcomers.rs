//! Elements of this PE that were inserted after the PE had answered the census (see `census.rs`): they take no part in reductions until the array is
//! closed again, and only then is their first reduction known. Contributions that they make before wait here.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::runtime::Rt;
use crate::runtime::element::AnyElement;
use crate::runtime::reduction::Reductions;
use crate::runtime::reduction::counting;

/// The number of contributions of an element whose first reduction is not known.
pub(in crate::runtime) const UNKNOWN: u64 = u64::MAX;

/// A part for a reduction whose number becomes known later.
pub(in crate::runtime) type HeldContribution = Box<dyn FnOnce(Rt, &'static Reductions, u64)>;

/// See the module's text.
#[derive(Default)]
pub(in crate::runtime) struct Newcomers {
    all: RefCell<Vec<Newcomer>>,
    /// The number of newcomers included in the PE's answer.
    answered: Cell<usize>,
}

struct Newcomer {
    element: Rc<dyn AnyElement>,
    parts: Vec<HeldContribution>,
    /// It has been destroyed after it contributed, and takes part with that contribution.
    gone: bool,
}

impl Newcomers {
    #[cold]
    pub(in crate::runtime) fn add(&self, element: Rc<dyn AnyElement>) {
        element.base().contributed.set(UNKNOWN);
        self.all.borrow_mut().push(Newcomer { element, parts: Vec::new(), gone: false });
    }

    /// A newcomer contributes.
    pub(in crate::runtime) fn keep(&self, element: &dyn AnyElement, part: HeldContribution) {
        let mut all = self.all.borrow_mut();
        let known = all.iter_mut().rev().find(|newcomer| std::ptr::eq(newcomer.element.base(), element.base()));
        // A newcomer that has been destroyed in the meantime takes part in nothing.
        if let Some(newcomer) = known {
            newcomer.parts.push(part);
        }
    }

    /// A newcomer is destroyed.
    pub(in crate::runtime) fn remove(&self, element: &dyn AnyElement) {
        let removed = {
            let mut all = self.all.borrow_mut();
            let at = all.iter().position(|newcomer| std::ptr::eq(newcomer.element.base(), element.base()));
            at.and_then(|at| {
                if !all[at].parts.is_empty() {
                    all[at].gone = true;
                    return None;
                }
                self.answered.set(self.answered.get() - usize::from(at < self.answered.get()));
                Some(all.remove(at))
            })
        };
        drop(removed); // its contributions are user values, whose destructors run
    }

    pub(in crate::runtime) fn count(&self) -> u64 {
        self.all.borrow().iter().filter(|one| !one.gone).count() as u64
    }

    /// The PE's answer includes all newcomers that are here now.
    pub(in crate::runtime) fn answer(&self) {
        self.answered.set(self.all.borrow().len());
    }

    /// The newcomers included in the answer take part, from reduction `first` on. Returns their number, and a function that gives their parts.
    pub(in crate::runtime) fn join(&self, first: u64) -> (u64, impl FnOnce(Rt, &'static Reductions) + use<>) {
        let joined: Vec<_> = self.all.borrow_mut().drain(..self.answered.take()).collect();
        for newcomer in &joined {
            newcomer.element.base().contributed.set(first + newcomer.parts.len() as u64);
        }
        let count = joined.len() as u64;
        let give = move |rt: Rt, reductions: &'static Reductions| {
            for Newcomer { parts, gone, .. } in joined {
                let end = first + parts.len() as u64;
                (first..).zip(parts).for_each(|(number, part)| part(rt, reductions, number));
                if gone {
                    counting::depart(rt, reductions, end);
                }
            }
        };
        (count, give)
    }

    /// The newcomers whose contributions wait, as text.
    pub(in crate::runtime) fn waiting(&self) -> Vec<String> {
        let all = self.all.borrow();
        all.iter().filter(|newcomer| !newcomer.parts.is_empty()).map(|one| one.element.index_text()).collect()
    }

    /// Resets this for a new array.
    pub(in crate::runtime) fn renew(&self) {
        self.answered.set(0);
        drop(self.all.take());
    }
}
