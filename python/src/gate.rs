//! Calls that wait for the constructor of their chare, if that is a coroutine.
//!
//! A gate is *shut* while the constructor runs: it holds calls in the order of arrival. It is *ajar* while the constructor waits for
//! a condition over its chare, which only calls can make true: then all calls pass, except the one that asks whether the chare
//! exists. Messages of channels always pass, since the constructor may wait for one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use hashbrown::HashMap;
use pyo3::prelude::*;

use crate::arguments::CallArgs;
use crate::array_map;
use crate::chare::ChareBase;
use crate::element::{Handle, ReplyTo};
use crate::outcome::Outcome;
use crate::state::{charm4py_error, engine};

/// A call that waits.
pub(crate) struct Held {
    pub(crate) method: u16,
    pub(crate) args: CallArgs,
    pub(crate) reply: ReplyTo,
}

/// What a gate lets pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Shut,
    Ajar,
    Open,
}

/// See the module's text.
pub(crate) struct Gate {
    state: Cell<State>,
    held: RefCell<VecDeque<Held>>,
    /// Held calls are being released: new calls queue behind them.
    releasing: Cell<bool>,
}

thread_local! {
    /// Gates of constructors that run, by their objects' keys.
    static GATES: RefCell<HashMap<u64, Rc<Gate>>> = RefCell::default();
}

/// The gate of a new object, if its constructor still runs.
pub(crate) fn of(object: &Bound<'_, PyAny>) -> Option<Rc<Gate>> {
    GATES.with_borrow(|gates| {
        if gates.is_empty() {
            return None;
        }
        let chare = object.cast::<ChareBase>().ok()?;
        gates.get(&chare.borrow().key()).cloned()
    })
}

impl Gate {
    /// Whether a call of this method must wait.
    pub(crate) fn holds(&self, method: &str) -> bool {
        self.shuts_out(method) || (self.releasing.get() && method != "__charm_channel__")
    }

    fn shuts_out(&self, method: &str) -> bool {
        match self.state.get() {
            State::Shut => method != "__charm_channel__",
            State::Ajar => method == "__charm_present__",
            State::Open => false,
        }
    }

    pub(crate) fn hold(&self, call: Held) {
        self.held.borrow_mut().push_back(call);
    }

    /// The next held call that may pass now.
    fn next(&self, this: &Handle) -> Option<Held> {
        let mut held = self.held.borrow_mut();
        let at = held.iter().position(|call| !self.shuts_out(this.with(|element| element.method_name(call.method))))?;
        held.remove(at)
    }

    /// Runs the held calls that may pass now, one after another.
    fn release(&self, this: &Handle) {
        let index = this.index();
        while array_map::is_here(this.collection(), index) {
            let Some(Held { method, args, reply }) = self.next(this) else { return };
            this.with(|element| Python::attach(|py| element.run_now(py, index, method, args, reply)));
        }
        let left = std::mem::take(&mut *self.held.borrow_mut());
        Python::attach(|py| {
            for call in left {
                if let Ok(error) = charm4py_error(py, "the chare has been destroyed") {
                    call.reply.send(Outcome::error(py, &error));
                }
            }
        });
    }
}

/// A constructor that is a coroutine begins. Returns false if the constructor of a derived class has begun already and calls this one.
#[pyfunction]
pub(crate) fn construction_begins(chare: &Bound<'_, ChareBase>) -> bool {
    let key = chare.borrow().key();
    GATES.with_borrow_mut(|gates| {
        let new = !gates.contains_key(&key);
        gates.entry(key).or_insert_with(|| {
            Rc::new(Gate { state: Cell::new(State::Shut), held: RefCell::default(), releasing: Cell::new(false) })
        });
        new
    })
}

/// The constructor has ended; with `waits`, it waits for a condition that calls make true.
#[pyfunction]
#[pyo3(signature = (chare, waits = false))]
pub(crate) fn construction_ends(chare: &Bound<'_, ChareBase>, waits: bool) -> PyResult<()> {
    let (key, handle) = (chare.borrow().key(), chare.borrow().handle());
    let gate = GATES.with_borrow_mut(|gates| if waits { gates.get(&key).cloned() } else { gates.remove(&key) });
    let Some(gate) = gate else { return Ok(()) };
    gate.state.set(if waits { State::Ajar } else { State::Open });
    if gate.held.borrow().is_empty() || gate.releasing.replace(true) {
        return Ok(());
    }
    let this = handle?;
    engine()?.job.spawn(async move {
        gate.release(&this);
        gate.releasing.set(false);
    });
    Ok(())
}
