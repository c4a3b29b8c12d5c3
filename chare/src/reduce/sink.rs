//! Sinks: the destinations of a reduction's result.

use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

use crate::message::wire;
use crate::runtime::chare::Entry;
use crate::runtime::target::{Kind, Target};
use crate::runtime::{self, Route};

/// Where a result goes: a [`Promise`](crate::Promise), an entry method (`proxy.method_sink(…)`), or nowhere.
///
/// The result is the last argument of the entry method. The sink holds the arguments before it:
///
/// ```
/// # use charm4rs::prelude::*;
/// struct Report;
///
/// #[chare]
/// impl Report {
///     #[init]
///     fn new() -> Self { Self }
///     #[entry]
///     fn energy(&mut self, step: u32, done: Promise<(u32, f64)>, energy: f64) { done.send((step, energy)) }
/// }
///
/// struct Particles;
///
/// #[chare(index = usize)]
/// impl Particles {
///     #[init]
///     fn new() -> Self { Self }
///     #[entry]
///     fn measure(&mut self, cx: &mut Cx<Self>, to: reduce::Sink<f64>) { cx.contribute(0.5, reduce::sum, to); }
/// }
/// # charm4rs::testing::threads(2, |job| async move {
///
/// let (done, told) = job.promise();
/// let report = job.single::<Report>(());
/// job.array::<Particles>(4, ()).all().measure(report.energy_sink(3, done));
/// assert_eq!(told.await, (3, 2.0));
/// # }).unwrap();
/// ```
pub struct Sink<O> {
    pub(crate) route: Route,
    item: PhantomData<fn(O)>,
}

impl<O> Sink<O> {
    pub(crate) fn to(route: Route) -> Self {
        Self { route, item: PhantomData }
    }

    /// Discards the result.
    #[must_use]
    pub fn nowhere() -> Self {
        Self::to(Route::Nobody)
    }
}

/// A destination for results of type `O`.
#[diagnostic::on_unimplemented(
    message = "a result of type `{O}` cannot go to `{Self}`",
    label = "does not take a `{O}`",
    note = "it can go to a `Promise<{O}>`, to an entry method whose last argument it is (`proxy.method_sink(…)`, with the arguments before it), or to `Sink::nowhere()`"
)]
pub trait IntoSink<O> {
    /// Converts the destination to a sink.
    fn into_sink(self) -> Sink<O>;
}

impl<O> IntoSink<O> for Sink<O> {
    fn into_sink(self) -> Sink<O> {
        self
    }
}

impl<O> Clone for Sink<O> {
    fn clone(&self) -> Self {
        Self::to(self.route.clone())
    }
}

impl<O> std::fmt::Debug for Sink<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.route.fmt(f)
    }
}

impl<O> Serialize for Sink<O> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.route.serialize(serializer)
    }
}

impl<'de, O> Deserialize<'de> for Sink<O> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Route::deserialize(deserializer).map(Self::to)
    }
}

/// A sink that is an entry method: its first arguments travel with each part, with their payloads in the bytes. For `#[chare]`.
#[track_caller]
pub fn sink<E: Entry, K: Kind, A: Serialize, V>(target: &Target<E::Chare, K>, first: A) -> Sink<V> {
    let before = if K::BROADCAST {
        wire::pack_inside(&(runtime::SILENT, first))
    } else {
        wire::pack_inside(&(target.which, first))
    };
    let before = before.unwrap_or_else(|why| panic!("the arguments of a sink of {} cannot be kept: {why}", E::NAME));
    Sink::to(Route::Entry { collection: target.collection, method: E::info().id(), before, broadcast: K::BROADCAST })
}
