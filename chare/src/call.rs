//! A call that is not sent yet: the type that `proxy.method(args)` returns.

use std::fmt;
use std::future::IntoFuture;
use std::mem::ManuallyDrop;
use std::time::Duration;

use crate::message::envelope::CallOptions;
use crate::reduce::Reducer;
use crate::runtime::known;
use crate::runtime::{self, Awaited, Merged, OpenFuture};
use crate::{CallError, Chare, Checked, Entry, Kind, Many, One, Reply, Target};

/// A call of an entry method. It is sent when it is awaited; otherwise it is sent when it is dropped, at the end of the statement that creates it.
///
/// Awaiting a call is the same as awaiting the [`Reply`] that `call()` returns: use `call()` to start a call now and await it later. A call in a
/// variable is sent when the variable goes out of scope.
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
/// let blocks = job.array::<Block>(4, ());
/// let block = blocks.at(3);
/// block.scale(2.0);                          // send, and forget
/// let by = block.scale(2.0).await;           // send, and wait for the result
/// let reply = block.scale(3.0).call();       // send now; the reply is awaited later
/// let all = blocks.all().scale(2.0).await;   // send to all; the results in the order of the indices
/// blocks.all().scale(2.0).done().await;      // send to all, and wait until all have run
/// block.scale(2.0).priority(-5);             // ahead of the default priority, 0
/// # assert_eq!((by, reply.await, all), (2.0, 3.0, vec![2.0; 4]));
/// # }).unwrap();
/// ```
pub struct Call<E: Entry, K: Kind> {
    target: Target<E::Chare, K>,
    args: ManuallyDrop<Option<E::Args>>,
    options: CallOptions,
}

impl<E: Entry, K: Kind> Call<E, K> {
    #[doc(hidden)]
    #[inline]
    pub fn new(target: &Target<E::Chare, K>, args: E::Args) -> Self {
        Self { target: *target, args: ManuallyDrop::new(Some(args)), options: CallOptions::default() }
    }

    /// Sets the priority: the call runs before calls with larger numbers and after calls with smaller numbers. The default is 0.
    pub fn priority(mut self, priority: i32) -> Self {
        self.options = self.options.priority(priority);
        self
    }

    /// Among calls of the same priority, this call runs before those that arrived earlier.
    pub fn lifo(mut self) -> Self {
        self.options = self.options.lifo();
        self
    }

    /// The call runs before calls of any priority.
    pub fn expedited(mut self) -> Self {
        self.options = self.options.expedited();
        self
    }

    /// Sends the call now and never blocks the PE. The future completes when the call has left this PE within its credit (`++credit`), or at once if
    /// it already has.
    ///
    /// This suspends a producer that is faster than its receiver, while other calls of its PE continue. Without `sent`, the producer makes its whole
    /// PE wait.
    ///
    /// ```
    /// # use charm4rs::prelude::*;
    /// # struct Sink(u64);
    /// # #[chare(index = usize)]
    /// # impl Sink {
    /// #     #[init]
    /// #     fn new() -> Self { Self(0) }
    /// #     #[entry]
    /// #     fn take(&mut self, samples: Payload<f64>) { self.0 += samples.len() as u64 }
    /// #     #[entry]
    /// #     fn taken(&mut self) -> u64 { self.0 }
    /// # }
    /// # charm4rs::testing::threads(2, |job| async move {
    /// # let sink = job.array::<Sink>(2, ()).at(1);
    /// for _ in 0..100 {
    ///     sink.take(vec![0.0; 1000]).sent().await;
    /// }
    /// # assert_eq!(sink.taken().await, 100_000);
    /// # }).unwrap();
    /// ```
    #[must_use = "the call is sent in any case; add `.await`, so that its receiver can keep up"]
    pub fn sent(self) -> impl Future<Output = ()> + 'static {
        let rt = runtime::current();
        let sent = rt.sched.without_waiting(|| drop(self));
        async move { rt.sched.left(sent).await }
    }

    fn take(mut self) -> (Target<E::Chare, K>, E::Args, CallOptions) {
        (self.target, self.args.take().expect("a call is sent once"), self.options)
    }
}

impl<E: Entry> Call<E, One> {
    /// Sends the call now. The reply is the entry method's result. To wait for it at once, await the call itself.
    #[must_use = "the reply is not awaited: write `.await` in place of `.call()`, or nothing"]
    pub fn call(self) -> Reply<E::Output> {
        let rt = runtime::current();
        let reply = Reply(OpenFuture::new(rt, Awaited::Call(E::info())));
        let (target, args, options) = self.take();
        runtime::call::<E>(rt, target.collection, target.which, args, options, reply.id());
        reply
    }

    /// Sends the call. The reply arrives when the entry method has finished.
    #[must_use = "the reply is not awaited: add `.await`, or leave `.done()` out"]
    pub fn done(self) -> Reply<()> {
        let rt = runtime::current();
        let reply = Reply(OpenFuture::discarding::<E::Output>(rt, Awaited::Call(E::info())));
        let (target, args, options) = self.take();
        runtime::call::<E>(rt, target.collection, target.which, args, options, reply.id());
        reply
    }
}

impl<E: Entry> Call<E, Many> {
    /// Sends the call to all elements now. The reply is the list of results, in the order of the elements' indices. To wait for it at once, await the
    /// call itself.
    #[must_use = "the reply is not awaited: write `.await` in place of `.call()`, or nothing"]
    pub fn call(self) -> Reply<Vec<E::Output>> {
        let rt = runtime::current();
        let reply = Reply(OpenFuture::list(rt, Awaited::Broadcast(E::info())));
        let (target, args, options) = self.take();
        runtime::call_all::<E>(rt, target.collection, args, options, runtime::Answer::Values(reply.id()));
        reply
    }

    /// Sends the call to all elements. The reply arrives when the entry method has finished on all of them.
    #[must_use = "the reply is not awaited: add `.await`, or leave `.done()` out"]
    pub fn done(self) -> Reply<()> {
        let rt = runtime::current();
        let reply = Reply(OpenFuture::new(rt, Awaited::Broadcast(E::info())));
        let (target, args, options) = self.take();
        runtime::call_all::<E>(rt, target.collection, args, options, runtime::Answer::Done(reply.id()));
        reply
    }
}

impl<E: Entry, K: Kind> Drop for Call<E, K> {
    #[inline]
    fn drop(&mut self) {
        let Some(args) = self.args.take() else { return };
        K::send::<E>(runtime::current(), &self.target, args, self.options);
    }
}

impl<E: Entry> Call<E, Many> {
    /// Sends the call to all elements now. The reply is one value: `reducer` merges all results.
    ///
    /// The results are merged on the PEs of the elements and up a tree that enters each process and host once. The caller does not receive the whole
    /// list. These reductions are independent of those to which elements contribute ([`Cx::contribute`](crate::Cx::contribute)): neither waits for
    /// the other. The module [`reduce`](crate::reduce) has the reducers.
    ///
    /// ```
    /// # use charm4rs::prelude::*;
    /// # struct Sample(f64);
    /// # #[chare(index = usize)]
    /// # impl Sample {
    /// #     #[init]
    /// #     fn new(cx: &mut Cx<Self>) -> Self { Self(cx.index() as f64) }
    /// #     #[entry]
    /// #     fn value(&self) -> f64 { self.0 }
    /// # }
    /// # charm4rs::testing::threads(2, |job| async move {
    /// let samples = job.array::<Sample>(5, ());
    /// assert_eq!(samples.all().value().reduce(reduce::sum).await, 10.0);
    /// assert_eq!(samples.section([1, 4]).all().value().reduce(reduce::max).await, 4.0);
    /// assert_eq!(samples.all().value().reduce(reduce::with(|a: f64, b| a.hypot(b))).await, 30f64.sqrt());
    /// # }).unwrap();
    /// ```
    ///
    /// If an element fails, the reduction fails. For a collection without elements the result is [`Reducer::empty`], for example 0 for a sum or a
    /// count. If the reducer has no such value, as `max`, the reduction fails with [`CallError::NoResults`].
    ///
    /// Only the caller has a reducer with state, such as `reduce::with` of a closure that captures something. The results then travel as a list, and
    /// the caller merges them.
    #[must_use = "the reply is not awaited: add `.await`"]
    pub fn reduce<R: Reducer<E::Output> + Copy + Send>(self, reducer: R) -> Reply<R::Output> {
        let rt = runtime::current();
        let reply = Reply(OpenFuture::new(rt, Awaited::Broadcast(E::info())));
        match known::number::<E::Output, R>(reducer) {
            Some(number) => {
                let (target, args, options) = self.take();
                runtime::call_all::<E>(
                    rt,
                    target.collection,
                    args,
                    options,
                    runtime::Answer::Reduced(reply.id(), number),
                );
            }
            None => {
                let (results, to) = (self.checked(), reply.id());
                runtime::spawn(rt, async move {
                    let none = || CallError::NoResults { chare: E::Chare::NAME.into(), entry: E::NAME.into() };
                    match results.await.and_then(|results| Merged::of(reducer, results).ok_or_else(none)) {
                        Ok(result) => rt.futures.fulfil(to, result),
                        Err(error) => rt.futures.fail(to, error),
                    }
                });
            }
        }
        reply
    }
}

/// No type implements this trait.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "a call of one element has one result: there is nothing to reduce",
    label = "`reduce` follows a call of all elements",
    note = "write `collection.all().method(…).reduce(…)`, or `section.all()` for some of them"
)]
pub trait HasManyResults {}

impl<E: Entry> Call<E, One> {
    #[doc(hidden)]
    pub fn reduce<R>(self, _reducer: R) -> Reply<E::Output>
    where
        E: HasManyResults,
    {
        self.call()
    }
}

macro_rules! awaited {
    ($($kind:ident => $result:ty),*) => {$(
        impl<E: Entry> Call<E, $kind> {
            /// Sends the call. Returns the result or the error; awaiting the call itself would panic on an error. See [`Reply::checked`].
            pub fn checked(self) -> Checked<$result> {
                self.call().checked()
            }

            /// Sends the call. Returns the result, or [`CallError::TimedOut`] if it does not arrive in time. See [`Reply::timeout`].
            #[must_use = "the result is not awaited: add `.await`, or leave `.timeout(…)` out"]
            pub fn timeout(self, limit: Duration) -> impl Future<Output = Result<$result, CallError>> + use<E> {
                self.call().timeout(limit)
            }
        }

        /// The same as awaiting [`Call::call`].
        impl<E: Entry> IntoFuture for Call<E, $kind> {
            type Output = $result;
            type IntoFuture = Reply<$result>;

            fn into_future(self) -> Reply<$result> {
                self.call()
            }
        }
    )*};
}
awaited!(One => E::Output, Many => Vec<E::Output>);

impl<E: Entry, K: Kind> fmt::Debug for Call<E, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}.{}(..)", self.target, E::NAME)
    }
}
