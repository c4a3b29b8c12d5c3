//! A Python object as a chare of the engine: how it is created and called, and how it replies.

use std::rc::Rc;

use charm4rs::prelude::*;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::arguments::{CallArgs, refused};
use crate::array_map::{self, Map};
use crate::chare;
use crate::classes::{self, Class, EntryMethod, Kind};
use crate::codec;
use crate::gate::{self, Gate, Held};
use crate::index::{Index, Shape};
use crate::outcome::Outcome;
use crate::packed::Packed;
use crate::part::Part;
use crate::state::{engine, fatal, hooks, is_exit};
use crate::stats;

/// What a new element is created from.
#[derive(Clone, Serialize, Deserialize, Default)]
pub(crate) struct Init {
    pub(crate) class: u32,
    pub(crate) shape: Shape,
    pub(crate) args: Packed,
}

/// Where the outcome of a call goes.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) enum ReplyTo {
    /// Nowhere: the caller waits for nothing.
    Nowhere,
    /// To the caller's future, as a reply of the engine. With `value` the future gets the method's value; otherwise `None` when the method has ended.
    Future { promise: Promise<Outcome>, value: bool },
}

impl ReplyTo {
    fn is_nowhere(self) -> bool {
        matches!(self, Self::Nowhere)
    }

    pub(crate) fn send(self, outcome: Outcome) {
        if let Self::Future { promise, .. } = self {
            promise.send(outcome);
        }
    }

    /// Replies with the method's value, or with `None` if the caller does not want the value.
    fn value(self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let wanted = match self {
            Self::Nowhere => return Ok(()),
            Self::Future { value, .. } => value,
        };
        let outcome = if wanted {
            {
                let packed = codec::encode(value).map_err(|error| refused(value.py(), "the result", error))?;
                Outcome::Value(packed)
            }
        } else {
            Outcome::nothing()
        };
        self.send(outcome);
        Ok(())
    }
}

/// The reply of a call that the package runs itself.
#[pyclass(frozen, module = "charm4py._engine")]
pub(crate) struct Answer {
    reply: ReplyTo,
    place: Place,
}

/// Where a method runs, for the report of an error that ends the job.
#[derive(Clone, Copy)]
struct Place {
    class: &'static Class,
    method: &'static EntryMethod,
    index: Index,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}, index {:?}", self.class.name, self.method.name, self.index.as_slice())
    }
}

#[pymethods]
impl Answer {
    /// The method has returned.
    fn value(&self, value: &Bound<'_, PyAny>) {
        if let Err(error) = self.reply.value(value) {
            self.fail(value.py(), &error);
        }
    }

    /// The method has run for so long, and waits now.
    fn ran(&self, seconds: f64) {
        self.place.method.stats.ran(std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default());
    }

    /// The method has raised.
    fn error(&self, error: &Bound<'_, PyAny>) {
        self.fail(error.py(), &PyErr::from_value(error.clone()));
    }
}

impl Answer {
    fn fail(&self, py: Python<'_>, error: &PyErr) {
        if self.reply.is_nowhere() || is_exit(py, error) {
            fatal(py, error, &self.place.to_string());
        } else {
            self.reply.send(Outcome::error(py, error));
        }
    }
}

/// The error for a chare whose class exists only on the PE that created it.
const NO_CLASS: &str = "the chare's class is not defined on this PE: define it at module level, where every PE does so";

/// A Python object that is a chare.
pub(crate) struct Element {
    object: Py<PyAny>,
    class: &'static Class,
    shape: Shape,
    /// Holds calls while the constructor, a coroutine, runs.
    gate: Option<Rc<Gate>>,
}

#[chare(index = Index, map = Map)]
impl Element {
    #[init]
    fn new(cx: &mut Cx<Self>, init: Init) -> Self {
        let (this, collection, index, shape) = (cx.this(), cx.collection(), cx.index(), init.shape);
        Python::attach(|py| {
            let class = classes::class(init.class);
            let class = class.unwrap_or_else(|| {
                this.job().abort_with(1, NO_CLASS);
                unreachable!("the process has ended")
            });
            match chare::construct(py, class, this, init) {
                Ok(object) => {
                    array_map::arrived(collection, index);
                    // A collection of single chares has chares of any class.
                    if let (Ok(engine), false) = (engine(), matches!(shape, Shape::Single)) {
                        engine.known.has_made(collection.id(), class);
                    }
                    let gate = gate::of(&object);
                    Self { object: object.unbind(), class, shape, gate }
                }
                Err(error) => {
                    let place = format!("{}.__init__, index {:?}", class.name, cx.index().as_slice());
                    fatal(py, &error, &place);
                    Self { object: py.None(), class, shape, gate: None }
                }
            }
        })
    }

    /// Calls a method, which sends its own reply when it ends. (`front.rs` reads the parameters before the arguments.)
    #[entry]
    fn call(&mut self, cx: &mut Cx<Self>, method: u16, reply: ReplyTo, args: CallArgs) {
        Python::attach(|py| self.run(py, cx.index(), method, args, reply));
    }

    /// Destroys the chare.
    #[entry]
    fn end(&self, cx: &mut Cx<Self>) {
        array_map::left(cx.collection(), cx.index());
        if let (Ok(engine), Shape::Single) = (engine(), self.shape) {
            engine.known.has_ended(cx.collection().id(), cx.index(), self.class);
        }
        cx.destroy();
    }

    /// Calls a method whose outcome is this entry method's result: in broadcasts, whose results the engine gathers, and in large calls.
    #[entry]
    async fn ask(this: This<Self>, method: u16, args: CallArgs, value: bool) -> Outcome {
        let (promise, outcome) = this.job().promise();
        let index = this.index();
        this.with(|element| {
            Python::attach(|py| element.run(py, index, method, args, ReplyTo::Future { promise, value }));
        });
        outcome.await
    }
}

impl Element {
    fn run(&self, py: Python<'_>, index: Index, method: u16, args: CallArgs, reply: ReplyTo) {
        match &self.gate {
            Some(gate) if gate.holds(self.method_name(method)) => gate.hold(Held { method, args, reply }),
            _ => self.run_now(py, index, method, args, reply),
        }
    }

    pub(crate) fn method_name(&self, method: u16) -> &'static str {
        self.class.methods.get(usize::from(method)).map_or("", |method| &method.name)
    }

    pub(crate) fn run_now(&self, py: Python<'_>, index: Index, method: u16, args: CallArgs, reply: ReplyTo) {
        let Some(method) = self.class.methods.get(usize::from(method)) else {
            panic!("{} has no entry method number {method}: its processes run different programs", self.class.name);
        };
        if stats::profiling() {
            method.stats.received(args.len());
        }
        let done = method.stats.timed(|| match method.kind {
            Kind::Plain => self.call_plain(py, method, args).and_then(|value| reply.value(&value)),
            Kind::Special => self.call_special(py, index, method, args, reply),
        });
        let done = done.and_then(|()| self.recheck(py));
        if let Err(error) = done {
            Answer { reply, place: Place { class: self.class, method, index } }.fail(py, &error);
        }
    }

    fn call_plain<'py>(&self, py: Python<'py>, method: &EntryMethod, args: CallArgs) -> PyResult<Bound<'py, PyAny>> {
        let (args, keywords) = self.arguments(py, args)?;
        method.function.bind(py).call(args, keywords.as_ref())
    }

    /// Lets the package run a coroutine or a method with a condition.
    fn call_special(
        &self,
        py: Python<'_>,
        index: Index,
        method: &'static EntryMethod,
        args: CallArgs,
        reply: ReplyTo,
    ) -> PyResult<()> {
        let (args, keywords) = self.arguments(py, args)?;
        let answer = Answer { reply, place: Place { class: self.class, method, index } };
        let run = hooks()?.getattr(py, intern!(py, "run_special"))?;
        run.call1(py, (&method.function, args, keywords, answer)).map(drop)
    }

    /// Resumes what waits for a condition that may hold now.
    fn recheck(&self, py: Python<'_>) -> PyResult<()> {
        let object = self.object.bind(py);
        if chare::watched(object) {
            hooks()?.getattr(py, intern!(py, "recheck"))?.call1(py, (object,))?;
        }
        Ok(())
    }

    fn arguments<'py>(
        &self,
        py: Python<'py>,
        args: CallArgs,
    ) -> PyResult<(Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>)> {
        let keywords = match args.keywords {
            Some(keywords) => {
                let keywords = keywords.object(py)?.cast_into::<PyDict>();
                Some(keywords.map_err(|_| PyTypeError::new_err("keywords that are no dict"))?)
            }
            None => None,
        };
        let object = self.object.bind(py);
        let args = match args.args {
            Part::Packed(packed) => codec::decode_args(object, packed)?,
            Part::Object(args) => {
                let args = args.into_bound(py).cast_into::<PyTuple>()?;
                PyTuple::new(py, [object.clone()])?.as_sequence().concat(args.as_sequence())?.to_tuple()?
            }
        };
        Ok((args, keywords))
    }
}

/// The reference of a `ChareBase` to its element.
pub(crate) type Handle = This<Element>;
