//! `proxy.issec`, which programs read as an attribute or call as a method.

use pyo3::prelude::*;

/// A truth value that returns itself when it is called.
#[pyclass(frozen, module = "charm4py._engine")]
pub(crate) struct Truth(bool);

impl Truth {
    pub(crate) fn new(value: bool) -> Self {
        Self(value)
    }
}

#[pymethods]
impl Truth {
    fn __call__(&self) -> bool {
        self.0
    }

    fn __bool__(&self) -> bool {
        self.0
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.is_truthy().is_ok_and(|other| other == self.0)
    }

    fn __hash__(&self) -> u64 {
        u64::from(self.0)
    }

    fn __repr__(&self) -> &'static str {
        if self.0 { "True" } else { "False" }
    }
}
