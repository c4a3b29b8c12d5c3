//! The map of an array: on which PE an element is created. It uses blocks, a hash, the index itself, or an `ArrayMap` of the program.

use std::cell::RefCell;
use std::ops::Range;

use charm4rs::{Collection, DefaultMap, IndexMap, Pe, Places};
use hashbrown::{HashMap, HashSet};
use pyo3::prelude::*;
use serde::{Deserialize, Serialize};

use crate::branches;
use crate::chare;
use crate::element::{Element, Init};
use crate::index::{Index, Shape};
use crate::state::fatal;

/// The map of every collection of Python chares.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) enum Map {
    #[default]
    Default,
    /// A group of `ArrayMap`s, each of which is asked by its own PE. `init`: its arguments, if the PE that creates the array has created the map too.
    Python { group: Collection<Element>, init: Option<Init> },
}

thread_local! {
    /// What the maps of this PE have returned: a map is asked once for each index.
    static ANSWERS: RefCell<HashMap<Collection<Element>, HashMap<Index, Pe>>> = RefCell::default();
    /// The arguments of the maps that this PE has created. An array carries those of its map, since it may reach a PE before the map does.
    static MADE_OF: RefCell<HashMap<Collection<Element>, Init>> = RefCell::default();
    /// The elements on this PE. It is a hint: an element that has gone may still be listed.
    static HERE: RefCell<HashMap<Collection<Element>, HashSet<Index>>> = RefCell::default();
}

impl Map {
    /// The map that asks this group.
    pub(crate) fn asks(group: Collection<Element>) -> Self {
        Self::Python { group, init: MADE_OF.with_borrow(|made_of| made_of.get(&group).cloned()) }
    }
}

/// Keeps the arguments of a map that this PE has created.
pub(crate) fn keep_map(group: Collection<Element>, init: Init) {
    MADE_OF.with_borrow_mut(|made_of| made_of.insert(group, init));
}

/// Drops the arguments of maps: the job is over.
pub(crate) fn clear() {
    drop(MADE_OF.take());
}

/// An element has been made on this PE.
pub(crate) fn arrived(collection: Collection<Element>, index: Index) {
    HERE.with_borrow_mut(|here| here.entry(collection).or_default().insert(index));
}

/// An element has left this PE.
pub(crate) fn left(collection: Collection<Element>, index: Index) {
    HERE.with_borrow_mut(|here| here.get_mut(&collection).map(|here| here.remove(&index)));
}

/// A collection has been destroyed.
pub(crate) fn gone(collection: Collection<Element>) {
    HERE.with_borrow_mut(|here| here.remove(&collection));
    ANSWERS.with_borrow_mut(|known| known.remove(&collection));
    MADE_OF.with_borrow_mut(|made_of| made_of.remove(&collection));
}

/// Whether an element is on this PE, as far as is known.
pub(crate) fn is_here(collection: Collection<Element>, index: Index) -> bool {
    HERE.with_borrow(|here| here.get(&collection).is_some_and(|here| here.contains(&index)))
}

impl IndexMap<Index> for Map {
    fn pe(&self, index: &Index, places: &Places) -> Pe {
        match (index.fixed(), self) {
            (Some(pe), _) => pe,
            (None, Self::Default) => DefaultMap.pe(index, places),
            (None, Self::Python { group, init }) => {
                let known = ANSWERS.with_borrow(|known| known.get(group)?.get(index).copied());
                known.unwrap_or_else(|| {
                    let pe = Python::attach(|py| {
                        ask(py, *group, init.as_ref(), *index, places).unwrap_or_else(|error| {
                            fatal(py, &error, "procNum of an ArrayMap");
                            Pe(0)
                        })
                    });
                    ANSWERS.with_borrow_mut(|known| known.entry(*group).or_default().insert(*index, pe));
                    pe
                })
            }
        }
    }

    fn once(&self, index: &Index) -> Option<(Pe, u64)> {
        index.once()
    }

    fn block(&self, pe: Pe, pes: u32, count: u64) -> Option<Range<u64>> {
        match self {
            Self::Default => IndexMap::<Index>::block(&DefaultMap, pe, pes, count),
            Self::Python { .. } => None,
        }
    }
}

fn ask(py: Python<'_>, group: Collection<Element>, init: Option<&Init>, index: Index, places: &Places) -> PyResult<Pe> {
    let map = match (branches::get(py, group.id()), init) {
        (Err(_), Some(init)) => chare::construct_early(py, group, init.clone())?,
        (map, _) => map?,
    };
    let pe: i64 = map.call_method1("procNum", (index.to_python(py, Shape::Array)?,))?.extract()?;
    Ok(Pe(u32::try_from(pe.rem_euclid(i64::from(places.pes))).expect("below the number of PEs")))
}
