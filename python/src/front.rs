//! What reports of deadlocks say of Python's chares: the runtime knows neither their classes' names nor who waits in Python.

use charm4rs::{CollectionId, Front};
use pyo3::prelude::*;

use crate::engine::engine;

/// See the module's text.
pub(crate) struct PythonFront;

impl Front for PythonFront {
    fn waits(&self) -> (Vec<String>, bool) {
        Python::attach(|py| {
            let told = engine().and_then(|engine| engine.hooks(py)?.call_method0(py, "waits")?.extract(py));
            // A report is no reason for a failure.
            told.unwrap_or_else(|error: PyErr| (vec![format!("who waits in Python cannot be told: {error}")], true))
        })
    }

    fn chare(&self, collection: CollectionId) -> Option<String> {
        engine().ok()?.class_name(collection)
    }

    fn gone(&self, collection: CollectionId) {
        if let Ok(engine) = engine() {
            Python::attach(|_| engine.has_gone(collection));
        }
    }
}
