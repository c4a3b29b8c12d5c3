//! This process's PE, as every other module of this crate finds it: the job, the package's hooks, and how a failure ends the job.
//! It uses only `known_classes.rs`.

use std::cell::Cell;
use std::sync::OnceLock;

use charm4rs::{CallError, Job, Pe, Remote};
use pyo3::exceptions::{PyKeyboardInterrupt, PyMemoryError, PyRuntimeError, PySystemExit, PyValueError};
use pyo3::prelude::*;

use crate::known_classes::Known;

/// A PE of Python chares.
pub(crate) struct Engine {
    pub(crate) job: Job,
    process: u32,
    /// The program's classes, methods and reducers, as text.
    pub(crate) program: Vec<String>,
    pub(crate) known: Known,
}

thread_local! {
    static ENGINE: Cell<Option<&'static Engine>> = const { Cell::new(None) };
}

/// The functions of the package that this crate calls (`charm4py/hooks.py`). They serve every thread, since any thread may send to a future.
static HOOKS: OnceLock<Py<PyAny>> = OnceLock::new();
/// This process's PE, for other threads.
static REMOTE: OnceLock<Remote> = OnceLock::new();

/// This thread's PE.
pub(crate) fn engine() -> PyResult<&'static Engine> {
    ENGINE.get().ok_or_else(|| PyRuntimeError::new_err("only on a PE's thread, after charm.start() was called"))
}

/// Makes this thread the PE of a job.
pub(crate) fn begin(job: Job, program: Vec<String>) -> &'static Engine {
    let engine: &'static Engine =
        Box::leak(Box::new(Engine { job, process: std::process::id(), program, known: Known::default() }));
    ENGINE.set(Some(engine));
    let _ = REMOTE.set(job.remote());
    engine
}

/// The job is over: this thread is no PE any more.
pub(crate) fn end() {
    ENGINE.set(None);
}

impl Engine {
    /// The package's functions that this crate calls.
    pub(crate) fn hooks(&self, _: Python<'_>) -> PyResult<&'static Py<PyAny>> {
        hooks()
    }

    /// The PE with this number, or an error if there is none.
    pub(crate) fn checked_pe(&self, pe: i64) -> PyResult<Pe> {
        u32::try_from(pe)
            .ok()
            .filter(|&pe| pe < self.job.pes())
            .map(Pe)
            .ok_or_else(|| PyValueError::new_err(format!("there is no PE {pe}: the job has {}", self.job.pes())))
    }
}

/// The package's functions that this crate calls; on any thread.
pub(crate) fn hooks() -> PyResult<&'static Py<PyAny>> {
    HOOKS.get().ok_or_else(|| PyRuntimeError::new_err("the package has not set its hooks"))
}

/// Sets the functions of the package that this crate calls.
#[pyfunction]
pub(crate) fn set_hooks(hooks: Py<PyAny>) {
    let _ = HOOKS.set(hooks);
}

/// Runs `f` on the PE's thread, between two calls; for other threads.
pub(crate) fn on_the_pe(f: impl FnOnce(Python<'_>, &Engine) -> PyResult<()> + Send + 'static) -> PyResult<()> {
    let remote = REMOTE.get().ok_or_else(|| PyRuntimeError::new_err("there is no PE before charm.start()"))?;
    let given = remote.run(move |_| {
        Python::attach(|py| {
            if let Err(error) = engine().and_then(|engine| f(py, engine)) {
                fatal(py, &error, "what a thread has asked for");
            }
        });
    });
    given.map_err(|gone| PyRuntimeError::new_err(gone.to_string()))
}

/// A `Charm4PyError`.
pub(crate) fn charm4py_error(py: Python<'_>, text: &str) -> PyResult<PyErr> {
    let error = engine()?.hooks(py)?.getattr(py, "Charm4PyError")?.call1(py, (text,))?;
    Ok(PyErr::from_value(error.into_bound(py)))
}

/// The exception for a call or a result that the engine could not deliver.
pub(crate) fn undelivered(py: Python<'_>, error: &CallError) -> PyResult<PyErr> {
    match error {
        CallError::TooLarge { .. } => Ok(PyMemoryError::new_err(error.to_string())),
        _ => charm4py_error(py, &error.to_string()),
    }
}

/// Whether an exception ends the job (SystemExit, KeyboardInterrupt). In a forked child every exception ends the child.
pub(crate) fn is_exit(py: Python<'_>, error: &PyErr) -> bool {
    let asks = error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py);
    asks || engine().is_ok_and(|engine| engine.process != std::process::id())
}

/// Ends the job because of an exception that no caller gets.
pub(crate) fn fatal(py: Python<'_>, error: &PyErr, place: &str) {
    let Ok(engine) = engine() else { return };
    let ending = engine.hooks(py).and_then(|hooks| {
        hooks
            .call_method1(py, "ending", (error.clone_ref(py).into_value(py), place))?
            .extract::<(u8, Option<String>)>(py)
    });
    match ending {
        Ok((code, Some(text))) => engine.job.abort_with(code, &text),
        Ok((code, None)) => engine.job.exit(code),
        Err(worse) => engine.job.abort_with(1, &format!("{error} in {place}, and while it was reported: {worse}")),
    }
}
