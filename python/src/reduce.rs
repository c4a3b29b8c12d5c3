//! Reductions of Python values: the engine's tree with the package's reducers.

use std::cell::Cell;

use charm4rs::prelude::*;
use charm4rs::reduce::{Reducer, Sink};
use charm4rs::{Collection, Pe, This};
use pyo3::exceptions::{PyBaseException, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt, PyString};

use crate::arguments::refused;
use crate::codec;
use crate::element::Element;
use crate::future::{self, Arrived, FutureBase, FutureName, future_name, name_of};
use crate::outcome::Outcome;
use crate::part::Part;
use crate::proxy::{Method, MethodName};
use crate::state::{Engine, engine, fatal, hooks};

thread_local! {
    /// Whether this PE has called a method with the result of a reduction.
    static RESULTS_CALL: Cell<bool> = const { Cell::new(false) };
    static INBOXES: Cell<Option<Group<ResultInbox>>> = const { Cell::new(None) };
}

/// A group that receives the results of reductions, and gives them to their callbacks.
pub(crate) struct ResultInbox;

#[chare(index = u32)]
impl ResultInbox {
    #[init]
    fn new(cx: &mut Cx<Self>) -> Self {
        INBOXES.set(cx.collection().as_group());
        Self
    }

    /// A result with its callback.
    #[entry]
    fn give(&mut self, result: Reduced) {
        Python::attach(|py| {
            if let Err(error) = result.give(py) {
                fatal(py, &error, "the callback of a reduction");
            }
        });
    }
}

fn inboxes() -> Group<ResultInbox> {
    INBOXES.get().expect("they are made before all chares of the program")
}

/// What gets the result of a reduction.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) enum Callback {
    None,
    Future(FutureName),
    Method(MethodName),
}

impl Callback {
    pub(crate) fn of(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Some(name) = future_name(value)? {
            Ok(Self::Future(name))
        } else if let Ok(method) = value.cast_exact::<Method>() {
            Ok(Self::Method(*method.get().name()))
        } else {
            Err(PyTypeError::new_err(format!("a callback is a future or a method of a proxy, not {value}")))
        }
    }

    /// The PE that gives the result to the callback.
    fn pe(&self) -> Pe {
        match self {
            Self::Future(name) => Pe(name.pe),
            _ => Pe(0),
        }
    }
}

/// A contribution, a partial result, or the result.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Reduced {
    callback: Callback,
    reducer: u32,
    part: Part,
}

/// A reducer of the package's.
#[pyclass(frozen, get_all, name = "ReducerKind", module = "charm4py._engine")]
#[derive(Debug)]
pub(crate) struct Kind {
    /// Its number, the same in all processes.
    number: u32,
    name: Py<PyString>,
    /// Merges two values.
    merge: Py<PyAny>,
    /// Converts what a chare gives into a contribution.
    pre: Option<Py<PyAny>>,
    /// Converts the last value into the result.
    post: Option<Py<PyAny>>,
}

#[pymethods]
impl Kind {
    #[new]
    #[pyo3(signature = (number, name, merge, pre = None, post = None))]
    fn new(number: u32, name: Py<PyString>, merge: Py<PyAny>, pre: Option<Py<PyAny>>, post: Option<Py<PyAny>>) -> Self {
        Self { number, name, merge, pre, post }
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("Reducer.{}", self.name.bind(py))
    }

    /// Sent as its number, since each process has an object of its own.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, (u32, String))> {
        let numbered = py.import(intern!(py, "charm4py.reduction"))?.getattr(intern!(py, "numbered"))?;
        Ok((numbered, (self.number, self.name.bind(py).to_string())))
    }
}

/// The package's reducer with this number.
#[derive(Clone, Copy, Debug)]
struct Numbered(u32);

/// A barrier: there are no parts to merge.
const NOTHING: u32 = 0;
// The first of the package's reducers, as `reduction.py` numbers them.
const SUM: u32 = 1;
const PRODUCT: u32 = 2;
const MIN: u32 = 3;
const MAX: u32 = 4;
/// Reducers up to this one merge element by element, and give their last value as it is.
const LAST_PLAIN: u32 = 7;

/// Whether a value is exactly an `int` or a `float`: no `bool`, no NumPy scalar.
fn is_number(value: &Bound<'_, PyAny>) -> bool {
    value.is_exact_instance_of::<PyInt>() || value.is_exact_instance_of::<PyFloat>()
}

/// Merges two numbers as the package does, without Python code; `None` for other values and reducers.
fn merge_numbers<'py>(
    reducer: u32,
    a: &Bound<'py, PyAny>,
    b: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    if !(is_number(a) && is_number(b)) {
        return Ok(None);
    }
    Ok(Some(match reducer {
        SUM => a.add(b)?,
        PRODUCT => a.mul(b)?,
        MIN => if b.lt(a)? { b } else { a }.clone(),
        MAX => if b.gt(a)? { b } else { a }.clone(),
        _ => return Ok(None),
    }))
}

impl Reducer<Reduced> for Numbered {
    type Partial = Reduced;
    type Output = Reduced;

    fn start(&self, value: Reduced) -> Reduced {
        value
    }

    fn merge(&self, a: Reduced, b: Reduced) -> Reduced {
        if self.0 == NOTHING {
            return a;
        }
        let Reduced { callback, reducer, part } = a;
        let part = Python::attach(|py| {
            let merged = part.object(py).and_then(|a| {
                let b = b.part.object(py)?;
                if let Some(merged) = merge_numbers(reducer, &a, &b)? {
                    return Ok(merged.unbind());
                }
                let merge = hooks()?.getattr(py, intern!(py, "merge"))?;
                merge.call1(py, (reducer, a, b))
            });
            merged.unwrap_or_else(|error| {
                fatal(py, &error, "a reducer");
                py.None()
            })
        });
        Reduced { callback, reducer, part: Part::Object(part) }
    }

    fn finish(&self, partial: Reduced, _: u64) -> Reduced {
        partial
    }
}

/// What a chare gives to a reduction: the reducer's number, and the contribution for that reducer.
pub(crate) struct Given {
    reducer: u32,
    part: Part,
}

impl Given {
    /// Packs the data at once, since the caller may change it afterwards.
    pub(crate) fn of(
        chare: &Bound<'_, PyAny>,
        data: Option<&Bound<'_, PyAny>>,
        reducer: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let py = chare.py();
        let none = py.None().into_bound(py);
        let Some(reducer) = reducer else {
            return match data {
                // charm4py's own programs pass the reducer of a barrier in place of its data.
                Some(data) if data.cast_exact::<Kind>().is_ok_and(|kind| kind.get().number == NOTHING) => {
                    Ok(Self { reducer: NOTHING, part: packed(&none)? })
                }
                Some(_) => Err(PyTypeError::new_err("data without a reducer: which one?")),
                None => Ok(Self { reducer: NOTHING, part: packed(&none)? }),
            };
        };
        let data = data.unwrap_or(&none);
        let found;
        let kind = match reducer.cast_exact::<Kind>() {
            Ok(kind) => kind.get(),
            Err(_) => {
                found = hooks()?.bind(py).call_method1(intern!(py, "reducer"), (reducer,))?.cast_into::<Kind>()?;
                found.get()
            }
        };
        let part = match &kind.pre {
            Some(pre) => packed(&pre.bind(py).call1((data, chare))?)?,
            // Numbers are immutable.
            None if (SUM..=MAX).contains(&kind.number) && is_number(data) => Part::Object(data.clone().unbind()),
            None if (SUM..=LAST_PLAIN).contains(&kind.number) => {
                let hooks = hooks()?.bind(py);
                packed(&hooks.call_method1(intern!(py, "contribution"), (kind.number, data))?)?
            }
            None => packed(data)?,
        };
        Ok(Self { reducer: kind.number, part })
    }
}

fn packed(data: &Bound<'_, PyAny>) -> PyResult<Part> {
    codec::encode(data).map(Part::Packed).map_err(|error| refused(data.py(), "the data", error))
}

/// Contributes to the next reduction of a collection or a section.
pub(crate) fn contribute(
    this: &This<Element>,
    over: Collection<Element>,
    Given { reducer, part }: Given,
    callback: Callback,
) -> PyResult<()> {
    let sink: Sink<Reduced> = inboxes().on(callback.pe()).give_sink();
    this.contribute_in(&over, Reduced { callback, reducer, part }, Numbered(reducer), sink);
    Ok(())
}

/// A reduction over parts of several collections, or with a callback of several: the package does it. `all`: every contributor has its
/// own callback.
pub(crate) fn over_several(
    chare: &Bound<'_, PyAny>,
    callback: Option<&Bound<'_, PyAny>>,
    data: Option<&Bound<'_, PyAny>>,
    reducer: Option<&Bound<'_, PyAny>>,
    section: Option<&Bound<'_, PyAny>>,
    all: bool,
) -> PyResult<()> {
    let py = chare.py();
    let args = (chare, callback, data, reducer, section, all);
    hooks()?.bind(py).call_method1(intern!(py, "reduce_over_several"), args).map(drop)
}

/// Contributes to an allreduce: every contributor gets a future of the result.
pub(crate) fn allreduce<'py>(
    py: Python<'py>,
    this: &This<Element>,
    over: Collection<Element>,
    Given { reducer, part }: Given,
) -> PyResult<Bound<'py, PyAny>> {
    let engine = engine()?;
    let future = future::new(py)?;
    let result =
        this.allreduce_from_root_in(&over, Reduced { callback: Callback::None, reducer, part }, Numbered(reducer));
    let waiting = future.clone().unbind();
    engine.job.spawn(async move {
        let result = result.await;
        Python::attach(|py| {
            if let Err(error) = result.give_to_contributor(py, engine, &waiting) {
                fatal(py, &error, "allreduce");
            }
        });
    });
    Ok(future.into_any())
}

/// A result as a future takes it.
fn arrived(py: Python<'_>, value: Option<Py<PyAny>>) -> Arrived {
    match value {
        Some(error) if error.bind(py).is_instance_of::<PyBaseException>() => Arrived::Error(error),
        Some(value) => Arrived::Value(value),
        None => Arrived::Value(py.None()),
    }
}

impl Reduced {
    /// Gives the result to its callback.
    pub(crate) fn give(self, py: Python<'_>) -> PyResult<()> {
        let callback = self.callback;
        let engine = engine()?;
        let result = self.finish(py)?;
        match callback {
            Callback::None => {}
            // A future of this PE gets the object itself: no other code has it.
            Callback::Future(name) if is_next(engine, Pe(name.pe)) => {
                future::settle_named(py, name, arrived(py, result))?;
            }
            Callback::Future(name) => {
                future::fulfil(engine, name, Outcome::of(result.map(|value| value.into_bound(py)).as_ref())?)
            }
            Callback::Method(method) => {
                let args = match result {
                    Some(result) => (result,).into_pyobject(py)?,
                    None => pyo3::types::PyTuple::empty(py),
                };
                RESULTS_CALL.set(true);
                method.call_back(codec::encode(args.as_any())?);
            }
        }
        Ok(())
    }

    /// Gives the result to the future of a contributor.
    fn give_to_contributor(self, py: Python<'_>, engine: &Engine, future: &Py<FutureBase>) -> PyResult<()> {
        if is_next(engine, engine.job.pe()) {
            let result = self.finish(py)?;
            return future::settle(py, future, arrived(py, result));
        }
        Self { callback: Callback::Future(name_of(future.bind(py))?), ..self }.give(py)
    }

    /// The result; `None` for a barrier.
    fn finish(self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        Ok(match self.reducer {
            NOTHING => None,
            SUM..=LAST_PLAIN => Some(self.part.object(py)?.unbind()),
            _ => {
                let finish = hooks()?.getattr(py, intern!(py, "finish"))?;
                Some(finish.call1(py, (self.reducer, self.part.object(py)?))?)
            }
        })
    }
}

/// Whether a future of that PE gets a result at once. Results take effect in the order of the reductions: if an earlier result has called a
/// method, the call is in the queue, and this result must queue behind it.
fn is_next(engine: &Engine, pe: Pe) -> bool {
    pe == engine.job.pe() && !RESULTS_CALL.get()
}
