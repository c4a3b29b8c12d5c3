//! What the package's class `Chare` derives from: an object that knows its element.

use std::cell::RefCell;

use charm4rs::Collection;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::classes::Class;
use crate::codec;
use crate::element::{Element, Handle, Init};
use crate::engine::engine;
use crate::index::Shape;
use crate::proxy::{Proxy, Target};
use crate::reduce;

thread_local! {
    /// The element whose object is being made on this PE.
    static BEGUN: RefCell<Option<Begun>> = const { RefCell::new(None) };
}

/// What an object's making leaves to its `__new__`.
struct Begun {
    handle: Handle,
    class: u16,
    shape: Shape,
}

/// See the module's text.
#[pyclass(subclass, unsendable, module = "charm4py._engine")]
pub(crate) struct ChareBase {
    handle: Handle,
    class: u16,
    shape: Shape,
    /// Something waits for a condition on this object.
    #[pyo3(get, set, name = "_watched")]
    watched: bool,
}

/// Makes the object of an element: its attributes are there when its `__init__` runs.
pub(crate) fn construct<'py>(
    py: Python<'py>,
    class: &'static Class,
    handle: Handle,
    init: Init,
) -> PyResult<Bound<'py, PyAny>> {
    let args = codec::decode(py, init.args)?.cast_into::<PyTuple>()?;
    let group = handle.collection();
    let outer = BEGUN.replace(Some(Begun { handle, class: init.class, shape: init.shape }));
    let object = make(py, class, &args);
    BEGUN.set(outer);
    let object = object?;
    if init.shape.is_group() {
        engine()?.note_branch(group, &object);
    }
    Ok(object)
}

/// Calls the class as any class is called: the package's own metaclass makes something else of a call.
fn make<'py>(py: Python<'py>, class: &'static Class, args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
    static CALL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let call = CALL.get_or_try_init(py, || PyResult::Ok(py.get_type::<PyType>().getattr("__call__")?.unbind()))?;
    let mut with_class = Vec::with_capacity(args.len() + 1);
    with_class.push(class.object.bind(py).clone().into_any());
    with_class.extend(args.iter());
    call.bind(py).call1(PyTuple::new(py, with_class)?)
}

/// Whether something waits for a condition on this object.
pub(crate) fn watched(object: &Bound<'_, PyAny>) -> bool {
    object.cast::<ChareBase>().is_ok_and(|chare| chare.borrow().watched)
}

impl ChareBase {
    fn collection(&self) -> Collection<Element> {
        self.handle.collection()
    }
}

#[pymethods]
impl ChareBase {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        match BEGUN.take() {
            Some(Begun { handle, class, shape }) => Ok(Self { handle, class, shape, watched: false }),
            None => {
                Err(PyTypeError::new_err("chares are made by Chare(), Group() and Array(), not by calling their class"))
            }
        }
    }

    /// Its index: an int in groups, a tuple in arrays.
    #[getter]
    #[pyo3(name = "thisIndex")]
    fn this_index<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.handle.index().to_python(py, self.shape)
    }

    /// The proxy of its collection; of itself, if it is a single chare.
    #[getter]
    #[pyo3(name = "thisProxy")]
    fn this_proxy(&self) -> Proxy {
        let target = match self.shape {
            Shape::Single => Target::One(self.handle.proxy(), self.shape),
            shape => Target::All(self.collection(), shape),
        };
        Proxy::of(self.class, target)
    }

    /// Adds a part to the collection's next reduction. `reducer` is its number, `callback` whoever gets the result.
    fn _contribute(
        &self,
        py: Python<'_>,
        data: &Bound<'_, PyAny>,
        reducer: u32,
        callback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        reduce::contribute(py, &self.handle, self.shape, data, reducer, callback)
    }

    /// Destroys it, when its present method has ended.
    #[pyo3(name = "_destroy")]
    fn destroy(&self) {
        self.handle.destroy();
    }
}
