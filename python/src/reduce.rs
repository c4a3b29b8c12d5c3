//! Reductions of Python values: the engine's tree, the package's reducers.

use charm4rs::reduce::{Reducer, Sink};
use charm4rs::{Collection, Pe, This};
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt};
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::element::{Element, Outcome};
use crate::engine::{self, engine};
use crate::future::{self, FutureName, future_name};
use crate::packed::Part;
use crate::proxy::{Method, MethodName};

/// Whoever gets a result.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) enum Callback {
    Nobody,
    Future(FutureName),
    Method(MethodName),
}

impl Callback {
    pub(crate) fn of(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        if value.is_none() {
            Ok(Self::Nobody)
        } else if let Some(name) = future_name(value)? {
            Ok(Self::Future(name))
        } else if let Ok(method) = value.cast_exact::<Method>() {
            Ok(Self::Method(*method.get().name()))
        } else {
            Err(PyTypeError::new_err(format!("a callback is a future or a method of a proxy, not {value}")))
        }
    }

    /// The PE at which the result is given.
    fn pe(&self) -> Pe {
        match self {
            Self::Future(name) => Pe(name.pe),
            _ => Pe(0),
        }
    }
}

/// What an element contributes, and what comes of contributions.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Reduced {
    callback: Callback,
    reducer: u32,
    part: Part,
}

/// The package's reducer of this number.
#[derive(Clone, Copy, Debug)]
struct Numbered(u32);

/// A barrier: there are no parts to merge.
const NOTHING: u32 = 0;
// The first of the package's reducers, as `reduction.py` numbers them.
const SUM: u32 = 1;
const PRODUCT: u32 = 2;
const MIN: u32 = 3;
const MAX: u32 = 4;
/// Reducers up to this one give their last value as it is.
const LAST_PLAIN: u32 = 7;

/// Merges two numbers as the package does, without it; `None`: they are no numbers, or it is another reducer.
fn merge_numbers<'py>(
    reducer: u32,
    a: &Bound<'py, PyAny>,
    b: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let is_number =
        |value: &Bound<'py, PyAny>| value.is_exact_instance_of::<PyInt>() || value.is_exact_instance_of::<PyFloat>();
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
                let merge = engine()?.hooks(py)?.getattr(py, intern!(py, "merge"))?;
                merge.call1(py, (reducer, a, b))
            });
            merged.unwrap_or_else(|error| {
                engine::fatal(py, &error, "a reducer");
                py.None()
            })
        });
        Reduced { callback, reducer, part: Part::Object(part) }
    }

    fn finish(&self, partial: Reduced, _: u64) -> Reduced {
        partial
    }
}

/// Packs a part at once: the caller may change what he gave.
fn packed(data: &Bound<'_, PyAny>) -> PyResult<Part> {
    codec::encode(data).map(Part::Packed).map_err(|error| engine::refused(data.py(), "the data", error))
}

/// Adds an element's part to the next reduction of its collection, or of a section.
pub(crate) fn contribute(
    this: &This<Element>,
    over: Collection<Element>,
    data: &Bound<'_, PyAny>,
    reducer: u32,
    callback: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let callback = Callback::of(callback)?;
    let sink: Sink<Reduced> = engine()?.agents().on(callback.pe()).reduced_sink();
    let part = packed(data)?;
    this.contribute_in(&over, Reduced { callback, reducer, part }, Numbered(reducer), sink);
    Ok(())
}

/// The same, where every contributor's own future gets the result.
pub(crate) fn allreduce(
    this: &This<Element>,
    over: Collection<Element>,
    data: &Bound<'_, PyAny>,
    reducer: u32,
    future: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (engine, to) = (engine()?, Callback::of(future)?);
    let part = packed(data)?;
    let result = this.allreduce_in(&over, Reduced { callback: Callback::Nobody, reducer, part }, Numbered(reducer));
    engine.job.spawn(async move {
        let result = Reduced { callback: to, ..result.await };
        Python::attach(|py| {
            if let Err(error) = result.give(py) {
                engine::fatal(py, &error, "allreduce");
            }
        });
    });
    Ok(())
}

impl Reduced {
    /// Gives the result to whom it is for.
    pub(crate) fn give(self, py: Python<'_>) -> PyResult<()> {
        let Self { callback, reducer, part } = self;
        let engine = engine()?;
        let result = match reducer {
            NOTHING => None,
            SUM..=LAST_PLAIN => Some(part.object(py)?.unbind()),
            _ => {
                let finish = engine.hooks(py)?.getattr(py, intern!(py, "finish"))?;
                Some(finish.call1(py, (reducer, part.object(py)?))?)
            }
        };
        match callback {
            Callback::Nobody => {}
            Callback::Future(name) => {
                let value = result.map(|result| result.into_bound(py));
                future::fulfil(engine, name, Outcome::of(value.as_ref())?);
            }
            Callback::Method(method) => {
                let args = match result {
                    Some(result) => (result,).into_pyobject(py)?,
                    None => pyo3::types::PyTuple::empty(py),
                };
                method.call_back(codec::encode(args.as_any())?);
            }
        }
        Ok(())
    }
}
