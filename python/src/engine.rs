//! This process's PE: what the package asks of it, and what all parts of this crate find it by.

use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::OsString;
use std::sync::OnceLock;
use std::time::Duration;

use charm4rs::{Collection, CollectionId, Group, Job, Joining, Pe, Remote};
use hashbrown::HashMap;
use pyo3::exceptions::{
    PyException, PyKeyboardInterrupt, PyMemoryError, PyRuntimeError, PySystemExit, PyTypeError, PyValueError,
};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use crate::agent::Agent;
use crate::classes::{Class, Row};
use crate::codec;
use crate::element::{Element, Init};
use crate::front::PythonFront;
use crate::future::Futures;
use crate::index::{Index, Shape};
use crate::known::Known;
use crate::packed::Packed;
use crate::place::Map;
use crate::proxy::{Proxy, Target, checked_pe};

/// A PE of Python chares.
pub(crate) struct Engine {
    pub(crate) job: Job,
    process: u32,
    /// The program's classes, methods and reducers, as text.
    program: Vec<String>,
    pub(crate) futures: Futures,
    /// A reduction's result has called a method from here.
    pub(crate) results_call: Cell<bool>,
    agents: OnceCell<Group<Agent>>,
    pub(crate) known: Known,
    /// What maps of arrays are made of that this PE has made: an array takes it along, since it may be there before its map.
    maps: RefCell<HashMap<Collection<Element>, Init>>,
    /// Objects of maps that were asked before their group had reached this PE.
    early: RefCell<HashMap<Collection<Element>, Py<PyAny>>>,
    /// What the package notes of the collections that this PE has made.
    pub(crate) notes: RefCell<HashMap<Collection<Element>, Py<PyAny>>>,
    /// Objects of groups on this PE.
    branches: RefCell<HashMap<Collection<Element>, Py<PyAny>>>,
    /// Where single chares and arrays that are filled by hand are made.
    singles: OnceCell<Collection<Element>>,
    /// How many single chares were made from here, by home.
    singles_made: RefCell<HashMap<Pe, i32>>,
    next_home: Cell<u32>,
}

thread_local! {
    static ENGINE: Cell<Option<&'static Engine>> = const { Cell::new(None) };
    static JOINING: RefCell<Option<Joining>> = const { RefCell::new(None) };
    /// Classes are registered before the PE runs, and never forgotten.
    static CLASSES: RefCell<Vec<&'static Class>> = const { RefCell::new(Vec::new()) };
    /// Classes that were defined while the PE runs, by their numbers.
    static LATE: RefCell<HashMap<u32, &'static Class>> = RefCell::default();
}

/// The package's part of it all: for every thread, since others may send to futures.
static HOOKS: OnceLock<Py<PyAny>> = OnceLock::new();
/// This process's PE, for other threads.
static REMOTE: OnceLock<Remote> = OnceLock::new();

/// Marks the numbers of classes that were defined while the PE runs.
const LATE_BIT: u32 = 1 << 31;

/// This thread's PE.
pub(crate) fn engine() -> PyResult<&'static Engine> {
    ENGINE.get().ok_or_else(|| PyRuntimeError::new_err("only on a PE's thread, after charm.start() was called"))
}

impl Engine {
    pub(crate) fn agents(&self) -> Group<Agent> {
        *self.agents.get().expect("agents are made before all else")
    }

    /// A collection has been destroyed.
    pub(crate) fn has_gone(&self, id: CollectionId) {
        self.known.has_gone(id);
        let collection = Collection::named(id);
        crate::place::gone(collection);
        crate::filled::gone(collection);
        let objects =
            [&self.early, &self.branches, &self.notes].map(|objects| objects.borrow_mut().remove(&collection));
        let init = self.maps.borrow_mut().remove(&collection);
        drop((objects, init)); // outside the borrows: Python's destructors run
    }

    pub(crate) fn meet(&self, agents: Group<Agent>) {
        let _ = self.agents.set(agents);
    }

    #[inline]
    pub(crate) fn class(&self, id: u32) -> Option<&'static Class> {
        if id & LATE_BIT != 0 {
            return LATE.with_borrow(|late| late.get(&id).copied());
        }
        CLASSES.with_borrow(|classes| classes.get(usize::try_from(id).ok()?).copied())
    }

    /// Ends the job if PE 0's program is another one than this PE's.
    pub(crate) fn compare(&self, py: Python<'_>, first: Vec<String>) -> PyResult<()> {
        if self.program != first {
            let differences =
                self.hooks(py)?.call_method1(py, "differences", (first, &self.program, self.job.pe().0))?;
            self.job.abort_with(76, &differences.extract::<String>(py)?);
        }
        Ok(())
    }

    /// Lets go of all objects: the job is over, and the interpreter ends.
    fn clear(&self) {
        drop(self.futures.clear());
        drop([self.early.take(), self.branches.take(), self.notes.take()]);
        drop(self.maps.take());
    }

    /// The object that has the package's part of it all.
    pub(crate) fn hooks(&self, _: Python<'_>) -> PyResult<&'static Py<PyAny>> {
        hooks()
    }

    pub(crate) fn note_branch(&self, group: Collection<Element>, object: &Bound<'_, PyAny>) {
        self.branches.borrow_mut().insert(group, object.clone().unbind());
    }

    pub(crate) fn note_early(&self, map: Collection<Element>, object: &Bound<'_, PyAny>) {
        self.early.borrow_mut().insert(map, object.clone().unbind());
        self.note_branch(map, object);
    }

    pub(crate) fn take_early(&self, group: Collection<Element>) -> Option<Py<PyAny>> {
        self.early.borrow_mut().remove(&group)
    }

    /// The object of a group on this PE.
    pub(crate) fn branch<'py>(&self, py: Python<'py>, group: Collection<Element>) -> PyResult<Bound<'py, PyAny>> {
        let branches = self.branches.borrow();
        let object = branches.get(&group).map(|object| object.bind(py).clone());
        object.ok_or_else(|| PyValueError::new_err("the group has no element on this PE, or not yet"))
    }
}

/// The object that has the package's part of it all; on any thread.
pub(crate) fn hooks() -> PyResult<&'static Py<PyAny>> {
    HOOKS.get().ok_or_else(|| PyRuntimeError::new_err("the package has not set its hooks"))
}

/// Has the PE do something that another thread wants done: soon, between two calls.
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

/// Whether an exception asks for the end of the job; or is that of a child that was forked, which ends because of any.
pub(crate) fn is_exit(py: Python<'_>, error: &PyErr) -> bool {
    let asks = error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py);
    asks || engine().is_ok_and(|engine| engine.process != std::process::id())
}

/// Ends the job because of an exception that nobody waits for.
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

/// Gives the package's part of it all.
#[pyfunction]
pub(crate) fn set_hooks(hooks: Py<PyAny>) {
    let _ = HOOKS.set(hooks);
}

/// Registers a class of chares; gives its number. All processes register the same classes in the same order; those
/// that come later, in whatever order, have a number (`late`) of their own.
#[pyfunction]
#[pyo3(signature = (class, name, rows, late = None))]
pub(crate) fn register(
    class: &Bound<'_, PyType>,
    name: String,
    rows: Vec<Row<'_>>,
    late: Option<u32>,
) -> PyResult<u32> {
    let class: &'static Class = Box::leak(Box::new(Class::new(name, class, rows)?));
    if let Some(number) = late {
        LATE.with_borrow_mut(|late| late.insert(number | LATE_BIT, class));
        return Ok(number | LATE_BIT);
    }
    CLASSES.with_borrow_mut(|classes| {
        classes.push(class);
        u32::try_from(classes.len() - 1).map_err(|_| PyRuntimeError::new_err("too many classes of chares"))
    })
}

/// Calls `f` with each class that is registered.
pub(crate) fn each_class(f: impl FnMut(&'static Class)) {
    let all = CLASSES.with_borrow(|classes| classes.clone());
    all.into_iter().chain(LATE.with_borrow(|late| late.values().copied().collect::<Vec<_>>())).for_each(f);
}

/// Finds the job; gives the program's own arguments.
#[pyfunction]
pub(crate) fn join(args: Vec<OsString>) -> PyResult<Vec<OsString>> {
    if JOINING.with_borrow(Option::is_some) || ENGINE.get().is_some() {
        return Err(PyRuntimeError::new_err("charm.start() is called once"));
    }
    let joining = Joining::find(args).map_err(PySystemExit::new_err)?;
    let own = joining.args().clone().into_iter().collect();
    JOINING.set(Some(joining));
    Ok(own)
}

/// Ends the job that was found.
#[pyfunction]
pub(crate) fn refuse(code: u8, text: &str) {
    JOINING.with_borrow(|joining| {
        if let Some(joining) = joining {
            joining.abort(code, text);
        }
    });
}

/// Ends this process in so many seconds, if it has not ended by itself then: what it does at its end may hang.
#[pyfunction]
pub(crate) fn end_within(seconds: f64, code: u8) -> PyResult<()> {
    let limit = Duration::try_from_secs_f64(seconds).map_err(|error| PyValueError::new_err(error.to_string()))?;
    std::thread::Builder::new()
        .name("charm4rs-end".to_owned())
        .spawn(move || {
            std::thread::sleep(limit);
            let text =
                format!("charmrun: warning: process {} had not ended {seconds} s after the job\n", std::process::id());
            // Nobody is left to tell if this fails.
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

/// The job that was found: PEs, and the PEs of each process that is to run them.
#[pyfunction]
pub(crate) fn shape() -> PyResult<(u32, u32)> {
    JOINING.with_borrow(|joining| {
        let layout = joining.as_ref().ok_or_else(|| PyRuntimeError::new_err("no job was joined"))?.layout();
        Ok((layout.pes(), layout.processes()))
    })
}

/// What the command line says of the server for CCS's clients: its port, address and key file; none, if there is to be no server.
#[pyfunction]
pub(crate) fn server() -> Option<(u16, Option<String>, Option<String>)> {
    let options = JOINING.with_borrow(|joining| joining.as_ref().and_then(Joining::server))?;
    Some((options.port, options.address, options.key_file))
}

/// Runs this process's PE until the job ends; gives the job's exit status. `begin` is called on PE 0 when all PEs are there.
#[pyfunction]
pub(crate) fn run(py: Python<'_>, begin: Py<PyAny>) -> PyResult<i32> {
    let joining = JOINING.take().ok_or_else(|| PyRuntimeError::new_err("no job was joined"))?;
    let program = hooks()?.call_method0(py, "program")?.extract::<Vec<String>>(py)?;
    let code = joining.run(asleep, move |job| {
        let engine: &'static Engine = Box::leak(Box::new(Engine {
            job,
            process: std::process::id(),
            program,
            futures: Futures::default(),
            results_call: Cell::new(false),
            agents: OnceCell::new(),
            known: Known::default(),
            maps: RefCell::default(),
            early: RefCell::default(),
            notes: RefCell::default(),
            branches: RefCell::default(),
            singles: OnceCell::new(),
            singles_made: RefCell::default(),
            next_home: Cell::new(job.pe().0),
        }));
        ENGINE.set(Some(engine));
        job.set_front(Box::new(PythonFront));
        let _ = REMOTE.set(job.remote());
        Python::attach(|py| {
            if let Err(error) = engine.hooks(py).and_then(|hooks| hooks.call_method0(py, "enter")) {
                fatal(py, &error, "the start of a PE");
            }
        });
        if job.pe() == Pe(0) {
            let agents = job.group::<Agent>(engine.program.clone());
            engine.meet(agents);
            job.spawn(async move {
                agents.created().await;
                Python::attach(|py| {
                    if let Err(error) = begin.call0(py) {
                        fatal(py, &error, "the start of the program");
                    }
                });
            });
        }
    });
    if let Some(engine) = ENGINE.take() {
        engine.clear();
    }
    Ok(code)
}

/// Sleeps without the interpreter's lock; then sees to signals that came meanwhile.
fn asleep(sleep: &mut dyn FnMut()) {
    Python::attach(|py| {
        struct Locked(*mut pyo3::ffi::PyThreadState);
        impl Drop for Locked {
            fn drop(&mut self) {
                // SAFETY: the state was saved by this thread, just below.
                unsafe { pyo3::ffi::PyEval_RestoreThread(self.0) }
            }
        }
        // SAFETY: this thread holds the lock, and touches nothing of Python's until it has it back. (`Python::detach` says
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
    // As of a process of Python's, whose status are the low bits.
    engine()?.job.exit(code.to_le_bytes()[0]);
    Ok(())
}

/// The user's next SIGINT is for this process, and does not end the job.
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

/// Where this PE is: its number, how many there are, its host, and the PEs of every host.
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

/// The same, of a moment ago, at most a second.
#[pyfunction]
pub(crate) fn coarse_now() -> f64 {
    charm4rs::coarse_now().as_secs_f64()
}

/// A group; `pes`: on these only. `is_map`: arrays will ask it where their elements are made.
#[pyfunction]
#[pyo3(signature = (class, args, pes = None, is_map = false))]
pub(crate) fn group(class: u32, args: &Bound<'_, PyAny>, pes: Option<Vec<i64>>, is_map: bool) -> PyResult<Proxy> {
    let engine = engine()?;
    let args = init_args(engine, class, args)?;
    let Some(pes) = pes else {
        let init = Init { class, shape: Shape::Group, args };
        let own = is_map.then(|| init.clone());
        let collection = Collection::from(engine.job.group::<Element>(init));
        engine.maps.borrow_mut().extend(own.map(|own| (collection, own)));
        return Ok(Proxy::of(class, Target::All(collection, Shape::Group)));
    };
    let pes = pes.into_iter().map(|pe| checked_pe(engine, pe)).collect::<PyResult<Vec<_>>>()?;
    let shape = Shape::PartialGroup;
    let collection = engine.job.sparse::<Element>();
    for pe in pes {
        let index = shape.index(Index::one(i32::try_from(pe.0).expect("few PEs")));
        collection.insert_on(pe, index, Init { class, shape, args: args.clone() });
    }
    engine.job.spawn(async move { collection.done_inserting().await });
    Ok(Proxy::of(class, Target::All(collection, shape)))
}

/// An array; `extent` of `None`: empty, to be filled.
#[pyfunction]
#[pyo3(signature = (class, extent, args, map = None))]
pub(crate) fn array(
    class: u32,
    extent: Option<&Bound<'_, PyAny>>,
    args: &Bound<'_, PyAny>,
    map: Option<&Bound<'_, Proxy>>,
) -> PyResult<Proxy> {
    let engine = engine()?;
    let init = Init { class, shape: Shape::Array, args: init_args(engine, class, args)? };
    let map = map.map_or(Map::Default, |map| {
        let group = map.get().collection_of();
        Map::Python { group, init: engine.maps.borrow().get(&group).cloned() }
    });
    let collection = match extent {
        Some(extent) => {
            let extent = Index::from_python(extent)?;
            if charm4rs::GridIndex::volume(&extent).is_none() {
                return Err(PyValueError::new_err(format!(
                    "an array cannot have the dimensions {:?}",
                    extent.as_slice()
                )));
            }
            engine.job.array_by::<Element>(map, extent, init)
        }
        None => engine.job.sparse_by::<Element>(map),
    };
    Ok(Proxy::of(class, Target::All(collection, Shape::Array)))
}

/// A single chare; with a negative PE on the one whose turn it is.
#[pyfunction]
#[pyo3(signature = (class, args, pe = -1))]
pub(crate) fn single(class: u32, args: &Bound<'_, PyAny>, pe: i64) -> PyResult<Proxy> {
    let engine = engine()?;
    let pe = if pe < 0 {
        let next = engine.next_home.get();
        engine.next_home.set((next + 1) % engine.job.pes());
        Pe(next)
    } else {
        checked_pe(engine, pe)?
    };
    let args = init_args(engine, class, args)?;
    let singles = *engine.singles.get_or_init(|| engine.job.sparse::<Element>());
    let index = Index::single(pe, engine.job.pe(), next_number(engine, pe));
    singles.insert_on(pe, index, Init { class, shape: Shape::Single, args });
    Ok(Proxy::of(class, Target::One(singles.at(index), Shape::Single)))
}

/// The number of the next single chare of this PE's with that home.
fn next_number(engine: &Engine, home: Pe) -> i32 {
    let mut made = engine.singles_made.borrow_mut();
    let made = made.entry(home).or_default();
    let number = *made;
    *made = number.checked_add(1).expect("a PE makes fewer than 2^31 single chares on another");
    number
}

/// Packs the arguments of a new chare, a tuple.
pub(crate) fn init_args(engine: &Engine, class: u32, args: &Bound<'_, PyAny>) -> PyResult<Packed> {
    codec::encode(args).map_err(|error| {
        let py = args.py();
        let Some(class) = engine.class(class) else { return error };
        let init = class.object.bind(py).getattr("__init__");
        match (init, args.cast::<PyTuple>()) {
            (Ok(init), Ok(args)) => refused_argument(py, &format!("{}.__init__", class.name), &init, args, error),
            _ => error,
        }
    })
}

/// The error of a value that cannot be sent, from what went wrong.
pub(crate) fn refused(py: Python<'_>, what: &str, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyException>(py) || error.is_instance_of::<PyMemoryError>(py) {
        return error;
    }
    let refusal = PyTypeError::new_err(format!("{what} cannot be sent: {error}"));
    refusal.set_cause(py, Some(error));
    refusal
}

/// The error of arguments that cannot be sent: it names the one that cannot.
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
    let name = engine().and_then(|engine| {
        let name = engine.hooks(py)?.getattr(py, "parameter")?.call1(py, (function, position))?;
        name.extract::<String>(py)
    });
    let name = name.unwrap_or_else(|_| position.to_string());
    refused(py, &format!("the argument {name} of {callee}"), error)
}
