//! Packs the arguments of calls and constructors. The error of an argument that cannot be sent names it.

use pyo3::exceptions::{PyException, PyMemoryError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use serde::{Deserialize, Serialize};

use crate::classes::{self, Class, EntryMethod};
use crate::codec;
use crate::packed::Packed;
use crate::part::Part;
use crate::state;

/// The arguments of a call.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct CallArgs {
    pub(crate) args: Part,
    pub(crate) keywords: Option<Part>,
}

impl CallArgs {
    /// The bytes of arguments that travel. Arguments passed by reference count as none.
    pub(crate) fn len(&self) -> usize {
        let len = |part: &Part| if let Part::Packed(packed) = part { packed.len() } else { 0 };
        len(&self.args) + self.keywords.as_ref().map_or(0, len)
    }
}

/// The name of a method in error messages.
pub(crate) fn callee(class: &Class, method: &EntryMethod) -> String {
    format!("{}.{}", class.name, method.name)
}

/// Packs the arguments of a call.
pub(crate) fn pack(
    class: &Class,
    method: &EntryMethod,
    args: &Bound<'_, PyTuple>,
    keywords: Option<&Bound<'_, PyDict>>,
) -> PyResult<CallArgs> {
    let packed = |value: &Bound<'_, PyAny>| codec::encode(value).map(Part::Packed);
    let call = packed(args)
        .and_then(|args| Ok(CallArgs { args, keywords: keywords.map(|keywords| packed(keywords)).transpose()? }));
    call.map_err(|error| {
        refused_argument(args.py(), &callee(class, method), method.function.bind(args.py()), args, error)
    })
}

/// Packs the tuple of arguments of a new chare.
pub(crate) fn init_args(class: u32, args: &Bound<'_, PyAny>) -> PyResult<Packed> {
    codec::encode(args).map_err(|error| {
        let py = args.py();
        let Some(class) = classes::class(class) else { return error };
        let init = class.object.bind(py).getattr("__init__");
        match (init, args.cast::<PyTuple>()) {
            (Ok(init), Ok(args)) => refused_argument(py, &format!("{}.__init__", class.name), &init, args, error),
            _ => error,
        }
    })
}

/// The error for a value that cannot be sent, with its cause.
pub(crate) fn refused(py: Python<'_>, what: &str, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyException>(py) || error.is_instance_of::<PyMemoryError>(py) {
        return error;
    }
    let refusal = PyTypeError::new_err(format!("{what} cannot be sent: {error}"));
    refusal.set_cause(py, Some(error));
    refusal
}

/// The error for arguments of which one cannot be sent: it names that argument.
pub(crate) fn refused_argument(
    py: Python<'_>,
    callee: &str,
    function: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
    error: PyErr,
) -> PyErr {
    let Some((position, error)) = args.iter().enumerate().find_map(|(i, arg)| Some((i, codec::encode(&arg).err()?)))
    else {
        return refused(py, &format!("a keyword argument of {callee}"), error);
    };
    let name = state::hooks().and_then(|hooks| {
        let name = hooks.getattr(py, "parameter")?.call1(py, (function, position))?;
        name.extract::<String>(py)
    });
    let name = name.unwrap_or_else(|_| position.to_string());
    refused(py, &format!("the argument {name} of {callee}"), error)
}
