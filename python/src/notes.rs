//! Collections that this PE has created: the package's notes about them, and when all their chares exist.

use std::cell::RefCell;

use charm4rs::CollectionId;
use hashbrown::HashMap;
use pyo3::prelude::*;

use crate::callbacks::called_back;
use crate::proxy::Proxy;
use crate::state::engine;

thread_local! {
    static NOTES: RefCell<HashMap<CollectionId, Py<PyAny>>> = RefCell::default();
}

/// Keeps an object of the package for a collection that this PE has created, until the collection is destroyed.
#[pyfunction]
pub(crate) fn note(proxy: &Bound<'_, Proxy>, object: Py<PyAny>) {
    let before = NOTES.with_borrow_mut(|notes| notes.insert(proxy.get().collection_of().id(), object));
    drop(before); // outside the borrow: Python's destructors run
}

/// The object that was kept for a collection.
#[pyfunction]
pub(crate) fn noted(proxy: &Bound<'_, Proxy>) -> Option<Py<PyAny>> {
    let id = proxy.get().collection_of().id();
    NOTES.with_borrow(|notes| notes.get(&id).map(|object| object.clone_ref(proxy.py())))
}

/// A collection has been destroyed.
pub(crate) fn gone(id: CollectionId) {
    let note = NOTES.with_borrow_mut(|notes| notes.remove(&id));
    drop(note); // outside the borrow, as above
}

/// Drops all notes: the job is over.
pub(crate) fn clear() {
    drop(NOTES.take());
}

/// Calls `done` when all elements of a collection that this PE has created exist.
#[pyfunction]
pub(crate) fn created(proxy: &Bound<'_, Proxy>, done: Py<PyAny>) -> PyResult<()> {
    let created = proxy.get().collection_of().created();
    engine()?.job.spawn(async move {
        created.await;
        called_back(&done, "awaitCreation");
    });
    Ok(())
}
