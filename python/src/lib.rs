//! The native part of the Python package `charm4py`: Python chares as a dynamic chare type of the engine.
//!
//! ```text
//!   charm4py (Python)   classes, coroutines, conditions, sections: what must be Python
//!   _engine  (here)     proxies, calls, futures, reductions: packed, routed and unpacked without Python code
//!   charm4rs            the object model
//! ```
//!
//! How a call travels: `proxy.method(args)` creates a [`proxy::Method`] and calls it; [`codec`] packs the arguments; the engine routes the call to
//! the element's PE; [`element`] unpacks them and calls the Python function. If the caller wants the outcome, the call carries a promise of the
//! engine ([`element::ReplyTo`]); the [`outcome`] is the engine's reply to it, which settles the caller's [`future`].
//!
//! Each process has one PE, on the thread that called `charm.start`. That thread holds the interpreter's lock while it runs and releases it
//! while it sleeps. All objects of this crate live on that thread. The crate knows nothing of backends, nor of the scheduler's internals.

mod api;
mod arguments;
mod array_map;
mod arrays;
mod branches;
mod callbacks;
mod chare;
mod classes;
mod codec;
mod create;
mod element;
mod front;
mod future;
mod gate;
mod handles;
mod index;
mod insertion;
mod known_classes;
mod launch;
mod notes;
mod numpy_memory;
mod outcome;
mod packed;
mod part;
mod pickle;
mod proxy;
mod proxy_help;
mod reduce;
mod sections;
mod state;
mod stats;
mod truth;

use pyo3::prelude::*;

#[pymodule]
mod _engine {
    #[pymodule_export]
    use crate::api::{
        abort, coarse_now, end_within, exit, join, now, place, refuse, run, server, shape, statistics, take_interrupt,
    };
    #[pymodule_export]
    use crate::arrays::Memory;
    #[pymodule_export]
    use crate::callbacks::{Timer, after, call_from_thread, call_soon, hold, quiescence, timer};
    #[pymodule_export]
    use crate::chare::{ChareBase, begin_unit, unit_of};
    #[pymodule_export]
    use crate::classes::register;
    #[pymodule_export]
    use crate::create::{array, group, single};
    #[pymodule_export]
    use crate::element::Answer;
    #[pymodule_export]
    use crate::future::{FutureBase, RemoteFuture, future_named};
    #[pymodule_export]
    use crate::gate::{construction_begins, construction_ends};
    #[pymodule_export]
    use crate::launch::charmrun;
    #[pymodule_export]
    use crate::notes::{created, note, noted};
    #[pymodule_export]
    use crate::proxy::{Method, Proxy, index, is_section, method_from_bytes, proxy_from_bytes, whole};
    #[pymodule_export]
    use crate::proxy_help::{class_of, proxy_of};
    #[pymodule_export]
    use crate::reduce::Kind;
    #[pymodule_export]
    use crate::sections::{Fill, extent, section, section_later};
    #[pymodule_export]
    use crate::state::set_hooks;
    #[pymodule_export]
    use crate::stats::set_options;

    use pyo3::prelude::*;

    /// Other names of `Proxy`. Only type checkers distinguish them.
    #[pymodule_init]
    fn aliases(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let proxy = module.getattr("Proxy")?;
        ["ElementProxy", "CollectionProxy"].iter().try_for_each(|name| module.add(*name, &proxy))
    }
}
