//! Callbacks: soon, after a time, from another thread, or when the job is quiescent.

use std::cell::RefCell;
use std::time::Duration;

use charm4rs::Hold;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::state::{engine, fatal, on_the_pe};

/// Calls a callback on the PE's thread. An exception ends the job.
pub(crate) fn called_back(callable: &Py<PyAny>, what: &str) {
    Python::attach(|py| {
        if let Err(error) = callable.call0(py) {
            fatal(py, &error, what);
        }
    });
}

/// Calls `callable` when the current method has ended.
#[pyfunction]
pub(crate) fn call_soon(callable: Py<PyAny>) -> PyResult<()> {
    engine()?.job.spawn(async move { called_back(&callable, "a coroutine") });
    Ok(())
}

/// Calls `callable` after so many seconds.
#[pyfunction]
pub(crate) fn after(seconds: f64, callable: Py<PyAny>) -> PyResult<()> {
    engine()?.job.after(delay(seconds)?, move || called_back(&callable, "a timer"));
    Ok(())
}

fn delay(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds.max(0.0))
        .map_err(|_| PyValueError::new_err(format!("a time of {seconds} seconds")))
}

/// A timer that can be cancelled.
#[pyclass(frozen, module = "charm4py._engine")]
pub(crate) struct Timer(charm4rs::Timer);

#[pymethods]
impl Timer {
    /// Cancels the timer if it has not fired yet.
    fn cancel(&self) -> PyResult<()> {
        engine()?.job.cancel_timer(self.0);
        Ok(())
    }
}

/// Like `after`, but returns a timer that can be cancelled. With `aside`, quiescence does not wait for it.
#[pyfunction]
#[pyo3(signature = (seconds, callable, aside = false))]
pub(crate) fn timer(seconds: f64, callable: Py<PyAny>, aside: bool) -> PyResult<Timer> {
    let job = engine()?.job;
    let (delay, f) = (delay(seconds)?, move || called_back(&callable, "a timer"));
    Ok(Timer(if aside { job.timer_aside(delay, f) } else { job.timer(delay, f) }))
}

/// Like `call_soon`, from any thread.
#[pyfunction]
pub(crate) fn call_from_thread(callable: Py<PyAny>) -> PyResult<()> {
    on_the_pe(move |py, _| callable.call0(py).map(drop))
}

/// With `on`, the job is not quiescent until `hold(False)`: something is in progress that the engine does not see.
#[pyfunction]
pub(crate) fn hold(on: bool) -> PyResult<()> {
    thread_local! {
        static HELD: RefCell<Option<Hold>> = const { RefCell::new(None) };
    }
    let hold = if on { Some(engine()?.job.hold()) } else { None };
    HELD.set(hold);
    Ok(())
}

/// Calls `callable` when the job is quiescent.
#[pyfunction]
pub(crate) fn quiescence(callable: Py<PyAny>) -> PyResult<()> {
    let engine = engine()?;
    let quiet = engine.job.quiescence();
    engine.job.spawn(async move {
        quiet.await;
        called_back(&callable, "a callback of quiescence");
    });
    Ok(())
}
