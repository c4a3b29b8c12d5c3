//! The objects of groups on this PE: for `ckLocalBranch`, and for maps.

use std::cell::RefCell;

use charm4rs::CollectionId;
use hashbrown::HashMap;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

type Objects = HashMap<CollectionId, Py<PyAny>>;

thread_local! {
    static BRANCHES: RefCell<Objects> = RefCell::default();
    /// Objects of maps that were asked before their group had reached this PE.
    static EARLY: RefCell<Objects> = RefCell::default();
}

/// Keeps a group's object.
pub(crate) fn keep(group: CollectionId, object: &Bound<'_, PyAny>) {
    BRANCHES.with_borrow_mut(|branches| branches.insert(group, object.clone().unbind()));
}

/// Keeps the object of a map whose group has not reached this PE yet.
pub(crate) fn keep_early(group: CollectionId, object: &Bound<'_, PyAny>) {
    EARLY.with_borrow_mut(|early| early.insert(group, object.clone().unbind()));
    keep(group, object);
}

/// Takes an object that was made before its group had reached this PE.
pub(crate) fn take_early(group: CollectionId) -> Option<Py<PyAny>> {
    EARLY.with_borrow_mut(|early| early.remove(&group))
}

/// The object of a group on this PE.
pub(crate) fn get(py: Python<'_>, group: CollectionId) -> PyResult<Bound<'_, PyAny>> {
    let object = BRANCHES.with_borrow(|branches| branches.get(&group).map(|object| object.bind(py).clone()));
    object.ok_or_else(|| PyValueError::new_err("the group has no element on this PE, or not yet"))
}

/// A collection has been destroyed.
pub(crate) fn gone(group: CollectionId) {
    let objects = [&BRANCHES, &EARLY].map(|objects| objects.with_borrow_mut(|objects| objects.remove(&group)));
    drop(objects); // outside the borrows: Python's destructors run
}

/// Drops all objects: the job is over.
pub(crate) fn clear() {
    drop([BRANCHES.take(), EARLY.take()]);
}
