//! Collections that this PE has made: what the package notes of them, and when their chares are there.

use pyo3::prelude::*;

use crate::engine::engine;
use crate::later::called_back;
use crate::proxy::Proxy;

/// Notes something of a collection that this PE has made, until it is destroyed.
#[pyfunction]
pub(crate) fn note(proxy: &Bound<'_, Proxy>, object: Py<PyAny>) -> PyResult<()> {
    engine()?.notes.borrow_mut().insert(proxy.get().collection_of(), object);
    Ok(())
}

/// What was noted of a collection.
#[pyfunction]
pub(crate) fn noted(proxy: &Bound<'_, Proxy>) -> PyResult<Option<Py<PyAny>>> {
    let notes = engine()?.notes.borrow();
    Ok(notes.get(&proxy.get().collection_of()).map(|object| object.clone_ref(proxy.py())))
}

/// Calls `done` when all elements of a collection that this PE has made are there.
#[pyfunction]
pub(crate) fn created(proxy: &Bound<'_, Proxy>, done: Py<PyAny>) -> PyResult<()> {
    let created = proxy.get().collection_of().created();
    engine()?.job.spawn(async move {
        created.await;
        called_back(&done, "awaitCreation");
    });
    Ok(())
}
