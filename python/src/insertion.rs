//! Insertion of elements into arrays: `ckInsert` and `ckDoneInserting`.
//!
//! A charm4py program may insert elements into a closed array without closing it again, and reductions must count them. So this PE
//! closes the array again after the method that inserts, or before it calls all elements.

use std::cell::RefCell;

use charm4rs::{Collection, NoInsertion};
use hashbrown::HashSet;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::arguments::init_args;
use crate::element::{Element, Init};
use crate::index::{Index, Shape};
use crate::proxy::{Proxy, Target};
use crate::state::{charm4py_error, engine};

thread_local! {
    /// Arrays into which this PE has inserted elements since they were closed.
    static OPENED: RefCell<HashSet<Collection<Element>>> = RefCell::default();
}

/// Inserts an element.
pub(crate) fn insert(
    proxy: &Bound<'_, Proxy>,
    index: &Bound<'_, PyAny>,
    args: Option<&Bound<'_, PyAny>>,
    pe: i64,
) -> PyResult<()> {
    let engine = engine()?;
    let name = proxy.get().name();
    let Target::All(collection, Shape::Array) = name.target else {
        return Err(PyValueError::new_err("only arrays without bounds are filled by ckInsert"));
    };
    if let Err(reason) = collection.may_insert() {
        return Err(charm4py_error(proxy.py(), &not_filled(proxy, "ckInsert", reason)?)?);
    }
    let args = match args {
        Some(args) => args.try_iter()?.collect::<PyResult<Vec<_>>>()?,
        None => Vec::new(),
    };
    let args = init_args(name.class, PyTuple::new(proxy.py(), args)?.as_any())?;
    let init = Init { class: name.class, shape: Shape::Array, args };
    let index = Index::from_python(index)?;
    if pe < 0 {
        collection.insert(index, init);
    } else {
        collection.insert_on(engine.checked_pe(pe)?, index, init);
    }
    if collection.is_closed() && OPENED.with_borrow_mut(|opened| opened.insert(collection)) {
        engine.job.spawn(async move { close_again(collection) });
    }
    Ok(())
}

/// The error text for an array that takes no insertions.
#[cold]
fn not_filled(proxy: &Bound<'_, Proxy>, method: &str, reason: NoInsertion) -> PyResult<String> {
    Ok(format!("{}.{method}(): {reason}", proxy.repr()?))
}

/// Closes an array, for the first time or again.
pub(crate) fn done_inserting(proxy: &Bound<'_, Proxy>) -> PyResult<()> {
    let engine = engine()?;
    let collection = proxy.get().collection_of();
    if let Err(reason) = collection.may_insert() {
        return Err(charm4py_error(proxy.py(), &not_filled(proxy, "ckDoneInserting", reason)?)?);
    }
    gone(collection);
    engine.job.spawn(collection.done_inserting());
    Ok(())
}

/// Closes an array again if elements were inserted. To be called before a call of all elements.
#[inline]
pub(crate) fn close_again(collection: Collection<Element>) {
    if OPENED.with_borrow_mut(|opened| !opened.is_empty() && opened.remove(&collection))
        && let Ok(engine) = engine()
    {
        let closed = collection.done_inserting().checked();
        // It fails only if the array has been destroyed, which is no error here.
        engine.job.spawn(async move { drop(closed.await) });
    }
}

/// An array has been destroyed, or is closed.
pub(crate) fn gone(collection: Collection<Element>) {
    OPENED.with_borrow_mut(|opened| opened.remove(&collection));
}
