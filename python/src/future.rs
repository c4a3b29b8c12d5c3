//! Futures: values that arrive later, on the PE that created the future. Any PE that has the future's name may send them.
//!
//! `Future.get`, which suspends a coroutine, is in `charm4py/threads.py`; here is the part that does not need Python code. The reply of a call
//! comes by a promise of the engine (`proxy.rs`); values that a program sends come through [`FutureInbox`].

use std::cell::{Cell, RefCell};
use std::time::Duration;

use charm4rs::prelude::*;
use charm4rs::{Checked, Pe, coarse_now};
use charm4rs_python_form::write_number;
use hashbrown::HashMap;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyList;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::chare;
use crate::codec;
use crate::outcome::Outcome;
use crate::packed::{LARGE, Packed};
use crate::state::{Engine, engine, fatal, hooks, on_the_pe, undelivered};
use crate::stats;

/// A future's name in the whole job.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(crate) struct FutureName {
    pub(crate) pe: u32,
    pub(crate) number: u64,
}

impl FutureName {
    pub(crate) fn write(self, bytes: &mut Vec<u8>) {
        write_number(bytes, u64::from(self.pe));
        write_number(bytes, self.number);
    }

    /// The future itself on its PE, elsewhere one that only sends.
    pub(crate) fn to_python(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        if let Some(own) = find(py, self) {
            return Ok(own.into_bound(py).into_any());
        }
        let base =
            FutureBase { name: self, known: true, expects: 1, values: SmallVec::new(), first: None, more: Vec::new() };
        Ok(Bound::new(py, PyClassInitializer::from(base).add_subclass(RemoteFuture))?.into_any())
    }
}

/// The name of a future, under which values find it from now on; `None` if the value is no future.
pub(crate) fn future_name(value: &Bound<'_, PyAny>) -> PyResult<Option<FutureName>> {
    value.cast::<FutureBase>().ok().map(name_of).transpose()
}

/// The name of a future. A future whose name is never asked for needs no entry in its PE's table: this adds the entry.
pub(crate) fn name_of(future: &Bound<'_, FutureBase>) -> PyResult<FutureName> {
    let mut inside = future.borrow_mut();
    if !std::mem::replace(&mut inside.known, true) && !inside.complete() {
        OPEN.with_borrow_mut(|open| open.insert(inside.name.number, future.clone().unbind()));
    }
    Ok(inside.name)
}

thread_local! {
    /// The futures of this PE that wait for values and whose names are known elsewhere.
    static OPEN: RefCell<HashMap<u64, Py<FutureBase>>> = RefCell::default();
    /// The number of the last future of this PE.
    static LAST: Cell<u64> = const { Cell::new(0) };
    static INBOXES: Cell<Option<Group<FutureInbox>>> = const { Cell::new(None) };
}

/// Drops all futures: the job is over, and no value arrives any more.
pub(crate) fn clear() {
    let futures = OPEN.take();
    drop(futures); // outside the borrow: Python's destructors run
}

fn find(py: Python<'_>, name: FutureName) -> Option<Py<FutureBase>> {
    let future = OPEN.with_borrow(|open| open.get(&name.number).map(|future| future.clone_ref(py)));
    future.filter(|future| future.borrow(py).name == name)
}

/// A value has arrived for the future with this number. A future that has all its values leaves the table.
fn settle_numbered(py: Python<'_>, number: u64, value: Arrived) -> PyResult<()> {
    let future = OPEN.with_borrow(|open| open.get(&number).map(|future| future.clone_ref(py)));
    let Some(future) = future else { return Ok(()) };
    let woken = future.bind(py).borrow_mut().arrive(value);
    if future.borrow(py).complete() {
        let done = OPEN.with_borrow_mut(|open| open.remove(&number));
        drop(done);
    }
    woken.wake(py, &future)
}

/// A value has arrived for a future of this PE.
pub(crate) fn settle(py: Python<'_>, future: &Py<FutureBase>, value: Arrived) -> PyResult<()> {
    let (is_known, is_complete, number) = {
        let inside = future.borrow(py);
        (inside.known, inside.complete(), inside.name.number)
    };
    if is_known {
        return settle_numbered(py, number, value);
    }
    if is_complete {
        return Ok(());
    }
    let woken = future.bind(py).borrow_mut().arrive(value);
    woken.wake(py, future)
}

/// A value has arrived for the future of this PE with this name.
pub(crate) fn settle_named(py: Python<'_>, name: FutureName, value: Arrived) -> PyResult<()> {
    settle_numbered(py, name.number, value)
}

/// Creates a future of the package's class.
pub(crate) fn new(py: Python<'_>) -> PyResult<Bound<'_, FutureBase>> {
    let future = hooks()?.getattr(py, intern!(py, "Future"))?.call0(py)?.into_bound(py);
    Ok(future.cast_into::<FutureBase>()?)
}

/// Creates a future; also returns its name.
pub(crate) fn new_named(py: Python<'_>) -> PyResult<(Bound<'_, PyAny>, FutureName)> {
    let future = new(py)?;
    let name = name_of(&future)?;
    Ok((future.into_any(), name))
}

/// A group that receives the values sent to the futures of its PE.
pub(crate) struct FutureInbox;

#[chare(index = u32)]
impl FutureInbox {
    #[init]
    fn new(cx: &mut Cx<Self>) -> Self {
        INBOXES.set(cx.collection().as_group());
        Self
    }

    /// A value for a future of this PE.
    #[entry]
    fn fulfil(&mut self, number: u64, outcome: Outcome) {
        Python::attach(|py| {
            if let Err(error) = settle_numbered(py, number, arrived(py, outcome)) {
                fatal(py, &error, "a coroutine");
            }
        });
    }
}

/// What waited for a future that now has all its values, in order.
#[derive(Default)]
struct Woken(Option<Waiter>, Vec<Waiter>);

impl Woken {
    fn wake(self, py: Python<'_>, future: &Py<FutureBase>) -> PyResult<()> {
        self.0.into_iter().chain(self.1).try_for_each(|waiter| waiter.wake(py, future))
    }
}

/// A value, or an exception in its place.
#[derive(Debug)]
pub(crate) enum Arrived {
    Value(Py<PyAny>),
    Error(Py<PyAny>),
    /// A packed exception. Each `get` raises a new object, so that the future, the traceback and its frames do not keep each other alive.
    Raises(Packed),
}

/// The base of the package's class `Future`. The interpreter may drop it on any thread, since any thread may collect garbage.
#[pyclass(subclass, module = "charm4py._engine")]
pub(crate) struct FutureBase {
    name: FutureName,
    /// Whether its name is known: it is or was in its PE's table, or belongs to another PE.
    known: bool,
    /// How many values it waits for.
    expects: usize,
    values: SmallVec<[Arrived; 1]>,
    /// What waits for all values: the first, and the others in order.
    first: Option<Waiter>,
    more: Vec<Waiter>,
}

/// A callback or a coroutine that waits for a future.
struct Waiter {
    target: Resumed,
    /// When the wait began, for reports of deadlocks.
    since: Duration,
}

/// What resumes when the future has all its values.
enum Resumed {
    /// It is called with the future.
    Callable(Py<PyAny>),
    /// It resumes with the value; with the future if it must ask for the result (several values, an exception).
    Coroutine { coroutine: Py<PyAny>, chare: Py<PyAny> },
}

impl Waiter {
    fn new(target: Resumed) -> Self {
        Self { target, since: coarse_now() }
    }

    /// Whether it is this callable, or coroutine.
    fn is(&self, waiter: &Bound<'_, PyAny>) -> PyResult<bool> {
        match &self.target {
            Resumed::Callable(call) => call.bind(waiter.py()).eq(waiter),
            Resumed::Coroutine { coroutine, .. } => Ok(coroutine.is(waiter)),
        }
    }

    fn wake(&self, py: Python<'_>, future: &Py<FutureBase>) -> PyResult<()> {
        let (coroutine, chare) = match &self.target {
            Resumed::Callable(call) => return call.call1(py, (future,)).map(drop),
            Resumed::Coroutine { coroutine, chare } => (coroutine, chare.bind(py)),
        };
        if stats::profiling() {
            return coroutine.call_method1(py, intern!(py, "resume"), (future,)).map(drop);
        }
        // The same as `resume`, without a frame of the interpreter.
        let value = future.borrow(py).plain().map(|value| value.clone_ref(py));
        let value = value.unwrap_or_else(|| future.clone_ref(py).into_any());
        coroutine.call_method1(py, intern!(py, "switch"), (value,))?;
        if chare::watched(chare) {
            hooks()?.getattr(py, intern!(py, "recheck"))?.call1(py, (chare,))?;
        }
        Ok(())
    }

    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match &self.target {
            Resumed::Callable(call) => visit.call(call),
            Resumed::Coroutine { coroutine, chare } => visit.call(coroutine).and_then(|()| visit.call(chare)),
        }
    }
}

impl FutureBase {
    fn complete(&self) -> bool {
        self.values.len() >= self.expects
    }

    /// Its value, if it has exactly one and no exception.
    fn plain(&self) -> Option<&Py<PyAny>> {
        match (self.expects, &self.values[..]) {
            (1, [Arrived::Value(value)]) => Some(value),
            _ => None,
        }
    }

    /// Adds a value; returns what must be woken.
    fn arrive(&mut self, value: Arrived) -> Woken {
        self.values.push(value);
        if self.complete() { self.take_waiters() } else { Woken::default() }
    }

    fn add_waiter(&mut self, target: Resumed) {
        let waiter = Waiter::new(target);
        if self.first.is_none() {
            self.first = Some(waiter);
        } else {
            self.more.push(waiter);
        }
    }

    fn take_waiters(&mut self) -> Woken {
        Woken(self.first.take(), std::mem::take(&mut self.more))
    }
}

#[pymethods]
impl FutureBase {
    #[new]
    #[pyo3(signature = (num_vals = 1))]
    fn new(num_vals: usize) -> PyResult<Self> {
        let engine = engine()?;
        LAST.set(LAST.get() + 1);
        let name = FutureName { pe: engine.job.pe().0, number: LAST.get() };
        Ok(Self {
            name,
            known: false,
            expects: num_vals.max(1),
            values: SmallVec::new(),
            first: None,
            more: Vec::new(),
        })
    }

    /// Sends a value to the future, from any thread.
    #[pyo3(signature = (value = None))]
    fn send(slf: &Bound<'_, Self>, value: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        let outcome = Outcome::of(value.as_ref())?;
        match engine() {
            Ok(engine) => fulfil(engine, name_of(slf)?, outcome),
            Err(_) => send_from_thread(slf, outcome)?,
        }
        Ok(())
    }

    /// Gives a future of this PE a value without a copy. It must not be called in a coroutine: what waits resumes at once.
    fn _settle(slf: &Bound<'_, Self>, value: Py<PyAny>) -> PyResult<()> {
        settle(slf.py(), slf.as_unbound(), Arrived::Value(value))
    }

    #[pyo3(signature = (value = None))]
    fn __call__(slf: &Bound<'_, Self>, value: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        Self::send(slf, value)
    }

    /// Whether all values have arrived.
    fn ready(&self) -> bool {
        self.complete()
    }

    /// Calls `waiter(future)` once, when all values have arrived.
    fn _when_ready(&mut self, waiter: Py<PyAny>) {
        self.add_waiter(Resumed::Callable(waiter));
    }

    /// Resumes a coroutine, a method of `chare`, when all values have arrived.
    fn _resumes(&mut self, coroutine: Py<PyAny>, chare: Py<PyAny>) {
        self.add_waiter(Resumed::Coroutine { coroutine, chare });
    }

    /// For how many seconds `waiter` has waited, to a second.
    fn _waited(slf: &Bound<'_, Self>, waiter: &Bound<'_, PyAny>) -> PyResult<Option<f64>> {
        let now = coarse_now();
        let inside = slf.borrow();
        for each in inside.first.iter().chain(&inside.more) {
            if each.is(waiter)? {
                return Ok(Some(now.saturating_sub(each.since).as_secs_f64()));
            }
        }
        Ok(None)
    }

    /// Removes a waiter.
    fn _forget(slf: &Bound<'_, Self>, waiter: &Bound<'_, PyAny>) -> PyResult<()> {
        let Woken(first, more) = slf.borrow_mut().take_waiters();
        // Comparing may be Python code: nothing is borrowed.
        let mut kept = Vec::with_capacity(more.len());
        let mut found = false;
        for each in first.into_iter().chain(more) {
            if !found && each.is(waiter)? {
                found = true;
            } else {
                kept.push(each);
            }
        }
        let mut kept = kept.into_iter();
        let mut inside = slf.borrow_mut();
        inside.first = kept.next();
        inside.more = kept.collect();
        Ok(())
    }

    /// Coroutines that wait for it, and values, may refer to it.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for value in &self.values {
            if let Arrived::Value(object) | Arrived::Error(object) = value {
                visit.call(object)?;
            }
        }
        self.first.iter().chain(&self.more).try_for_each(|waiter| waiter.visit(&visit))
    }

    fn __clear__(&mut self) {
        self.values.clear();
        self.first = None;
        self.more.clear();
    }

    /// The value, or the list of values. Raises the first exception that arrived.
    fn _result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(value) = self.plain() {
            return Ok(value.bind(py).clone());
        }
        let mut values = Vec::with_capacity(self.values.len());
        for value in &self.values {
            match value {
                Arrived::Value(value) => values.push(value.bind(py)),
                Arrived::Error(error) => return Err(PyErr::from_value(error.bind(py).clone())),
                Arrived::Raises(packed) => {
                    return Err(PyErr::from_value(exception(py, packed.clone()).into_bound(py)));
                }
            }
        }
        match (self.expects, values.first()) {
            (1, Some(value)) => Ok((*value).clone()),
            (1, None) => Err(PyRuntimeError::new_err("the future has no value yet")),
            _ => Ok(PyList::new(py, values)?.into_any()),
        }
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| other.borrow().name == self.name)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (u32, u64))> {
        let FutureName { pe, number } = name_of(slf)?;
        Ok((slf.py().import("charm4py._engine")?.getattr("future_named")?, (pe, number)))
    }

    fn __hash__(&self) -> u64 {
        self.name.number << 20 ^ u64::from(self.name.pe)
    }
}

/// A future of another PE, or one that is complete and left the table: values can be sent to it, but it cannot be waited for.
#[pyclass(extends = FutureBase, frozen, module = "charm4py._engine")]
pub(crate) struct RemoteFuture;

#[pymethods]
impl RemoteFuture {
    #[pyo3(signature = (timeout = None))]
    fn get(&self, timeout: Option<f64>) -> PyResult<()> {
        let _ = timeout;
        Err(PyRuntimeError::new_err("a future can be waited for only on the PE where it was made"))
    }
}

/// The future with this name; a pickled future calls this.
#[pyfunction]
pub(crate) fn future_named(py: Python<'_>, pe: u32, number: u64) -> PyResult<Bound<'_, PyAny>> {
    FutureName { pe, number }.to_python(py)
}

/// Sends a value from a thread that is not the PE's.
#[cold]
fn send_from_thread(future: &Bound<'_, FutureBase>, outcome: Outcome) -> PyResult<()> {
    let future = future.clone().unbind();
    on_the_pe(move |py, engine| {
        fulfil(engine, name_of(future.bind(py))?, outcome);
        Ok(())
    })
}

fn inboxes() -> Group<FutureInbox> {
    INBOXES.get().expect("they are made before all chares of the program")
}

/// Sends a value or an exception to a future on any PE.
pub(crate) fn fulfil(engine: &Engine, name: FutureName, outcome: Outcome) {
    let is_large = outcome.len() >= LARGE;
    let sent = inboxes().on(Pe(name.pe)).fulfil(name.number, outcome);
    if is_large {
        tell_if_lost(engine.job, name, sent.call().checked());
    }
}

/// Sends an error to a future if there was no memory for its value.
#[cold]
fn tell_if_lost(job: Job, name: FutureName, sent: Checked<()>) {
    job.spawn(async move {
        let Err(lost) = sent.await else { return };
        Python::attach(|py| {
            let error = undelivered(py, &lost).unwrap_or_else(|worse| worse);
            if let Ok(engine) = engine() {
                fulfil(engine, name, Outcome::error(py, &error));
            }
        });
    });
}

/// An outcome as a future keeps it.
pub(crate) fn arrived(py: Python<'_>, outcome: Outcome) -> Arrived {
    match outcome {
        Outcome::Value(packed) => match codec::decode(py, packed) {
            Ok(value) => Arrived::Value(value.unbind()),
            Err(error) => Arrived::Error(error.into_value(py).into_any()),
        },
        Outcome::Error(packed) => Arrived::Raises(packed),
    }
}

/// Unpacks an exception.
pub(crate) fn exception(py: Python<'_>, packed: Packed) -> Py<PyAny> {
    let error =
        codec::decode(py, packed).and_then(|parts| hooks()?.getattr(py, "unpack_error")?.bind(py).call1((parts,)));
    match error {
        Ok(error) => error.unbind(),
        Err(error) => error.into_value(py).into_any(),
    }
}
