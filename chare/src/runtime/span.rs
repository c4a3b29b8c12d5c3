//! The PEs that have a part in a collection, and trees over them. Knows nothing of the messages on the trees.
//!
//! A section's tree is that of a job that has only the section's PEs: so it also enters each host and each process once.
//!
//! A tree is arithmetic, but that costs as much as a message does. So a PE remembers its places in the last two trees: those of a program's
//! broadcasts from one PE, and of the reductions that answer them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use charm4rs_scheduler::Tree;
use charm4rs_transport::{Layout, Pe};

use super::FANOUT;

/// The PEs of a collection.
#[derive(Debug)]
pub(crate) struct Span {
    /// `None`: all of the job.
    chosen: Option<Chosen>,
    places: [RefCell<Option<Rc<Place>>>; 2],
    /// The place that is forgotten next.
    oldest: Cell<usize>,
}

/// A PE's place in a tree.
#[derive(Debug)]
pub(super) struct Place {
    root: Pe,
    /// Its parent; the root has none, nor has a PE that has no part in the tree.
    pub(super) parent: Option<Pe>,
    /// Its children.
    pub(super) children: Box<[Pe]>,
}

/// Some of a job's PEs.
#[derive(Debug)]
pub(super) struct Chosen {
    /// Sorted.
    pes: Box<[Pe]>,
    /// The layout of a job in which `pes[rank]` is PE number `rank`.
    layout: Layout,
}

impl Span {
    /// All PEs of a job.
    pub(super) fn job() -> Self {
        Self::over(None)
    }

    fn over(chosen: Option<Chosen>) -> Self {
        Self { chosen, places: Default::default(), oldest: Cell::new(0) }
    }

    /// Some PEs of a job; `None` if they are not sorted, one appears twice, one does not exist, or there are none.
    pub(super) fn of(job: &Layout, pes: Vec<Pe>) -> Option<Self> {
        let last = pes.last()?;
        if last.0 >= job.pes() || !pes.is_sorted_by(|a, b| a < b) {
            return None;
        }
        let (mut processes, mut hosts) = (Vec::new(), Vec::new());
        for process in pes.chunk_by(|a, b| job.process_of(*a) == job.process_of(*b)) {
            processes.push(u32::try_from(process.len()).ok()?);
            hosts.push(job.host_of(job.process_of(process[0])));
        }
        let hosts: Option<Vec<u32>> = hosts.chunk_by(|a, b| a == b).map(|host| host.len().try_into().ok()).collect();
        let layout = Layout::new(&processes, &hosts?);
        Some(Self::over(Some(Chosen { pes: pes.into_boxed_slice(), layout })))
    }

    /// The chosen PEs; `None`: all of the job.
    pub(super) fn pes(&self) -> Option<&[Pe]> {
        self.chosen.as_ref().map(|chosen| &*chosen.pes)
    }

    pub(super) fn contains(&self, pe: Pe) -> bool {
        self.chosen.as_ref().is_none_or(|chosen| chosen.rank(pe).is_some())
    }

    /// All PEs, if they are on one host, and there are at most `most`.
    pub(super) fn on_one_host(&self, job: &Layout, most: usize) -> Option<Vec<Pe>> {
        let layout = self.chosen.as_ref().map_or(job, |chosen| &chosen.layout);
        if layout.hosts() > 1 || layout.pes() as usize > most {
            return None;
        }
        Some(self.chosen.as_ref().map_or_else(|| (0..job.pes()).map(Pe).collect(), |chosen| chosen.pes.to_vec()))
    }

    /// The tree over them with this root.
    pub(super) fn tree<'a>(&'a self, job: &'a Layout, root: Pe) -> Branches<'a> {
        match &self.chosen {
            None => Branches { tree: Tree::new(job, root, FANOUT), chosen: None },
            Some(chosen) => {
                let rank = chosen.rank(root).expect("a tree's root is one of its PEs");
                Branches { tree: Tree::new(&chosen.layout, rank, FANOUT), chosen: Some(chosen) }
            }
        }
    }

    /// The place of `here` in the tree with this root. Always called for the same PE, whose places this remembers.
    pub(super) fn place(&self, job: &Layout, root: Pe, here: Pe) -> Rc<Place> {
        for place in &self.places {
            if let Some(place) = place.borrow().as_ref().filter(|place| place.root == root) {
                return place.clone();
            }
        }
        let tree = self.tree(job, root);
        let place = Rc::new(Place { root, parent: tree.parent(here), children: tree.children(here).collect() });
        let oldest = self.oldest.replace(1 - self.oldest.get());
        self.places[oldest].replace(Some(place.clone()));
        place
    }
}

impl Chosen {
    fn rank(&self, pe: Pe) -> Option<Pe> {
        self.pes.binary_search(&pe).ok().and_then(|rank| rank.try_into().ok()).map(Pe)
    }
}

/// A tree over a collection's PEs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Branches<'a> {
    tree: Tree<'a>,
    chosen: Option<&'a Chosen>,
}

impl<'a> Branches<'a> {
    fn rank(self, pe: Pe) -> Option<Pe> {
        self.chosen.map_or(Some(pe), |chosen| chosen.rank(pe))
    }

    fn at(self, rank: Pe) -> Pe {
        self.chosen.map_or(rank, |chosen| chosen.pes[rank.index()])
    }

    /// The parent of `pe`; the root has none, nor has a PE that has no part in the tree.
    pub(super) fn parent(self, pe: Pe) -> Option<Pe> {
        self.tree.parent(self.rank(pe)?).map(|rank| self.at(rank))
    }

    /// The children of `pe`.
    pub(super) fn children(self, pe: Pe) -> impl Iterator<Item = Pe> + use<'a> {
        let ranks = self.rank(pe).map(|rank| self.tree.children(rank));
        ranks.into_iter().flatten().map(move |rank| self.at(rank))
    }

    /// The child of `above` on the path to `pe`.
    pub(super) fn toward(self, above: Pe, pe: Pe) -> Option<Pe> {
        std::iter::successors(Some(pe), |&pe| self.parent(pe)).find(|&pe| self.parent(pe) == Some(above))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pes(numbers: &[u32]) -> Vec<Pe> {
        numbers.iter().copied().map(Pe).collect()
    }

    #[test]
    fn a_tree_over_some_pes_reaches_only_them_through_their_processes() {
        // Hosts: PEs 0-3 (processes 0-1, 2-3), 4-7, 8-11.
        let job = Layout::new(&[2; 6], &[2; 3]);
        let chosen = pes(&[1, 2, 3, 8, 9, 11]);
        let span = Span::of(&job, chosen.clone()).unwrap();
        for &root in &chosen {
            let tree = span.tree(&job, root);
            let mut reached = vec![root];
            let mut at = 0;
            while let Some(&pe) = reached.get(at) {
                at += 1;
                for child in tree.children(pe) {
                    assert_eq!(tree.parent(child), Some(pe));
                    assert_eq!(tree.toward(pe, child), Some(child));
                    reached.push(child);
                }
            }
            reached.sort();
            assert_eq!(reached, chosen);
            let hosts = chosen.iter().filter(|&&pe| tree.parent(pe).is_some_and(|above| (above.0 < 4) != (pe.0 < 4)));
            assert_eq!(hosts.count(), 1);
        }
        assert_eq!(span.tree(&job, Pe(1)).parent(Pe(0)), None);
        assert!(span.contains(Pe(9)) && !span.contains(Pe(10)));
    }

    #[test]
    fn a_place_that_is_remembered_is_the_one_that_the_tree_gives() {
        let job = Layout::new(&[2; 6], &[2; 3]);
        for span in [Span::job(), Span::of(&job, pes(&[1, 2, 3, 8, 9, 11])).unwrap()] {
            let here = Pe(2);
            for root in [1, 2, 1, 1, 8, 2, 11, 1, 2, 8, 8].map(Pe) {
                let (place, tree) = (span.place(&job, root, here), span.tree(&job, root));
                assert_eq!(place.parent, tree.parent(here));
                assert!(tree.children(here).eq(place.children.iter().copied()));
            }
        }
    }

    #[test]
    fn pes_that_a_job_does_not_have_or_that_are_not_sorted_are_refused() {
        let job = Layout::one_host(4, 2);
        for wrong in [&[][..], &[2, 1], &[1, 1], &[0, 4]] {
            assert!(Span::of(&job, pes(wrong)).is_none(), "{wrong:?}");
        }
    }
}
