//! Futures: values that arrive later, from a call, a reduction, or the holder of a [`Promise`]. The runtime has the table of futures.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::message::envelope::FutureId;
use crate::reduce::{IntoSink, Sink};
use crate::runtime::{self, OpenFuture, Route};
use crate::{Arguments, CallError};

/// A value that arrives later. Await it on the PE that created the reply.
///
/// If the call failed (its entry method panicked, its target does not exist), awaiting the reply panics with the text of the [`CallError`], as
/// joining a thread and unwrapping the result does. [`Reply::checked`] returns the error instead. Dropping a reply cancels only the wait.
#[must_use = "a reply does nothing unless awaited"]
pub struct Reply<R>(pub(crate) OpenFuture<R>);

impl<R: 'static> Reply<R> {
    pub(crate) fn id(&self) -> FutureId {
        self.0.slot.id
    }

    /// Completes with the result, or with the error.
    pub fn checked(self) -> Checked<R> {
        Checked(self)
    }

    /// Completes with the result, or with [`CallError::TimedOut`] if it does not arrive in time.
    pub async fn timeout(self, limit: Duration) -> Result<R, CallError> {
        let mut sleep = std::pin::pin!(self.0.slot.rt.sched.sleep(limit));
        let mut checked = std::pin::pin!(self.checked());
        std::future::poll_fn(|cx| match checked.as_mut().poll(cx) {
            Poll::Pending => sleep.as_mut().poll(cx).map(|()| Err(CallError::TimedOut(limit))),
            ready => ready,
        })
        .await
    }
}

impl<R: 'static> Future for Reply<R> {
    type Output = R;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<R> {
        let slot = &self.0.slot;
        slot.rt.futures.poll(slot.id, cx.waker()).map(|result| match result {
            Ok(value) => value,
            Err(error) => std::panic::panic_any(error),
        })
    }
}

impl<R> fmt::Debug for Reply<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reply").field(&self.0.slot.id).finish()
    }
}

/// A [`Reply`] that returns errors as values; see [`Reply::checked`].
#[derive(Debug)]
#[must_use = "a reply does nothing unless awaited"]
pub struct Checked<R>(Reply<R>);

impl<R: 'static> Checked<R> {
    /// Calls `then` with the result, on this PE, between two calls. It costs less than a task that awaits the reply: for a front in another language.
    #[doc(hidden)]
    pub fn then(self, then: impl FnOnce(Result<R, CallError>) + 'static) {
        self.0.0.then(then);
    }
}

impl<R: 'static> Future for Checked<R> {
    type Output = Result<R, CallError>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let slot = &self.0.0.slot;
        slot.rt.futures.poll(slot.id, cx.waker())
    }
}

/// The sending end of a [`Reply`] that does not belong to a call. Its holder, on any PE of the job, sends the value.
///
/// [`Job::promise`](crate::Job::promise) creates it. Only the first value counts.
pub struct Promise<R> {
    pub(crate) id: FutureId,
    item: PhantomData<fn(R)>,
}

impl<R: Arguments> Promise<R> {
    pub(crate) fn of(reply: &Reply<R>) -> Self {
        Self { id: reply.0.slot.id, item: PhantomData }
    }

    /// Sends the value.
    pub fn send(self, value: R) {
        let rt = runtime::current();
        if self.id.pe == rt.sched.pe() {
            return rt.futures.fulfil(self.id, value);
        }
        // The value is not moved to another PE of the process: if there are several values, only the first is received.
        runtime::reply_serialized(rt, self.id, value);
    }
}

impl<R> Clone for Promise<R> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<R> Copy for Promise<R> {}
impl<R> fmt::Debug for Promise<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Promise").field(&self.id).finish()
    }
}
impl<R> Serialize for Promise<R> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.id.serialize(serializer)
    }
}
impl<'de, R> Deserialize<'de> for Promise<R> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { id: FutureId::deserialize(deserializer)?, item: PhantomData })
    }
}

impl<O> IntoSink<O> for Promise<O> {
    fn into_sink(self) -> Sink<O> {
        self.into()
    }
}

impl<O> From<Promise<O>> for Sink<O> {
    fn from(promise: Promise<O>) -> Self {
        Self::to(Route::Future(promise.id))
    }
}

/// Waits for all calls or futures. Calls are sent now. The results are in the same order.
///
/// ```
/// # use charm4rs::prelude::*;
/// # struct Block;
/// # #[chare(index = usize)]
/// # impl Block {
/// #     #[init]
/// #     fn new() -> Self { Self }
/// #     #[entry]
/// #     fn scale(&mut self, by: f64) -> f64 { by }
/// # }
/// # charm4rs::testing::threads(2, |job| async move {
/// let blocks = job.array::<Block>(8, ());
/// let parts = join_all((0..8).map(|i| blocks.at(i).scale(i as f64))).await;
/// assert_eq!(parts, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
/// # }).unwrap();
/// ```
#[must_use = "a future does nothing unless awaited"]
pub fn join_all<F: IntoFuture>(futures: impl IntoIterator<Item = F>) -> impl Future<Output = Vec<F::Output>> {
    join_started(futures.into_iter().map(|future| Some(Box::pin(future.into_future()))).collect())
}

async fn join_started<F: Future>(mut waiting: Vec<Option<Pin<Box<F>>>>) -> Vec<F::Output> {
    let mut results: Vec<Option<F::Output>> = waiting.iter().map(|_| None).collect();
    std::future::poll_fn(move |cx| {
        let mut all = true;
        for (future, result) in waiting.iter_mut().zip(&mut results) {
            if let Some(running) = future {
                match running.as_mut().poll(cx) {
                    Poll::Ready(value) => (*result, *future) = (Some(value), None),
                    Poll::Pending => all = false,
                }
            }
        }
        if all { Poll::Ready(results.iter_mut().filter_map(Option::take).collect()) } else { Poll::Pending }
    })
    .await
}
