//! The launcher, as a function: the wheel brings no program of its own.

use std::ffi::OsString;

use pyo3::prelude::*;

/// Of a script that has joined no job.
const STRANGER: &str = "the script ended without calling charm.start()";

/// Runs `charmrun` with these arguments, and gives its exit status. A script is run by `interpreter`, one PE a process.
#[pyfunction]
pub(crate) fn charmrun(py: Python<'_>, args: Vec<OsString>, interpreter: OsString) -> u8 {
    py.detach(|| charm4rs_launcher::launch_script(args, &interpreter, STRANGER))
}
