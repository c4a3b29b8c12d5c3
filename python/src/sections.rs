//! Creation of sections, from indices that the package knows now or later.

use std::sync::{Mutex, PoisonError};

use charm4rs::{Collection, Promise};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::element::Element;
use crate::index::{Index, Shape};
use crate::insertion::close_again;
use crate::proxy::{Proxy, Target, element_at};
use crate::state::engine;

fn of<'a>(proxy: &'a Bound<'_, Proxy>) -> PyResult<(&'a Proxy, Collection<Element>, Shape)> {
    match proxy.get().name().target {
        Target::All(_, Shape::Single) | Target::One(..) => Err(PyValueError::new_err("one chare has no sections")),
        Target::All(collection, shape) => {
            close_again(collection);
            Ok((proxy.get(), collection, shape))
        }
    }
}

/// The indices of elements, checked.
fn indices(collection: Collection<Element>, shape: Shape, indices: &[Bound<'_, PyAny>]) -> PyResult<Vec<Index>> {
    indices.iter().map(|index| Ok(element_at(collection, shape, index)?.index())).collect()
}

/// The extent of a bounded array whose bounds this PE knows, or the number of PEs for a group.
#[pyfunction]
pub(crate) fn extent<'py>(proxy: &Bound<'py, Proxy>) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let (_, collection, shape) = of(proxy)?;
    let extent = match shape {
        Shape::Group => Some(Index::one(i32::try_from(engine()?.job.pes()).expect("a job has fewer than 2^31 PEs"))),
        _ => collection.extent(),
    };
    extent.map(|extent| PyTuple::new(proxy.py(), extent.as_slice())).transpose()
}

/// Creates a section of these elements.
#[pyfunction]
pub(crate) fn section(proxy: &Bound<'_, Proxy>, elements: Vec<Bound<'_, PyAny>>) -> PyResult<Proxy> {
    let (whole, collection, shape) = of(proxy)?;
    let section = collection.section(indices(collection, shape, &elements)?);
    Ok(Proxy::of(whole.name().class, Target::All(section, shape)))
}

/// Creates a section whose elements are not known yet; also returns a function to call with their indices.
#[pyfunction]
pub(crate) fn section_later(proxy: &Bound<'_, Proxy>) -> PyResult<(Proxy, Fill)> {
    let (whole, collection, shape) = of(proxy)?;
    let (promise, elements) = engine()?.job.promise::<Vec<Index>>();
    let section = collection.section_of(elements);
    let fill = Fill { collection, shape, promise: Mutex::new(Some(promise)) };
    Ok((Proxy::of(whole.name().class, Target::All(section, shape)), fill))
}

/// Gives a section its elements, once.
#[pyclass(frozen, module = "charm4py._engine")]
pub(crate) struct Fill {
    collection: Collection<Element>,
    shape: Shape,
    promise: Mutex<Option<Promise<Vec<Index>>>>,
}

#[pymethods]
impl Fill {
    fn __call__(&self, elements: Vec<Bound<'_, PyAny>>) -> PyResult<()> {
        let indices = indices(self.collection, self.shape, &elements)?;
        let promise = self.promise.lock().unwrap_or_else(PoisonError::into_inner).take();
        let promise = promise.ok_or_else(|| PyRuntimeError::new_err("the section has its elements"))?;
        promise.send(indices);
        Ok(())
    }
}
