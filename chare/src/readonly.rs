//! Values that `main` sets before it creates chares ([`Readonly`]), and functions that run before there are chares (`#[charm4rs::init_process]`,
//! `#[charm4rs::init_pe]`). They are registered at link time, as chares are. [`startup`] sends the values to the processes.

use std::fmt;
use std::ops::Deref;
use std::sync::OnceLock;

use charm4rs_transport::Pe;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Job;
use crate::message::wire::{self, WireError};
use crate::runtime::startup::{AnyReadonly, Init};
use crate::runtime::{self, Rt, registry, startup};

/// A type whose values a [`Readonly`] can have.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the value of a `Readonly`",
    label = "not a value that every process can have",
    note = "the value is sent to all processes, and all their threads read it: its type is `Send + Sync + 'static` and has serde's traits, which `#[data]` derives"
)]
pub trait ReadonlyValue: Send + Sync + Serialize + DeserializeOwned + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Send + Sync + Serialize + DeserializeOwned + 'static> ReadonlyValue for T {}

/// A value that every process has before its first chare is created: a `static` with `#[charm4rs::readonly]`, which `main` sets.
///
/// It dereferences to the value: read it as `PARAMS.steps`, or by `PARAMS.get()`.
///
/// ```
/// use charm4rs::Readonly;
/// # use charm4rs::prelude::*;
///
/// #[data]
/// struct Params { steps: u32, name: String }
///
/// #[charm4rs::readonly]
/// static PARAMS: Readonly<Params> = Readonly::new();
///
/// struct Worker { step: u32 }
///
/// #[chare(index = usize)]
/// impl Worker {
///     #[init]
///     fn new() -> Self { Self { step: PARAMS.steps } }
///     #[entry]
///     fn step(&self) -> u32 { self.step }
/// }
/// # charm4rs::testing::threads(2, |job| async move {
///
/// PARAMS.set(&job, Params { steps: 7, name: "a run".to_string() });
/// assert_eq!(job.array::<Worker>(4, ()).all().step().await, [7; 4]);
/// # }).unwrap();
/// ```
///
/// The PEs of a process share the value, and its other threads can read it. (A process may have several of the jobs of
/// [`testing`](crate::testing). In these jobs each PE has its own value, and other threads have none.)
///
/// # Panics
/// Reading it panics before it is set.
pub struct Readonly<T> {
    /// The value in the one job of this process.
    value: OnceLock<T>,
    row: OnceLock<(u16, &'static str)>,
}

impl<T> Readonly<T> {
    /// A readonly value that is not set yet.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "it is the value of a static")]
    pub const fn new() -> Self {
        Self { value: OnceLock::new(), row: OnceLock::new() }
    }
}

impl<T: ReadonlyValue> Readonly<T> {
    /// Sets the value for all processes. Call this in `main`, before the first chare or collection is created.
    ///
    /// # Panics
    /// If the value has been set already; if chares have been created; on a PE other than 0; if the value cannot be serialized.
    #[track_caller]
    pub fn set(&self, job: &Job, value: T) {
        let rt = job.rt();
        let (id, name) = self.row();
        assert!(job.pe() == Pe(0), "{name} is set on PE {}: only `main`, which runs on PE 0, can set it", job.pe());
        assert!(self.here().is_none(), "{name} has been set already: a `Readonly` is set once");
        assert!(
            !rt.startup.is_open(),
            "{name} is set too late: chares exist already, and their constructors may have read it. Set it first in `main`"
        );
        let bytes =
            wire::pack_inside(&value).unwrap_or_else(|why| panic!("{name} cannot be sent to other processes: {why}"));
        rt.startup.set(id, bytes);
        self.store(rt, id, value);
    }

    /// The value.
    ///
    /// # Panics
    /// If it has not been set.
    #[inline]
    #[track_caller]
    pub fn get(&self) -> &T {
        self.value.get().unwrap_or_else(|| self.of_pe())
    }

    /// The value, if it has been set.
    pub fn try_get(&self) -> Option<&T> {
        self.here()
    }

    fn here(&self) -> Option<&T> {
        self.value.get().or_else(|| runtime::try_current()?.startup.value(self.row.get()?.0)?.downcast_ref())
    }

    #[cold]
    #[track_caller]
    fn of_pe(&self) -> &T {
        self.here().unwrap_or_else(|| {
            let (_, name) = self.row();
            panic!("{name} is read before it is set: `main` sets it before it makes the first chare")
        })
    }

    #[track_caller]
    fn row(&self) -> (u16, &'static str) {
        registry::registry(); // gives this value its number
        *self.row.get().unwrap_or_else(|| {
            let ty = std::any::type_name::<T>();
            panic!("a `Readonly<{ty}>` is not registered: write `#[charm4rs::readonly]` before its `static`")
        })
    }

    fn store(&self, rt: Rt, id: u16, value: T) {
        if rt.host.has_the_process() {
            let _ = self.value.set(value); // another PE of the process may have been faster
        } else {
            rt.startup.keep(id, Box::leak(Box::new(value)));
        }
    }
}

impl<T: ReadonlyValue> Deref for Readonly<T> {
    type Target = T;

    #[inline]
    #[track_caller]
    fn deref(&self) -> &T {
        self.get()
    }
}

impl<T: fmt::Debug + ReadonlyValue> fmt::Debug for Readonly<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Readonly").field(&self.here()).finish()
    }
}

impl<T: ReadonlyValue> AnyReadonly for Readonly<T> {
    fn number(&self, id: u16, name: &'static str) {
        let _ = self.row.set((id, name));
    }

    fn take(&self, rt: Rt, id: u16, bytes: &[u8]) -> Result<(), WireError> {
        if self.here().is_none() {
            self.store(rt, id, wire::unpack(bytes, Vec::new())?);
        }
        Ok(())
    }
}

/// Runs the functions of a process. If one of them panics, returns its name and its panic.
pub(crate) fn init_process() -> Result<(), startup::Panic> {
    startup::each(|init| match init {
        Init::Process(run) => Some(Box::new(run)),
        Init::Pe(_) => None,
    })
}

/// Runs the functions of a PE. Errors as for a process.
pub(crate) fn init_pe(pe: Pe) -> Result<(), startup::Panic> {
    startup::each(|init| match init {
        Init::Process(_) => None,
        Init::Pe(run) => Some(Box::new(move || run(pe))),
    })
}
