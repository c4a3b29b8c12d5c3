//! How the values that `main` sets (`Readonly`) reach all PEs before any constructor runs there.
//!
//! `main` sets them before PE 0 creates anything. Until then, other PEs have no code that could create or call chares. When PE 0 creates its first
//! collection or chare, it *opens* the job: it sends all values down a tree of all PEs, in one message. No value can be set afterwards. Messages that
//! create or destroy elements may reach a PE on other paths before this message. So a PE that is not open keeps them, in their order, and delivers
//! them when it has the values. Calls need no such care, because they wait for their elements.
//!
//! A program without such values is open from the start. If another PE creates something before PE 0 does (tests can), this also opens the job: the
//! PE asks PE 0 to open it.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;

use charm4rs_scheduler::Handler;
use charm4rs_transport::Pe;
use charm4rs_transport::port::Incoming;

use super::exit::{Failure, Panicked};
use super::registry::{Registry, registry};
use super::shared::{self, Opened};
use super::{Dispatcher, Rt, guard, tree};
use crate::message::envelope::{Header, tag};
use crate::message::wire::WireError;

/// The first PE, on which `main` runs.
const FIRST: Pe = Pe(0);

/// A [`Readonly`] of any type.
#[doc(hidden)]
pub trait AnyReadonly: Any + Sync {
    /// Sets the number and the name of the value.
    fn number(&self, id: u16, name: &'static str);
    /// Stores the value that `main` has set.
    #[doc(hidden)]
    fn take(&self, rt: Rt, id: u16, bytes: &[u8]) -> Result<(), WireError>;
}

/// The entry that `#[charm4rs::readonly]` submits at link time.
pub struct ReadonlyRegistration {
    /// The path of the static.
    pub name: &'static str,
    /// The static.
    pub value: &'static dyn AnyReadonly,
}

impl fmt::Debug for ReadonlyRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

inventory::collect!(ReadonlyRegistration);

/// A function that runs before there are chares: the entry that `#[charm4rs::init_process]` and `#[charm4rs::init_pe]` submit at link time.
#[derive(Debug)]
pub struct InitRegistration {
    /// The function's path.
    pub name: &'static str,
    /// The function.
    pub run: Init,
}

/// A function, by the time when it runs.
#[derive(Clone, Copy, Debug)]
pub enum Init {
    /// Once in each process, before the functions of its PEs.
    Process(fn()),
    /// Once on each PE.
    Pe(fn(Pe)),
}

inventory::collect!(InitRegistration);

/// A PE's state for this; see the module's text.
pub(crate) struct Startup {
    open: Cell<bool>,
    asked: Cell<bool>,
    /// On PE 0: the values that `main` has set, packed.
    set: RefCell<Vec<(u16, Vec<u8>)>>,
    /// If the process has several jobs: the values of this PE, by their numbers.
    values: RefCell<Vec<Option<&'static dyn Any>>>,
    held: RefCell<Vec<Incoming>>,
}

impl Startup {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            open: Cell::new(registry.readonlies.is_empty()),
            asked: Cell::new(false),
            set: RefCell::default(),
            values: RefCell::default(),
            held: RefCell::default(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.get()
    }

    pub(crate) fn set(&self, id: u16, bytes: Vec<u8>) {
        self.set.borrow_mut().push((id, bytes));
    }

    pub(crate) fn keep(&self, id: u16, value: &'static dyn Any) {
        let (mut values, at) = (self.values.borrow_mut(), usize::from(id));
        if values.len() <= at {
            values.resize(at + 1, None);
        }
        values[at] = Some(value);
    }

    pub(crate) fn value(&self, id: u16) -> Option<&'static dyn Any> {
        self.values.borrow().get(usize::from(id)).copied().flatten()
    }

    /// Takes the messages that were kept.
    pub(super) fn take_held(&self) -> Vec<Incoming> {
        self.held.take()
    }
}

/// Opens the job. Called before this PE creates a collection or chare.
#[inline]
pub(super) fn open(rt: Rt) {
    if !rt.startup.open.get() {
        open_now(rt);
    }
}

#[cold]
fn open_now(rt: Rt) {
    if rt.sched.pe() == FIRST {
        let set = rt.startup.set.take();
        let mut bytes = Vec::new();
        crate::message::wire::pack(&set, &mut bytes).expect("numbers and bytes can be packed");
        pass_on(rt, &bytes);
        opened(rt);
    } else if !rt.startup.asked.replace(true) {
        shared::send(rt, FIRST, tag::START, &Header::of_job(rt.sched.pe()), &[], Vec::new());
    }
}

fn pass_on(rt: Rt, bytes: &[u8]) {
    for child in tree(rt, FIRST).children(rt.sched.pe()) {
        shared::send(rt, child, tag::START, &Header::of_job(FIRST), bytes, Vec::new());
    }
}

fn opened(rt: Rt) {
    rt.startup.open.set(true);
    rt.startup.take_held().into_iter().for_each(|msg| Dispatcher(rt).deliver(msg));
}

/// Keeps a message that creates or destroys elements until this PE has the values.
#[cold]
pub(super) fn hold(rt: Rt, msg: Incoming) {
    rt.startup.held.borrow_mut().push(msg);
}

/// Handles the arrival of the values. On PE 0: another PE asks PE 0 to open the job.
#[cold]
pub(super) fn arrived(rt: Rt, header: &Header, msg: Incoming) {
    if rt.sched.pe() == FIRST {
        return open(rt);
    }
    let mut msg = Opened::new(header, msg);
    if rt.startup.open.get() {
        return rt.violation(msg.from, "the job's values for a second time", u64::from(header.source));
    }
    pass_on(rt, msg.bytes());
    let Ok(values) = msg.read::<Vec<(u16, Vec<u8>)>>() else {
        return rt.violation(msg.from, "the job's values, which cannot be read", u64::from(header.source));
    };
    for (id, bytes) in values {
        let Some(row) = rt.registry.readonlies.get(usize::from(id)) else {
            return rt.violation(msg.from, "a value of the job that does not exist", u64::from(id));
        };
        if let Err(error) = row.value.take(rt, id, &bytes) {
            return rt.fail(Failure { code: 1, what: format!("{} cannot be read: {error}", row.name) });
        }
    }
    opened(rt);
}

/// The panic of a function that runs before there are chares.
pub(crate) type Panic = Failure;

/// Runs the chosen functions, in the order of their names.
pub(crate) fn each(chosen: impl Fn(Init) -> Option<Box<dyn FnOnce()>>) -> Result<(), Panic> {
    for row in &registry().inits {
        if let Some(run) = chosen(row.run) {
            let panicked = |panic: Box<Panicked>| Failure::panic(row.name, &panic);
            guard(run).map_err(panicked)?;
        }
    }
    Ok(())
}
