//! The first of several futures to be ready.

use std::future::{Future, IntoFuture, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

/// Which of two futures was ready first, and its result; see [`select`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Either<A, B> {
    /// The first one.
    First(A),
    /// The second one.
    Second(B),
}

/// Waits for the first of two futures that is ready: calls, which are sent now, replies, receives, or any other future. If both are ready, the first
/// argument wins. The other future is dropped, unless it was borrowed (`&mut future`): then it can be awaited later.
///
/// The futures of this crate can be dropped at any time: a dropped receive has not taken a call from its mailbox, and the result of a dropped
/// [`Reply`](crate::Reply) is dropped when it arrives; the call continues. For more than two futures, nest `select`, or use [`select_all`].
///
/// ```
/// # use charm4rs::prelude::*;
/// # use std::time::Duration;
/// use charm4rs::{Either, select};
///
/// struct Server;
///
/// #[chare]
/// impl Server {
///     #[init]
///     fn new() -> Self { Self }
///     #[entry]
///     async fn serve(this: This<Self>) -> u64 {
///         let mut sum = 0;
///         loop {
///             match select(this.next_request(), this.next_stop()).await {
///                 Either::First(number) => sum += number,
///                 Either::Second(()) => return sum,
///             }
///         }
///     }
///     #[entry]
///     fn request(&mut self, number: u64);
///     #[entry]
///     fn stop(&mut self);
/// }
/// # charm4rs::testing::threads(2, |job| async move {
///
/// let server = job.single::<Server>(());
/// let mut sum = server.serve().call();
/// (1..=3).for_each(|number| drop(server.request(number)));
/// let early = select(&mut sum, job.sleep(Duration::from_millis(1))).await;
/// assert_eq!(early, Either::Second(()));
/// server.stop();
/// assert_eq!(sum.await, 6);
/// # }).unwrap();
/// ```
#[must_use = "a future does nothing unless awaited"]
pub fn select<A: IntoFuture, B: IntoFuture>(a: A, b: B) -> impl Future<Output = Either<A::Output, B::Output>> {
    first_of(a.into_future(), b.into_future())
}

async fn first_of<A: Future, B: Future>(a: A, b: B) -> Either<A::Output, B::Output> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|cx| match a.as_mut().poll(cx) {
        Poll::Ready(first) => Poll::Ready(Either::First(first)),
        Poll::Pending => b.as_mut().poll(cx).map(Either::Second),
    })
    .await
}

/// Waits for the first of many futures that is ready: returns its position among them, and its result. The others are dropped, unless they were
/// borrowed. If several are ready, the first one wins. Calls are sent now. Like [`select`]; never ready if there are no futures.
///
/// ```
/// # use charm4rs::prelude::*;
/// use charm4rs::select_all;
/// # charm4rs::testing::threads(1, |job| async move {
/// let (promises, mut replies): (Vec<_>, Vec<_>) = (0..3).map(|_| job.promise::<u32>()).unzip();
/// promises[1].send(5);
/// assert_eq!(select_all(&mut replies).await, (1, 5));
/// replies.remove(1);
/// promises[2].send(7);
/// assert_eq!(select_all(&mut replies).await, (1, 7));   // the second of those that are left
/// # }).unwrap();
/// ```
#[must_use = "a future does nothing unless awaited"]
pub fn select_all<F: IntoFuture>(futures: impl IntoIterator<Item = F>) -> impl Future<Output = (usize, F::Output)> {
    first_of_all(futures.into_iter().map(|future| Box::pin(future.into_future())).collect())
}

async fn first_of_all<F: Future>(mut waiting: Vec<Pin<Box<F>>>) -> (usize, F::Output) {
    poll_fn(move |cx| {
        for (at, future) in waiting.iter_mut().enumerate() {
            if let Poll::Ready(result) = future.as_mut().poll(cx) {
                return Poll::Ready((at, result));
            }
        }
        Poll::Pending
    })
    .await
}
