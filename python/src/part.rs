//! A value that is packed only when it leaves the PE.

use pyo3::prelude::*;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec;
use crate::packed::Packed;

/// A value: an object inside a PE, packed between PEs.
#[derive(Debug)]
pub(crate) enum Part {
    Object(Py<PyAny>),
    Packed(Packed),
}

impl Part {
    pub(crate) fn object<'py>(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Object(object) => Ok(object.into_bound(py)),
            Self::Packed(packed) => codec::decode(py, packed),
        }
    }
}

impl Clone for Part {
    fn clone(&self) -> Self {
        match self {
            Self::Object(object) => Self::Object(Python::attach(|py| object.clone_ref(py))),
            Self::Packed(packed) => Self::Packed(packed.clone()),
        }
    }
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Packed(packed) => packed.serialize(serializer),
            Self::Object(object) => Python::attach(|py| codec::encode(object.bind(py)))
                .map_err(|error| serde::ser::Error::custom(error.to_string()))?
                .serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Packed::deserialize(deserializer).map(Self::Packed)
    }
}
