//! What collections lack in a deadlock: contributions of elements to a reduction, any elements, the end of insertions. Computed on request; knows
//! nothing of how a deadlock is detected.
//!
//! Each element counts its contributions, so the least of the counts is the number of the first incomplete reduction, and the elements with that
//! count are those that it lacks, if others have a greater count.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Rt;
use super::collection::Common;

/// The number of elements that are named.
const NAMED: usize = 4;

/// The number of collections that a PE reports.
const TOLD: usize = 64;

/// A collection, as seen by one PE or several.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Collected {
    chare: String,
    is_section: bool,
    elements: u64,
    /// The least and the greatest number of contributions of an element.
    least: u64,
    most: u64,
    /// The number of elements with the least contributions, and some of them.
    lacking: u64,
    named: Vec<String>,
    /// The number of elements that have contributed and were inserted after the array was closed, and one of them.
    newcomers: u64,
    newcomer: Option<String>,
    /// It is a sparse array that has not been closed.
    is_open: bool,
    /// Calls that wait for the array to be closed, and one element that they are for.
    calls: u64,
    called: Option<String>,
}

/// All collections that lack something, by identifier.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Lacking(BTreeMap<u64, Collected>);

impl Collected {
    pub(super) fn new(chare: &str, is_section: bool, is_open: bool) -> Self {
        Self { chare: chare.to_owned(), is_section, is_open, ..Self::default() }
    }

    /// An element has contributed this many times.
    pub(super) fn element(&mut self, contributed: u64, index: impl Fn() -> String) {
        let one = Self { elements: 1, least: contributed, most: contributed, lacking: 1, ..Self::default() };
        let is_named = self.elements == 0 || contributed < self.least || self.named.len() < NAMED;
        let named = if is_named { vec![index()] } else { Vec::new() };
        self.add(Self { named, ..one });
    }

    /// An element that was inserted after the array was closed has contributed.
    fn newcomer(&mut self, index: String) {
        self.add(Self { newcomers: 1, newcomer: Some(index), ..Self::default() });
    }

    /// Calls wait for an element.
    pub(super) fn calls(&mut self, calls: u64, index: Option<String>) {
        self.add(Self { calls, called: index, ..Self::default() });
    }

    /// The parts of a collection that do not exist, or do not yet take part.
    pub(super) fn absent(&mut self, of: &Common, text: &dyn Fn(&[u8]) -> String) {
        of.inserted.newcomers.waiting().into_iter().for_each(|index| self.newcomer(index));
        for (index, calls) in of.absent.counts() {
            self.calls(calls as u64, Some(text(&index)));
        }
    }

    /// The greatest number of contributions of an element that takes part in reductions.
    pub(super) fn most(&self) -> u64 {
        self.most
    }

    fn add(&mut self, other: Self) {
        if other.elements > 0 && (self.elements == 0 || other.least < self.least) {
            (self.least, self.lacking, self.named) = (other.least, other.lacking, other.named);
        } else if other.elements > 0 && other.least == self.least {
            self.lacking = self.lacking.saturating_add(other.lacking);
            let room = NAMED.saturating_sub(self.named.len());
            self.named.extend(other.named.into_iter().take(room));
        }
        self.most = self.most.max(other.most);
        self.elements = self.elements.saturating_add(other.elements);
        self.newcomers = self.newcomers.saturating_add(other.newcomers);
        self.newcomer = self.newcomer.take().or(other.newcomer);
        self.is_open |= other.is_open;
        self.calls = self.calls.saturating_add(other.calls);
        self.called = self.called.take().or(other.called);
    }
}

impl fmt::Display for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chare, calls, least, lacking, named, .. } = self;
        let of = if self.is_section { "a section of " } else { "" };
        if self.is_open && *calls > 0 {
            let first =
                self.called.as_ref().map(|index| format!(", one of them for {chare}[{index}],")).unwrap_or_default();
            return write!(
                f,
                "calls of {chare} wait ({calls}){first} until the array is closed: `done_inserting` has not completed"
            );
        }
        if let Some(index) = &self.newcomer {
            let others = match self.newcomers {
                1 => String::new(),
                several => format!(" and {} others", several - 1),
            };
            return write!(
                f,
                "{of}{chare}[{index}]{others} contributed and waits: it was inserted after the array had been closed, and takes part when `done_inserting` is called again"
            );
        }
        if self.elements == 0 {
            return write!(f, "{of}{chare} has no elements: its reductions have no contributors");
        }
        let named: Vec<String> = named.iter().map(|index| format!("{chare}[{index}]")).collect();
        write!(f, "reduction {} of {of}{chare} lacks {}", least + 1, named.join(", "))?;
        match lacking.saturating_sub(named.len() as u64) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl Lacking {
    /// What collections lack on this PE.
    pub(crate) fn of(rt: Rt) -> Self {
        let mut all = Self::default();
        let collections: Vec<_> = rt.collections.borrow().values().copied().collect();
        for members in collections {
            if let Some(mut collected) = members.collected(rt) {
                // Calls of all elements wait in the runtime's own table.
                let held = rt.early.borrow().get(&members.common().id()).map_or(0, Vec::len);
                collected.calls(held as u64, None);
                all.0.insert(members.common().id().0, collected);
            }
        }
        while all.0.len() > TOLD {
            all.0.pop_last();
        }
        all
    }

    pub(crate) fn add(&mut self, other: Self) {
        for (id, collected) in other.0 {
            if let Some(known) = self.0.get_mut(&id) {
                known.add(collected);
            } else if self.0.len() < TOLD {
                self.0.insert(id, collected);
            }
        }
    }

    /// What is lacking, one line each, once all PEs have been added.
    pub(crate) fn lines(&self) -> Vec<String> {
        let lacks = |of: &&Collected| {
            (of.is_open && of.calls > 0)
                || of.newcomers > 0
                || (!of.is_open && of.elements == 0)
                || (of.elements > 0 && of.least < of.most)
        };
        self.0.values().filter(lacks).map(ToString::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_that_have_contributed_least_are_named_in_any_order_of_pes() {
        let pe = |contributed: &[(u32, u64)]| {
            let mut collected = Collected::new("W", false, false);
            contributed.iter().for_each(|&(index, times)| collected.element(times, || index.to_string()));
            Lacking(BTreeMap::from([(7, collected)]))
        };
        let pes =
            [pe(&[(0, 2), (1, 2)]), pe(&[(2, 1), (3, 2)]), pe(&[]), pe(&[(4, 1), (5, 1), (6, 1), (7, 1), (8, 1)])];
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
            let mut all = Lacking::default();
            order.into_iter().for_each(|at| all.add(pes[at].clone()));
            let [line] = &all.lines()[..] else { panic!("{all:?}") };
            assert!(line.starts_with("reduction 2 of W lacks W["), "{line}");
            assert_eq!(line.matches("W[").count(), 4, "{line}");
            assert!(line.ends_with(" and 2 more"), "{line}");
        }
        assert!(pe(&[(0, 3), (1, 3)]).lines().is_empty(), "nothing lacks");
    }
}
