//! The launcher as a function: the wheel has no executable of its own.

use std::ffi::OsString;

use pyo3::prelude::*;

/// The error for a script that has not called `charm.start()`.
const STRANGER: &str = "the script ended without calling charm.start()";

/// Runs `charmrun` with these arguments and returns its exit status. `interpreter` runs scripts, with one PE in each process.
#[pyfunction]
pub(crate) fn charmrun(py: Python<'_>, args: Vec<OsString>, interpreter: OsString) -> u8 {
    py.detach(|| charm4rs_launcher::launch_script(args, &interpreter, STRANGER))
}
