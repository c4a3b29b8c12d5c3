//! Pickle, protocol 5, with buffers out of band.

use charm4rs::Payload;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyBytes, PyDict, PyList};

use crate::arrays;
use crate::stats;

fn function<'py>(py: Python<'py>, cell: &PyOnceLock<Py<PyAny>>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    let function = cell.get_or_try_init(py, || PyResult::Ok(py.import("pickle")?.getattr(name)?.unbind()))?;
    Ok(function.bind(py).clone())
}

/// Pickles a value. The buffers are copied into memory from which they can be sent.
pub(crate) fn dumps<'py>(value: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyBytes>, Vec<Payload<u8>>)> {
    static DUMPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = value.py();
    let buffers = PyList::empty(py);
    let options = PyDict::new(py);
    let protocol = stats::pickle_protocol();
    options.set_item(intern!(py, "protocol"), protocol)?;
    if protocol >= 5 {
        // It returns None, so pickle leaves the buffer out of the bytes.
        options.set_item(intern!(py, "buffer_callback"), buffers.getattr(intern!(py, "append"))?)?;
    }
    let bytes = function(py, &DUMPS, "dumps")?.call((value,), Some(&options))?.cast_into::<PyBytes>()?;
    let buffers = buffers.iter().map(|buffer| copied(&buffer)).collect::<PyResult<_>>()?;
    Ok((bytes, buffers))
}

/// A copy of the content of a `PickleBuffer`.
fn copied(buffer: &Bound<'_, PyAny>) -> PyResult<Payload<u8>> {
    let py = buffer.py();
    let raw = buffer.call_method0(intern!(py, "raw"))?;
    if raw.getattr(intern!(py, "nbytes"))?.extract::<usize>()? == 0 {
        return Ok(Payload::default());
    }
    copy_of(&raw)
}

/// A copy of the content of an object whose buffer is contiguous and not empty.
pub(crate) fn copy_of(object: &Bound<'_, PyAny>) -> PyResult<Payload<u8>> {
    let py = object.py();
    let array =
        py.import(intern!(py, "numpy"))?.call_method1(intern!(py, "frombuffer"), (object, intern!(py, "u1")))?;
    let array = arrays::plain(&array)?.expect("an array of bytes is plain");
    Ok(Payload::copy_of(array.bytes()))
}

/// Unpickles a value. Its buffers stay in the memory in which they arrived.
pub(crate) fn loads<'py>(py: Python<'py>, bytes: &[u8], buffers: Vec<Payload<u8>>) -> PyResult<Bound<'py, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let loads = function(py, &LOADS, "loads")?;
    let bytes = PyBytes::new(py, bytes);
    if buffers.is_empty() {
        return loads.call1((bytes,));
    }
    let buffers = buffers.into_iter().map(|memory| arrays::bytes_over(py, memory)).collect::<PyResult<Vec<_>>>()?;
    loads.call((bytes,), Some(&[("buffers", buffers)].into_py_dict(py)?))
}
