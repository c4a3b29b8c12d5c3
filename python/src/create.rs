//! Creation of single chares, groups and arrays.

use std::cell::{Cell, OnceCell, RefCell};

use charm4rs::{Collection, Pe};
use hashbrown::HashMap;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arguments::init_args;
use crate::array_map;
use crate::element::{Element, Init};
use crate::index::{Index, Shape};
use crate::proxy::{Proxy, Target};
use crate::state::{Engine, engine};

/// The single chares that this PE has created.
#[derive(Default)]
struct Singles {
    collection: OnceCell<Collection<Element>>,
    /// How many there are on each PE.
    made: RefCell<HashMap<Pe, i32>>,
    /// How many were placed round-robin.
    turns: Cell<u32>,
}

thread_local! {
    static SINGLES: Singles = Singles::default();
}

/// Creates a group; with `pes`, on these PEs only. `is_map`: arrays ask it where to create their elements.
#[pyfunction]
#[pyo3(signature = (class, args, pes = None, is_map = false))]
pub(crate) fn group(class: u32, args: &Bound<'_, PyAny>, pes: Option<Vec<i64>>, is_map: bool) -> PyResult<Proxy> {
    let engine = engine()?;
    let args = init_args(class, args)?;
    let Some(pes) = pes else {
        let init = Init { class, shape: Shape::Group, args };
        let own = is_map.then(|| init.clone());
        let collection = Collection::from(engine.job.group::<Element>(init));
        if let Some(own) = own {
            array_map::keep_map(collection, own);
        }
        return Ok(Proxy::of(class, Target::All(collection, Shape::Group)));
    };
    let pes = pes.into_iter().map(|pe| engine.checked_pe(pe)).collect::<PyResult<Vec<_>>>()?;
    let shape = Shape::PartialGroup;
    let collection = engine.job.sparse::<Element>();
    for pe in pes {
        let index = shape.index(Index::one(i32::try_from(pe.0).expect("few PEs")));
        collection.insert_on(pe, index, Init { class, shape, args: args.clone() });
    }
    engine.job.spawn(async move { collection.done_inserting().await });
    Ok(Proxy::of(class, Target::All(collection, shape)))
}

/// Creates an array. Without an `extent` it is empty, and elements are inserted.
#[pyfunction]
#[pyo3(signature = (class, extent, args, map = None))]
pub(crate) fn array(
    class: u32,
    extent: Option<&Bound<'_, PyAny>>,
    args: &Bound<'_, PyAny>,
    map: Option<&Bound<'_, Proxy>>,
) -> PyResult<Proxy> {
    let engine = engine()?;
    let init = Init { class, shape: Shape::Array, args: init_args(class, args)? };
    let map = map.map_or(array_map::Map::Default, |map| array_map::Map::asks(map.get().collection_of()));
    let collection = match extent {
        Some(extent) => {
            let extent = Index::from_python(extent)?;
            if charm4rs::GridIndex::volume(&extent).is_none() {
                return Err(PyValueError::new_err(format!(
                    "an array cannot have the dimensions {:?}",
                    extent.as_slice()
                )));
            }
            engine.job.array_by::<Element>(map, extent, init)
        }
        None => engine.job.sparse_by::<Element>(map),
    };
    Ok(Proxy::of(class, Target::All(collection, Shape::Array)))
}

/// Creates a single chare. A negative PE means the next one, round-robin.
#[pyfunction]
#[pyo3(signature = (class, args, pe = -1))]
pub(crate) fn single(class: u32, args: &Bound<'_, PyAny>, pe: i64) -> PyResult<Proxy> {
    let engine = engine()?;
    let wanted = if pe < 0 { None } else { Some(engine.checked_pe(pe)?) };
    let args = init_args(class, args)?;
    SINGLES.with(|singles| {
        let pe = wanted.unwrap_or_else(|| singles.turn(engine));
        let collection = *singles.collection.get_or_init(|| engine.job.sparse::<Element>());
        let index = Index::single(pe, engine.job.pe(), singles.number(pe));
        collection.insert_on(pe, index, Init { class, shape: Shape::Single, args });
        Ok(Proxy::of(class, Target::One(collection.at(index), Shape::Single)))
    })
}

impl Singles {
    /// The next PE, round-robin from this one.
    fn turn(&self, engine: &Engine) -> Pe {
        let turn = self.turns.get();
        self.turns.set((turn + 1) % engine.job.pes());
        Pe((engine.job.pe().0 + turn) % engine.job.pes())
    }

    /// The number of the next single chare that this PE creates on that PE.
    fn number(&self, pe: Pe) -> i32 {
        let mut made = self.made.borrow_mut();
        let made = made.entry(pe).or_default();
        let number = *made;
        *made = number.checked_add(1).expect("a PE makes fewer than 2^31 single chares on another");
        number
    }
}
