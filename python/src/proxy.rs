//! Proxies and their methods: how a call is sent.

use std::hash::{Hash, Hasher};

use charm4rs::{Checked, Collection};
use charm4rs_python_form::write_number;
use pyo3::exceptions::{PyAttributeError, PyIndexError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyGenericAlias, PySlice, PyString, PyTuple, PyType};
use serde::{Deserialize, Serialize};

use crate::arguments::{CallArgs, callee, pack};
use crate::array_map;
use crate::branches;
use crate::classes::{self, Class, EntryMethod};
use crate::element::{Element, ReplyTo};
use crate::future::{self, Arrived, FutureBase, arrived, exception};
use crate::index::{Index, Shape};
use crate::insertion::close_again;
use crate::outcome::Outcome;
use crate::packed::{LARGE, Packed};
use crate::part::Part;
use crate::state::{Engine, engine, fatal, hooks, undelivered};
use crate::stats;
use crate::truth::Truth;

/// What a proxy names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(crate) enum Target {
    /// All elements of a collection.
    All(Collection<Element>, Shape),
    /// One element.
    One(charm4rs::Proxy<Element>, Shape),
}

/// A proxy as it travels.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(crate) struct ProxyName {
    pub(crate) class: u32,
    pub(crate) target: Target,
}

/// A proxy's method as it travels.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(crate) struct MethodName {
    pub(crate) proxy: ProxyName,
    pub(crate) method: u16,
}

/// Writes a name with its length before it.
fn write_name(name: &impl Serialize, bytes: &mut Vec<u8>) {
    let name = postcard::to_allocvec(name).expect("names are numbers");
    write_number(bytes, name.len() as u64);
    bytes.extend(name);
}

fn read_name<T: serde::de::DeserializeOwned>(name: &[u8]) -> PyResult<T> {
    postcard::from_bytes(name).map_err(|_| no_name())
}

fn no_name() -> PyErr {
    PyValueError::new_err("a proxy that cannot be read")
}

impl ProxyName {
    pub(crate) fn write(&self, bytes: &mut Vec<u8>) {
        write_name(self, bytes);
    }

    fn shape(&self) -> Shape {
        let (Target::All(_, shape) | Target::One(_, shape)) = self.target;
        shape
    }

    fn collection(&self) -> Collection<Element> {
        match self.target {
            Target::All(collection, _) => collection,
            Target::One(element, _) => element.collection(),
        }
    }

    /// Sends a call without an outcome, or whose element sends the outcome itself.
    fn send(&self, method: u16, args: CallArgs, reply: ReplyTo) {
        match self.target {
            Target::All(collection, _) => {
                close_again(collection);
                drop(collection.all().call(method, reply, args));
            }
            Target::One(element, _) => drop(element.call(method, reply, args)),
        }
    }
}

impl MethodName {
    pub(crate) fn write(&self, bytes: &mut Vec<u8>) {
        write_name(self, bytes);
    }

    /// Calls it with packed arguments and drops the outcome.
    pub(crate) fn call_back(&self, args: Packed) {
        self.proxy.send(self.method, CallArgs { args: Part::Packed(args), keywords: None }, ReplyTo::Nowhere);
    }
}

/// Names chares: one, or all of a collection. Its methods are their entry methods.
#[pyclass(frozen, module = "charm4py._engine")]
pub(crate) struct Proxy {
    name: ProxyName,
}

impl Proxy {
    #[cold]
    fn no_method(&self, name: &Bound<'_, PyString>) -> PyResult<String> {
        let py = name.py();
        let class = classes::class(self.name.class).ok_or_else(no_name)?;
        hooks()?.getattr(py, "no_method")?.call1(py, (&class.object, name))?.extract(py)
    }

    pub(crate) fn of(class: u32, target: Target) -> Self {
        Self { name: ProxyName { class, target } }
    }

    pub(crate) fn name(&self) -> &ProxyName {
        &self.name
    }

    pub(crate) fn collection_of(&self) -> Collection<Element> {
        self.name.collection()
    }

    pub(crate) fn read(name: &[u8]) -> PyResult<Self> {
        Ok(Self { name: read_name(name)? })
    }
}

#[pymethods]
impl Proxy {
    fn __getattribute__<'py>(slf: &Bound<'py, Self>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        let this = slf.get();
        if let Some(class) = classes::class(this.name.class)
            && let Some(method) = class.find(name)
        {
            let method = Method { name: MethodName { proxy: this.name, method } };
            return Ok(Bound::new(slf.py(), method)?.into_any());
        }
        // SAFETY: both are objects; a new reference, or null with an error set, comes back.
        unsafe {
            let found = pyo3::ffi::PyObject_GenericGetAttr(slf.as_ptr(), name.as_ptr());
            Bound::from_owned_ptr_or_opt(slf.py(), found)
        }
        .ok_or_else(|| PyErr::fetch(slf.py()))
    }

    /// Python calls this if `__getattribute__` finds nothing.
    fn __getattr__<'py>(&self, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        Err(PyAttributeError::new_err(
            self.no_method(name).unwrap_or_else(|_| format!("no entry method {name} is known")),
        ))
    }

    /// The element with this index, or the section that a slice selects.
    fn __getitem__<'py>(slf: &Bound<'py, Self>, index: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let this = slf.get();
        let (collection, shape) = match this.name.target {
            Target::All(collection, shape) => (collection, shape),
            // For the program a single chare is a collection of one.
            Target::One(_, Shape::Single) => {
                let is_own = Index::from_python(index)?.as_slice() == [0];
                let none = || PyIndexError::new_err(format!("there is no element {index} in {}", this.__repr__()));
                return if is_own { Ok(slf.clone().into_any()) } else { Err(none()) };
            }
            Target::One(element, shape) => (element.collection(), shape),
        };
        let cuts = |index: &Bound<'_, PyAny>| index.is_instance_of::<PySlice>();
        if cuts(index) || index.cast::<PyTuple>().is_ok_and(|parts| parts.iter().any(|part| cuts(&part))) {
            return hooks()?.bind(slf.py()).call_method1("cut", (slf, index));
        }
        let element = collection
            .try_at(shape.index(Index::from_python(index)?))
            .ok_or_else(|| PyIndexError::new_err(format!("there is no element {index} in {}", this.__repr__())))?;
        let proxy = Self::of(this.name.class, Target::One(element, shape));
        Ok(Bound::new(slf.py(), proxy)?.into_any())
    }

    /// `Proxy[C]`, in annotations.
    #[classmethod]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        chare: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyGenericAlias>> {
        PyGenericAlias::new(cls.py(), cls.as_any(), chare)
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast_exact::<Self>().is_ok_and(|other| other.get().name == self.name)
    }

    fn __hash__(&self) -> u64 {
        hash(&self.name)
    }

    fn __repr__(&self) -> String {
        let class = classes::class(self.name.class);
        let class = class.map_or("?", |class| &class.name);
        match self.name.target {
            Target::All(_, shape) => format!("<{} of {class}>", if shape.is_group() { "group" } else { "array" }),
            Target::One(_, Shape::Single) => format!("<{class}>"),
            Target::One(element, _) => format!("<{class}{:?}>", element.index().as_slice()),
        }
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        let bytes = postcard::to_allocvec(&slf.get().name).expect("names are numbers");
        let read = slf.py().import(intern!(slf.py(), "charm4py._engine"))?.getattr("proxy_from_bytes")?;
        Ok((read, (PyBytes::new(slf.py(), &bytes),)))
    }

    /// The names of the entry methods, and of what all proxies have. Any thread may ask, since completion does.
    fn __dir__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let names = hooks()?.bind(py).call_method1("names_of", (slf.get().name.class,))?;
        let own = py.get_type::<PyAny>().call_method1("__dir__", (slf,))?;
        own.call_method1("__add__", (names,))
    }

    /// Whether the proxy names a section, as `proxy.issec` or `proxy.issec()`. A group on some PEs counts as one.
    #[getter]
    fn issec(&self) -> Truth {
        let on_some_pes = matches!(self.name.target, Target::All(_, Shape::PartialGroup));
        Truth::new(on_some_pes || self.name.collection().is_section())
    }

    /// Inserts an element into an array without bounds, on `onPE` unless that is negative.
    #[pyo3(name = "ckInsert", signature = (index, args = None, onPE = -1))]
    #[allow(non_snake_case, reason = "the name that programs use")]
    fn insert(
        slf: &Bound<'_, Self>,
        index: &Bound<'_, PyAny>,
        args: Option<&Bound<'_, PyAny>>,
        onPE: i64,
    ) -> PyResult<()> {
        crate::insertion::insert(slf, index, args, onPE)
    }

    /// Ends the insertion of elements.
    #[pyo3(name = "ckDoneInserting")]
    fn done_inserting(slf: &Bound<'_, Self>) -> PyResult<()> {
        crate::insertion::done_inserting(slf)
    }

    /// Destroys all chares that the proxy names, on all PEs. For a section, only the section itself.
    #[pyo3(name = "ckDestroy")]
    fn destroy(&self) -> PyResult<()> {
        engine()?;
        match self.name.target {
            Target::All(collection, _) => collection.destroy(),
            Target::One(element, _) => drop(element.end()),
        }
        Ok(())
    }

    /// The group's object on this PE.
    #[pyo3(name = "ckLocalBranch")]
    fn local_branch<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        branches::get(slf.py(), slf.get().collection_of().id())
    }
}

// These are functions, since every other name of a proxy belongs to the program.

/// The index of the element that a proxy names, or `None` for a collection.
#[pyfunction]
pub(crate) fn index<'py>(proxy: &Bound<'py, Proxy>) -> PyResult<Option<Bound<'py, PyAny>>> {
    match proxy.get().name.target {
        Target::All(..) => Ok(None),
        Target::One(element, shape) => element.index().to_python(proxy.py(), shape).map(Some),
    }
}

/// Whether a proxy names a section.
#[pyfunction]
pub(crate) fn is_section(proxy: &Bound<'_, Proxy>) -> bool {
    proxy.get().name.collection().is_section()
}

/// The group or array to which a proxy's section or element belongs.
#[pyfunction]
pub(crate) fn whole(proxy: &Bound<'_, Proxy>) -> Proxy {
    let name = &proxy.get().name;
    Proxy::of(name.class, Target::All(name.collection().whole(), name.shape()))
}

/// The element with a program's index, or an error if it cannot exist.
pub(crate) fn element_at(
    collection: Collection<Element>,
    shape: Shape,
    index: &Bound<'_, PyAny>,
) -> PyResult<charm4rs::Proxy<Element>> {
    let element = collection.try_at(shape.index(Index::from_python(index)?));
    element.ok_or_else(|| PyIndexError::new_err(format!("there is no element {index}")))
}

/// Reads a pickled proxy.
#[pyfunction]
pub(crate) fn proxy_from_bytes(bytes: &[u8]) -> PyResult<Proxy> {
    Ok(Proxy { name: postcard::from_bytes(bytes).map_err(|_| no_name())? })
}

/// Reads a pickled method.
#[pyfunction]
pub(crate) fn method_from_bytes(bytes: &[u8]) -> PyResult<Method> {
    Ok(Method { name: postcard::from_bytes(bytes).map_err(|_| no_name())? })
}

fn hash(name: &impl Hash) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// An entry method of a proxy's chares. Call it, or use it as a callback.
#[pyclass(frozen, module = "charm4py._engine")]
pub(crate) struct Method {
    name: MethodName,
}

impl Method {
    pub(crate) fn name(&self) -> &MethodName {
        &self.name
    }

    pub(crate) fn read(name: &[u8]) -> PyResult<Self> {
        Ok(Self { name: read_name(name)? })
    }
}

/// What the caller waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wants {
    Nothing,
    Completion,
    Value,
}

#[pymethods]
impl Method {
    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(
        &self,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = args.py();
        let engine = engine()?;
        let class = classes::class(self.name.proxy.class).ok_or_else(no_name)?;
        let method = class.methods.get(usize::from(self.name.method)).ok_or_else(no_name)?;
        let (wants, keywords) = match kwargs {
            Some(kwargs) => {
                let wants = wants(kwargs)?;
                (wants, if kwargs.is_empty() { None } else { Some(kwargs) })
            }
            None => (Wants::Nothing, None),
        };
        let call = if keywords.is_some() || args.len() < method.args.0 || args.len() > method.args.1 {
            // The slow path: Python's own rules and error messages.
            let bound =
                hooks()?.getattr(py, "bind")?.call1(py, (callee(class, method), &method.function, args, keywords))?;
            let (args, keywords): (Bound<'py, PyTuple>, Bound<'py, PyDict>) = bound.extract(py)?;
            self.arguments(class, method, &args, Some(&keywords).filter(|keywords| !keywords.is_empty()))?
        } else {
            self.arguments(class, method, args, None)?
        };
        if stats::profiling() {
            method.stats.sent(call.len());
        }
        match (wants, self.name.proxy.target) {
            (Wants::Nothing, _) => {
                self.name.proxy.send(self.name.method, call, ReplyTo::Nowhere);
                Ok(None)
            }
            _ => self.ask(py, engine, call, wants == Wants::Value).map(Some),
        }
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast_exact::<Self>().is_ok_and(|other| other.get().name == self.name)
    }

    fn __hash__(&self) -> u64 {
        hash(&self.name)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        let bytes = postcard::to_allocvec(&slf.get().name).expect("names are numbers");
        let read = slf.py().import(intern!(slf.py(), "charm4py._engine"))?.getattr("method_from_bytes")?;
        Ok((read, (PyBytes::new(slf.py(), &bytes),)))
    }

    #[getter]
    fn __name__(&self) -> PyResult<&'static str> {
        let class = classes::class(self.name.proxy.class).ok_or_else(no_name)?;
        let method = class.methods.get(usize::from(self.name.method)).ok_or_else(no_name)?;
        Ok(&method.name)
    }

    #[getter]
    fn __qualname__(&self) -> PyResult<String> {
        let class = classes::class(self.name.proxy.class).ok_or_else(no_name)?;
        Ok(format!("{}.{}", class.name, self.__name__()?))
    }
}

impl Method {
    /// The arguments of a call. They are packed unless the program wants references and the call stays on this PE.
    fn arguments(
        &self,
        class: &Class,
        method: &EntryMethod,
        args: &Bound<'_, PyTuple>,
        keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<CallArgs> {
        if stats::by_reference()
            && let Target::One(element, _) = self.name.proxy.target
            && array_map::is_here(element.collection(), element.index())
        {
            let object = |value: &Bound<'_, PyAny>| Part::Object(value.clone().unbind());
            return Ok(CallArgs { args: object(args), keywords: keywords.map(|keywords| object(keywords)) });
        }
        pack(class, method, args, keywords)
    }
}

/// Removes `ret` and `awaitable` from a call's keywords.
fn wants(kwargs: &Bound<'_, PyDict>) -> PyResult<Wants> {
    let py = kwargs.py();
    let take = |name: &Bound<'_, PyString>| -> PyResult<bool> {
        match kwargs.get_item(name)? {
            Some(value) => {
                kwargs.del_item(name)?;
                value.is_truthy()
            }
            None => Ok(false),
        }
    };
    let value = take(intern!(py, "ret"))?;
    let completion = take(intern!(py, "awaitable"))?;
    Ok(match (value, completion) {
        (true, _) => Wants::Value,
        (_, true) => Wants::Completion,
        _ => Wants::Nothing,
    })
}

impl Method {
    /// Calls the method and returns a future: of its value, or of `None` when it has ended. For a collection the value is the list of all values, in
    /// the order of the indices.
    fn ask<'py>(&self, py: Python<'py>, engine: &Engine, call: CallArgs, value: bool) -> PyResult<Bound<'py, PyAny>> {
        let future = future::new(py)?;
        let (waiting, method) = (future.clone().unbind(), self.name.method);
        match self.name.proxy.target {
            Target::One(..) if call.len() < LARGE => {
                let (promise, outcome) = engine.job.promise();
                self.name.proxy.send(method, call, ReplyTo::Future { promise, value });
                settle_by(waiting, outcome.checked(), |py, outcome| Ok(arrived(py, outcome)));
            }
            // For a large call, the engine's own reply also says if there was no memory for it.
            Target::One(element, _) => {
                let outcome = element.ask(method, call, value).call();
                settle_by(waiting, outcome.checked(), |py, outcome| Ok(arrived(py, outcome)));
            }
            Target::All(collection, _) => {
                close_again(collection);
                let outcomes = collection.all().ask(method, call, value).call();
                settle_by(waiting, outcomes.checked(), move |py, outcomes| gathered(py, outcomes, value));
            }
        }
        Ok(future.into_any())
    }
}

/// Gives a future the engine's reply, or the engine's error.
fn settle_by<T: 'static>(
    future: Py<FutureBase>,
    reply: Checked<T>,
    read: impl FnOnce(Python<'_>, T) -> PyResult<Arrived> + 'static,
) {
    reply.then(move |reply| {
        Python::attach(|py| {
            let arrived = match reply {
                Ok(reply) => read(py, reply),
                Err(error) => undelivered(py, &error).map(|error| Arrived::Error(error.into_value(py).into_any())),
            };
            if let Err(error) = arrived.and_then(|arrived| future::settle(py, &future, arrived)) {
                fatal(py, &error, "a coroutine");
            }
        });
    });
}

/// The outcomes of all elements: a list of values in which exceptions are values too, or, if only completion counts, the first exception.
fn gathered(py: Python<'_>, outcomes: Vec<Outcome>, value: bool) -> PyResult<Arrived> {
    let mut values = Vec::with_capacity(outcomes.len());
    for outcome in outcomes {
        match arrived(py, outcome) {
            error @ (Arrived::Error(_) | Arrived::Raises(_)) if !value => return Ok(error),
            Arrived::Value(item) | Arrived::Error(item) => values.push(item),
            Arrived::Raises(packed) => values.push(exception(py, packed)),
        }
    }
    let all = if value { pyo3::types::PyList::new(py, values)?.into_any().unbind() } else { py.None() };
    Ok(Arrived::Value(all))
}
