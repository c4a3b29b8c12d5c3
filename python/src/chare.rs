//! The base of the package's class `Chare`: an object that knows its element.

use std::cell::RefCell;

use charm4rs::{Collection, GroupIndex};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::array_map;
use crate::branches;
use crate::classes::{self, Class};
use crate::codec;
use crate::element::{Element, Handle, Init};
use crate::future;
use crate::handles;
use crate::index::{Index, Shape};
use crate::packed::Packed;
use crate::proxy::{Proxy, Target};
use crate::reduce::{self, Callback, Given};
use crate::state::engine;

thread_local! {
    /// The identity of the next object that this thread creates.
    static BEGUN: RefCell<Option<(Is, Option<Handle>)>> = const { RefCell::new(None) };
}

/// The identity of an object.
enum Is {
    /// An element of a collection.
    Element(Begun),
    /// A chare of a unit test, outside of any job: an object of the package (`charm4py/unit.py`) takes the place of the job.
    Unit(Py<PyAny>),
}

/// What `__new__` needs to know of a new element.
#[derive(Clone, Copy)]
struct Begun {
    collection: Collection<Element>,
    index: Index,
    class: u32,
    shape: Shape,
}

/// See the module's text.
#[pyclass(subclass, module = "charm4py._engine")]
pub(crate) struct ChareBase {
    is: Is,
    /// The key of its element in `handles.rs`. A map that was asked early has no element yet.
    key: u64,
    /// Something waits for a condition on this object.
    #[pyo3(get, set, name = "__charm_watched__")]
    watched: bool,
}

/// Creates the object of an element. Its attributes exist before its `__init__` runs.
pub(crate) fn construct<'py>(
    py: Python<'py>,
    class: &'static Class,
    handle: Handle,
    init: Init,
) -> PyResult<Bound<'py, PyAny>> {
    if let Some(early) = branches::take_early(handle.collection().id()) {
        let early = early.into_bound(py);
        handles::keep(early.cast::<ChareBase>()?.borrow().key, handle);
        return Ok(early);
    }
    let is = Begun { collection: handle.collection(), index: handle.index(), class: init.class, shape: init.shape };
    let object = begin(py, class, is, Some(handle), init.args)?;
    if init.shape.is_group() {
        branches::keep(is.collection.id(), &object);
    }
    Ok(object)
}

/// Creates the object of a group's element before the group has reached this PE. The element takes it later.
pub(crate) fn construct_early<'py>(
    py: Python<'py>,
    collection: Collection<Element>,
    init: Init,
) -> PyResult<Bound<'py, PyAny>> {
    let engine = engine()?;
    let class = classes::class(init.class).ok_or_else(|| PyRuntimeError::new_err("a map whose class is not here"))?;
    let is = Begun { collection, index: GroupIndex::of(engine.job.pe()), class: init.class, shape: init.shape };
    let object = begin(py, class, is, None, init.args)?;
    branches::keep_early(collection.id(), &object);
    Ok(object)
}

fn begin<'py>(
    py: Python<'py>,
    class: &'static Class,
    is: Begun,
    handle: Option<Handle>,
    args: Packed,
) -> PyResult<Bound<'py, PyAny>> {
    let args = codec::decode(py, args)?.cast_into::<PyTuple>()?;
    let outer = BEGUN.replace(Some((Is::Element(is), handle)));
    let object = make(py, class, &args);
    BEGUN.set(outer);
    object
}

/// Calls the class as `type` does: a metaclass of the program may do something else.
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
    /// Its key, unique on this PE.
    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    /// The object that takes the place of the job, for a chare of a unit test.
    fn unit<'py>(&self, py: Python<'py>) -> Option<&Bound<'py, PyAny>> {
        match &self.is {
            Is::Element(_) => None,
            Is::Unit(unit) => Some(unit.bind(py)),
        }
    }

    /// The contributing element, and the collection that is reduced over; `None` for parts of several collections.
    fn contributor(&self, section: Option<&Bound<'_, PyAny>>) -> PyResult<Option<(Handle, Collection<Element>)>> {
        let Is::Element(is) = &self.is else { return Ok(None) };
        let over = match section.map(|section| section.cast_exact::<Proxy>()) {
            None => is.collection,
            Some(Ok(section)) => section.get().collection_of(),
            Some(Err(_)) => return Ok(None),
        };
        if over.whole() != is.collection {
            return Err(PyValueError::new_err("the section is not one of this chare's collection"));
        }
        Ok(Some((self.handle()?, over)))
    }

    pub(crate) fn handle(&self) -> PyResult<Handle> {
        handles::get(self.key)
            .ok_or_else(|| PyRuntimeError::new_err("the map is asked before it is a part of its group"))
    }
}

impl Drop for ChareBase {
    fn drop(&mut self) {
        handles::forget(self.key);
    }
}

#[pymethods]
impl ChareBase {
    #[new]
    #[classmethod]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(
        class: &Bound<'_, PyType>,
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        match BEGUN.take() {
            Some((is, handle)) => {
                let key = handles::new();
                handle.into_iter().for_each(|handle| handles::keep(key, handle));
                Ok(Self { is, key, watched: false })
            }
            None => {
                let name = class.name()?;
                let how = "chares are made by Chare(), Group() and Array(), not by calling";
                Err(PyTypeError::new_err(format!("{how} {name} (in a unit test: charm4py.testing.unit({name}))")))
            }
        }
    }

    /// The chare's index: an int in groups, a tuple in arrays.
    #[getter]
    #[pyo3(name = "thisIndex")]
    fn this_index<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match &self.is {
            Is::Element(is) => is.index.to_python(py, is.shape),
            Is::Unit(unit) => unit.bind(py).getattr("thisIndex"),
        }
    }

    /// The proxy of the chare's collection, or of the chare itself if it is a single one.
    #[getter]
    #[pyo3(name = "thisProxy")]
    fn this_proxy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let Begun { collection, index, class, shape } = match &self.is {
            Is::Element(is) => *is,
            Is::Unit(unit) => return unit.bind(py).getattr("thisProxy"),
        };
        let target = match shape {
            Shape::Single => Target::One(collection.at(index), shape),
            shape => Target::All(collection, shape),
        };
        Ok(Bound::new(py, Proxy::of(class, target))?.into_any())
    }

    /// Contributes `data` to the next reduction of the collection, or of `section`. `callback` gets the result: a future, or a method
    /// of a proxy.
    #[pyo3(signature = (callback = None, data = None, reducer = None, section = None))]
    fn reduce(
        slf: &Bound<'_, Self>,
        callback: Option<&Bound<'_, PyAny>>,
        data: Option<&Bound<'_, PyAny>>,
        reducer: Option<&Bound<'_, PyAny>>,
        section: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        if let Some(unit) = slf.borrow().unit(slf.py()) {
            return unit.call_method1("reduce", (callback, data, reducer, section)).map(drop);
        }
        let contributor = slf.borrow().contributor(section)?;
        let target = callback.map_or(Ok(Callback::None), Callback::of);
        let ((handle, over), target) = match (contributor, target) {
            (Some(contributor), Ok(target)) => (contributor, target),
            _ => return reduce::over_several(slf, callback, data, reducer, section, false),
        };
        reduce::contribute(&handle, over, Given::of(slf, data, reducer)?, target)
    }

    /// Does the same as `reduce`, with its arguments in another order.
    #[pyo3(signature = (data, reducer, callback, section = None))]
    fn contribute(
        slf: &Bound<'_, Self>,
        data: Option<&Bound<'_, PyAny>>,
        reducer: Option<&Bound<'_, PyAny>>,
        callback: Option<&Bound<'_, PyAny>>,
        section: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        Self::reduce(slf, callback, data, reducer, section)
    }

    /// Contributes `data` to the next reduction of the collection, or of `section`, and returns a future. Every contributor gets the result.
    #[pyo3(signature = (data = None, reducer = None, section = None))]
    fn allreduce<'py>(
        slf: &Bound<'py, Self>,
        data: Option<&Bound<'py, PyAny>>,
        reducer: Option<&Bound<'py, PyAny>>,
        section: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(unit) = slf.borrow().unit(slf.py()) {
            return unit.call_method1("allreduce", (data, reducer, section));
        }
        let Some((handle, over)) = slf.borrow().contributor(section)? else {
            let (future, _) = future::new_named(slf.py())?;
            reduce::over_several(slf, Some(&future), data, reducer, section, true)?;
            return Ok(future);
        };
        reduce::allreduce(slf.py(), &handle, over, Given::of(slf, data, reducer)?)
    }

    /// Destroys the chare when its current method has ended.
    #[pyo3(name = "__charm_destroy__")]
    fn destroy(&self) -> PyResult<()> {
        if let Is::Element(is) = &self.is {
            array_map::left(is.collection, is.index);
            if let (Shape::Single, Some(class)) = (is.shape, classes::class(is.class)) {
                engine()?.known.has_ended(is.collection.id(), is.index, class);
            }
            self.handle()?.destroy();
        }
        Ok(())
    }
}

/// Makes the next chare of this thread one of a unit test; with `None`, an ordinary one.
#[pyfunction]
pub(crate) fn begin_unit(unit: Option<Py<PyAny>>) {
    BEGUN.set(unit.map(|unit| (Is::Unit(unit), None)));
}

/// The object that takes the place of the job, for a chare of a unit test.
#[pyfunction]
pub(crate) fn unit_of(chare: &Bound<'_, ChareBase>) -> Option<Py<PyAny>> {
    chare.borrow().unit(chare.py()).map(|unit| unit.clone().unbind())
}
