//! How the package finds the job, runs this process's PE, and ends the job.

use std::cell::RefCell;
use std::ffi::OsString;
use std::time::Duration;

use charm4rs::prelude::*;
use charm4rs::{Joining, Pe};
use pyo3::exceptions::{PyRuntimeError, PySystemExit, PyValueError};
use pyo3::prelude::*;

use crate::classes;
use crate::front::PythonFront;
use crate::future::{self, FutureInbox};
use crate::reduce::ResultInbox;
use crate::state::{self, engine, fatal, hooks};
use crate::stats::Figures;
use crate::{array_map, branches, notes};

thread_local! {
    static JOINING: RefCell<Option<Joining>> = const { RefCell::new(None) };
}

/// Finds the job; gives the program's own arguments.
#[pyfunction]
pub(crate) fn join(args: Vec<OsString>) -> PyResult<Vec<OsString>> {
    if JOINING.with_borrow(Option::is_some) || engine().is_ok() {
        return Err(PyRuntimeError::new_err("charm.start() is called once"));
    }
    let joining = Joining::find(args).map_err(PySystemExit::new_err)?;
    let own = joining.args().clone().into_iter().collect();
    JOINING.set(Some(joining));
    Ok(own)
}

/// Ends the job that was found, before this PE runs.
#[pyfunction]
pub(crate) fn refuse(code: u8, text: &str) {
    JOINING.with_borrow(|joining| {
        if let Some(joining) = joining {
            joining.abort(code, text);
        }
    });
}

/// Ends this process after `seconds` if it is still alive: the program's own exit handlers may hang.
#[pyfunction]
pub(crate) fn end_within(seconds: f64, code: u8) -> PyResult<()> {
    let limit = Duration::try_from_secs_f64(seconds).map_err(|error| PyValueError::new_err(error.to_string()))?;
    std::thread::Builder::new()
        .name("charm4rs-end".to_owned())
        .spawn(move || {
            std::thread::sleep(limit);
            let text =
                format!("charmrun: warning: process {} had not ended {seconds} s after the job\n", std::process::id());
            // Nothing can report a failure here.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
            end_at_once(code)
        })
        .map(drop)
        .map_err(|error| PyRuntimeError::new_err(format!("no thread: {error}")))
}

fn end_at_once(code: u8) -> ! {
    // SAFETY: it takes a number and does not return; nothing of this process is used afterwards.
    unsafe { libc::_exit(i32::from(code)) }
}

/// The number of PEs and of processes of the job that was found.
#[pyfunction]
pub(crate) fn shape() -> PyResult<(u32, u32)> {
    JOINING.with_borrow(|joining| {
        let layout = joining.as_ref().ok_or_else(|| PyRuntimeError::new_err("no job was joined"))?.layout();
        Ok((layout.pes(), layout.processes()))
    })
}

/// The port, address and key file of the server for CCS clients, from the command line; `None` if the job has no server.
#[pyfunction]
pub(crate) fn server() -> Option<(u16, Option<String>, Option<String>)> {
    let options = JOINING.with_borrow(|joining| joining.as_ref().and_then(Joining::server))?;
    Some((options.port, options.address, options.key_file))
}

/// Runs this process's PE until the job ends, and returns the job's exit status. PE 0 calls `begin` when all PEs are running.
#[pyfunction]
pub(crate) fn run(py: Python<'_>, begin: Py<PyAny>) -> PyResult<i32> {
    let joining = JOINING.take().ok_or_else(|| PyRuntimeError::new_err("no job was joined"))?;
    let program = hooks()?.call_method0(py, "program")?.extract::<Vec<String>>(py)?;
    let code = joining.run(asleep, move |job| start(job, program, begin));
    state::end();
    future::clear();
    branches::clear();
    notes::clear();
    array_map::clear();
    Ok(code)
}

/// Starts this PE, before it makes any chare. PE 0 creates the groups of this crate, and calls `begin` when they exist on all PEs.
fn start(job: Job, program: Vec<String>, begin: Py<PyAny>) {
    let engine = state::begin(job, program);
    job.set_front(Box::new(PythonFront));
    Python::attach(|py| {
        if let Err(error) = hooks().and_then(|hooks| hooks.call_method0(py, "enter")) {
            fatal(py, &error, "the start of a PE");
        }
    });
    if job.pe() != Pe(0) {
        return;
    }
    let check = job.group::<ProgramCheck>(engine.program.clone());
    let inboxes = (job.group::<FutureInbox>(()), job.group::<ResultInbox>(()));
    job.spawn(async move {
        check.created().await;
        inboxes.0.created().await;
        inboxes.1.created().await;
        Python::attach(|py| {
            if let Err(error) = begin.call0(py) {
                fatal(py, &error, "the start of the program");
            }
        });
    });
}

/// A group that checks at the start of the job that each PE runs the same program as PE 0, and otherwise ends the job.
struct ProgramCheck;

#[chare(index = u32)]
impl ProgramCheck {
    #[init]
    fn new(_cx: &mut Cx<Self>, first: Vec<String>) -> Self {
        Python::attach(|py| {
            if let Err(error) = compare(py, first) {
                fatal(py, &error, "the start of a PE");
            }
        });
        Self
    }
}

fn compare(py: Python<'_>, first: Vec<String>) -> PyResult<()> {
    let engine = engine()?;
    if engine.program != first {
        let differences = hooks()?.call_method1(py, "differences", (first, &engine.program, engine.job.pe().0))?;
        engine.job.abort_with(76, &differences.extract::<String>(py)?);
    }
    Ok(())
}

/// Sleeps without the interpreter's lock, then handles signals that arrived meanwhile.
fn asleep(sleep: &mut dyn FnMut()) {
    Python::attach(|py| {
        struct Locked(*mut pyo3::ffi::PyThreadState);
        impl Drop for Locked {
            fn drop(&mut self) {
                // SAFETY: the state was saved by this thread, just below.
                unsafe { pyo3::ffi::PyEval_RestoreThread(self.0) }
            }
        }
        // SAFETY: this thread holds the lock, and uses nothing of Python until it has the lock again. (`Python::detach` says
        // the same, but asks for a closure that may move to another thread, which this one never does.)
        let locked = Locked(unsafe { pyo3::ffi::PyEval_SaveThread() });
        sleep();
        drop(locked);
        if let Err(error) = py.check_signals() {
            fatal(py, &error, "the runtime, while it waited");
        }
    });
}

/// Ends the job.
#[pyfunction]
pub(crate) fn exit(code: i32) -> PyResult<()> {
    // The status of a Python process is the low eight bits.
    engine()?.job.exit(code.to_le_bytes()[0]);
    Ok(())
}

/// The launcher sends the user's next SIGINT to this process in place of ending the job.
#[pyfunction]
pub(crate) fn take_interrupt() -> PyResult<()> {
    engine()?.job.take_interrupt();
    Ok(())
}

/// Ends the job with a message.
#[pyfunction]
pub(crate) fn abort(code: u8, text: &str) -> PyResult<()> {
    engine()?.job.abort_with(code, text);
    Ok(())
}

/// This PE's number, the number of PEs, this PE's host, and the PEs of every host.
#[pyfunction]
pub(crate) fn place() -> PyResult<(u32, u32, u32, Vec<Vec<u32>>)> {
    let job = engine()?.job;
    let layout = job.layout();
    let hosts = (0..layout.hosts()).map(|host| layout.pes_of_host(host).collect()).collect();
    Ok((job.pe().0, job.pes(), layout.host_of(layout.process_of(job.pe())), hosts))
}

/// Seconds since the job started.
#[pyfunction]
pub(crate) fn now() -> PyResult<f64> {
    Ok(engine()?.job.now().as_secs_f64())
}

/// The same, up to a second old.
#[pyfunction]
pub(crate) fn coarse_now() -> f64 {
    charm4rs::coarse_now().as_secs_f64()
}

/// Class, method, and figures.
type Line = (String, String, Figures);

/// What each method has cost this PE. Methods that were neither called nor run are left out.
#[pyfunction]
pub(crate) fn statistics() -> Vec<Line> {
    let mut lines = Vec::new();
    classes::each_class(|class| {
        lines.extend(class.methods.iter().filter_map(|method| {
            let figures = method.stats.figures()?;
            Some((class.name.clone(), method.name.clone(), figures))
        }));
    });
    lines
}
