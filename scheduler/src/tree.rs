//! Spanning trees over the PEs of a job, with any root, that cross each boundary as rarely as possible.
//!
//! A tree has three levels, each a `fanout`-ary tree of its own: over the *leaders* of the hosts, below each of them over the leaders of its host's
//! processes, and below each of those over the PEs of its process. So a message down the tree enters every host once and every process once, and a
//! message up the tree leaves them once. The leader of a host or process is its first PE; on the root's host and process it is the root.
//!
//! Nothing is stored: the parent and children of a PE follow from the [`Layout`] by arithmetic, after a binary search.

use std::iter;
use std::ops::Range;

use charm4rs_transport::{Layout, Pe};

/// A spanning tree; see the module's text.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a> {
    layout: &'a Layout,
    root: Pe,
    root_process: u32,
    root_host: u32,
    fanout: u32,
}

/// A `fanout`-ary heap over a range of numbers, rotated so that `first` is its root.
#[derive(Clone, Debug)]
struct Ring {
    range: Range<u32>,
    first: u32,
    fanout: u32,
}

impl Ring {
    fn len(&self) -> u32 {
        self.range.end - self.range.start
    }

    fn position(&self, item: u32) -> u32 {
        if item >= self.first { item - self.first } else { self.len() - (self.first - item) }
    }

    fn item(&self, position: u32) -> u32 {
        let above = self.range.end - self.first;
        if position < above { self.first + position } else { self.range.start + (position - above) }
    }

    fn parent(&self, item: u32) -> Option<u32> {
        let position = self.position(item).checked_sub(1)?;
        Some(self.item(position / self.fanout))
    }

    fn children(self, item: u32) -> impl Iterator<Item = u32> {
        let first = u64::from(self.position(item)) * u64::from(self.fanout) + 1;
        let end = (first + u64::from(self.fanout)).min(u64::from(self.len()));
        (first..end).map(move |p| self.item(u32::try_from(p).expect("below the ring's length")))
    }
}

impl<'a> Tree<'a> {
    /// The tree rooted at `root` in which each PE has at most `fanout` children on each level.
    ///
    /// # Panics
    /// If `fanout` is 0 or `root` is not a PE of the job.
    #[must_use]
    pub fn new(layout: &'a Layout, root: Pe, fanout: u32) -> Self {
        assert!(fanout > 0 && root.0 < layout.pes(), "{root} cannot be the root of a tree of fanout {fanout}");
        let root_process = layout.process_of(root);
        Self { layout, root, root_process, root_host: layout.host_of(root_process), fanout }
    }

    /// Its root.
    #[must_use]
    pub fn root(&self) -> Pe {
        self.root
    }

    fn hosts(&self) -> Ring {
        Ring { range: 0..self.layout.hosts(), first: self.root_host, fanout: self.fanout }
    }

    fn processes(&self, host: u32) -> Ring {
        let range = self.layout.processes_of(host);
        let first = if host == self.root_host { self.root_process } else { range.start };
        Ring { range, first, fanout: self.fanout }
    }

    fn pes(&self, process: u32) -> Ring {
        let range = self.layout.pes_of(process);
        let first = if process == self.root_process { self.root.0 } else { range.start };
        Ring { range, first, fanout: self.fanout }
    }

    fn host_leader(&self, host: u32) -> Pe {
        Pe(self.pes(self.processes(host).first).first)
    }

    /// The parent of `pe`; the root has none.
    #[must_use]
    pub fn parent(&self, pe: Pe) -> Option<Pe> {
        let process = self.layout.process_of(pe);
        let pes = self.pes(process);
        if let Some(parent) = pes.parent(pe.0) {
            return Some(Pe(parent));
        }
        let host = self.layout.host_of(process);
        if let Some(parent) = self.processes(host).parent(process) {
            return Some(Pe(self.pes(parent).first));
        }
        self.hosts().parent(host).map(|parent| self.host_leader(parent))
    }

    /// The children of `pe`, the farthest first: other hosts, other processes, then threads.
    pub fn children(&self, pe: Pe) -> impl Iterator<Item = Pe> + use<'a> {
        let tree = *self;
        let process = tree.layout.process_of(pe);
        let host = tree.layout.host_of(process);
        let (pes, processes) = (tree.pes(process), tree.processes(host));
        let leads_process = pes.first == pe.0;
        let leads_host = leads_process && processes.first == process;
        let hosts = leads_host.then(|| tree.hosts().children(host).map(move |h| tree.host_leader(h)));
        let processes = leads_process.then(|| processes.children(process).map(move |p| Pe(tree.pes(p).first)));
        let threads = pes.children(pe.0).map(Pe);
        hosts.into_iter().flatten().chain(processes.into_iter().flatten()).chain(threads)
    }

    /// The PEs between `pe` and the root, nearest first, without `pe` itself.
    pub fn ancestors(&self, pe: Pe) -> impl Iterator<Item = Pe> + use<'a> {
        let tree = *self;
        iter::successors(tree.parent(pe), move |&pe| tree.parent(pe))
    }
}

#[cfg(test)]
mod tests {
    use charm4rs_transport::Reach;
    use proptest::prelude::*;

    use super::*;

    fn children(layout: &Layout, root: u32, fanout: u32, of: u32) -> Vec<u32> {
        Tree::new(layout, Pe(root), fanout).children(Pe(of)).map(|pe| pe.0).collect()
    }

    #[test]
    fn leaders_of_hosts_come_before_leaders_of_processes_and_those_before_threads() {
        // Hosts: PEs 0-3 (processes 0-1, 2-3), 4-7, 8-11.
        let layout = Layout::new(&[2; 6], &[2; 3]);
        assert_eq!(children(&layout, 0, 2, 0), [4, 8, 2, 1]);
        assert_eq!(children(&layout, 0, 2, 4), [6, 5]);
        assert_eq!(children(&layout, 0, 1, 0), [4, 2, 1]);
        assert_eq!(children(&layout, 7, 2, 7), [8, 0, 4, 6]);
        assert_eq!(children(&layout, 7, 2, 5), []);
    }

    fn job() -> impl Strategy<Value = (Layout, u32, u32)> {
        let hosts = prop::collection::vec(prop::collection::vec(1u32..6, 1..5), 1..7);
        (hosts, any::<u32>(), 1u32..9).prop_map(|(hosts, root, fanout)| {
            let pes: Vec<u32> = hosts.iter().flatten().copied().collect();
            let processes: Vec<u32> = hosts.iter().map(|h| u32::try_from(h.len()).unwrap()).collect();
            let layout = Layout::new(&pes, &processes);
            let root = root % layout.pes();
            (layout, root, fanout)
        })
    }

    proptest! {
        #[test]
        fn it_is_a_tree_that_covers_all_pes((layout, root, fanout) in job()) {
            let tree = Tree::new(&layout, Pe(root), fanout);
            let mut seen = vec![false; layout.pes() as usize];
            let mut todo = vec![Pe(root)];
            prop_assert_eq!(tree.parent(Pe(root)), None);
            while let Some(pe) = todo.pop() {
                prop_assert!(!std::mem::replace(&mut seen[pe.index()], true), "{} is reached twice", pe);
                for child in tree.children(pe) {
                    prop_assert_eq!(tree.parent(child), Some(pe));
                    todo.push(child);
                }
                prop_assert!(tree.children(pe).count() <= 3 * fanout as usize);
            }
            prop_assert!(seen.iter().all(|&s| s));
        }

        #[test]
        fn it_enters_each_host_and_each_process_once((layout, root, fanout) in job()) {
            let tree = Tree::new(&layout, Pe(root), fanout);
            let into = |reach| {
                let crossings = (0..layout.pes()).map(Pe).filter_map(|pe| Some(layout.reach(tree.parent(pe)?, pe)));
                u32::try_from(crossings.filter(|&r| r == reach).count()).unwrap()
            };
            prop_assert_eq!(into(Reach::Network), layout.hosts() - 1);
            prop_assert_eq!(into(Reach::Host), layout.processes() - layout.hosts());
        }

        #[test]
        fn every_pe_is_near_the_root((layout, root, fanout) in job()) {
            let tree = Tree::new(&layout, Pe(root), fanout.max(2));
            let bits = |n: u32| (n + 1).next_power_of_two().trailing_zeros();
            let depth = bits(layout.hosts()) + bits(layout.processes()) + bits(layout.pes());
            for pe in 0..layout.pes() {
                prop_assert!(tree.ancestors(Pe(pe)).count() <= depth as usize);
            }
        }
    }
}
