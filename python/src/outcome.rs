//! The outcome of a call as it travels: a value or an exception.

use pyo3::prelude::*;
use serde::{Deserialize, Serialize};

use crate::arguments::refused;
use crate::codec;
use crate::packed::Packed;
use crate::state;

/// The outcome of a call.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Value(Packed),
    Error(Packed),
}

impl Outcome {
    pub(crate) fn of(value: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        match value {
            None => Ok(Self::nothing()),
            Some(value) if value.is_instance_of::<pyo3::exceptions::PyBaseException>() => {
                Ok(Self::error(value.py(), &PyErr::from_value(value.clone())))
            }
            Some(value) => {
                let packed = codec::encode(value).map_err(|error| refused(value.py(), "the value", error))?;
                Ok(Self::Value(packed))
            }
        }
    }

    pub(crate) fn nothing() -> Self {
        Self::Value(Packed { bytes: vec![0], buffers: Vec::new() })
    }

    /// How many bytes travel.
    pub(crate) fn len(&self) -> usize {
        let (Self::Value(packed) | Self::Error(packed)) = self;
        packed.len()
    }

    /// An exception, packed so that any PE can raise it again.
    pub(crate) fn error(py: Python<'_>, error: &PyErr) -> Self {
        let packed = state::hooks().and_then(|hooks| {
            let parts = hooks.getattr(py, "pack_error")?.bind(py).call1((error.clone_ref(py).into_value(py),))?;
            codec::encode(&parts)
        });
        Self::Error(packed.unwrap_or_default())
    }
}
