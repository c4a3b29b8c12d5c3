//! The traits that reductions use, and the receivers of their results. The reducers are in [`crate::reduce`].

use std::sync::Arc;

use charm4rs_transport::RegBuf;
use serde::{Deserialize, Serialize};

use crate::message::CollectionId;
use crate::message::envelope::FutureId;
use crate::runtime::chare::Arguments;

/// Merges many parts into one result. `V` is the type of an element's contribution.
#[diagnostic::on_unimplemented(
    message = "this reducer cannot reduce values of type `{V}`",
    note = "see the table in `charm4rs::reduce`; `reduce::with(|a, b| …)` merges values of any type"
)]
pub trait Reducer<V>: Sized + 'static {
    /// The type of the partial results that travel up the tree.
    type Partial: Arguments;
    /// The type of the result.
    type Output: Arguments;
    /// The partial result of one part.
    fn start(&self, value: V) -> Self::Partial;
    /// Merges two partial results. Must be associative and commutative.
    fn merge(&self, a: Self::Partial, b: Self::Partial) -> Self::Partial;
    /// The result of `count` parts.
    fn finish(&self, partial: Self::Partial, count: u64) -> Self::Output;

    /// The result of no parts, if there is one: the result of [`Call::reduce`](crate::Call::reduce) for a collection without elements.
    fn empty(&self) -> Option<Self::Output> {
        None
    }

    /// How the reducer merges element by element, if it does. Large partial results are then merged in place, and travel in pieces: some pieces are
    /// still low in the tree while others are already higher.
    ///
    /// Your own reducer can implement [`MergeItems`](crate::reduce::MergeItems) for this, if its partial result is a [`Run`](crate::reduce::Run).
    /// [`each`](fn@crate::reduce::each) turns a function into such a reducer.
    ///
    /// ```
    /// use charm4rs::Payload;
    /// use charm4rs::reduce::{ByElement, MergeItems, Reducer};
    ///
    /// /// The mean of every column.
    /// struct Means;
    ///
    /// impl MergeItems<f64> for Means {
    ///     fn merge_items(&self, a: f64, b: f64) -> f64 {
    ///         a + b
    ///     }
    /// }
    ///
    /// impl Reducer<Payload<f64>> for Means {
    ///     type Partial = Payload<f64>;
    ///     type Output = Payload<f64>;
    ///     fn start(&self, row: Payload<f64>) -> Payload<f64> {
    ///         row
    ///     }
    ///     fn merge(&self, mut a: Payload<f64>, b: Payload<f64>) -> Payload<f64> {
    ///         a.iter_mut().zip(&*b).for_each(|(a, b)| *a += b);
    ///         a
    ///     }
    ///     fn finish(&self, mut sums: Payload<f64>, count: u64) -> Payload<f64> {
    ///         sums.iter_mut().for_each(|sum| *sum /= count as f64);
    ///         sums
    ///     }
    ///     fn by_element() -> Option<ByElement<Self, Payload<f64>>> {
    ///         Some(ByElement::new())
    ///     }
    /// }
    /// ```
    #[must_use]
    fn by_element() -> Option<ByElement<Self, Self::Partial>> {
        None
    }
}

/// The proof that the reducer `R` merges its partial results `P` element by element, with the functions for it: see [`Reducer::by_element`].
pub struct ByElement<R, P> {
    pub(crate) item_bytes: usize,
    pub(crate) bytes: fn(&P) -> usize,
    pub(crate) into_memory: fn(P) -> RegBuf,
    pub(crate) room: fn(usize) -> RegBuf,
    pub(crate) from_memory: fn(Arc<RegBuf>) -> P,
    pub(crate) merge: fn(&R, &mut [u8], &[u8]),
}

impl<R, P> std::fmt::Debug for ByElement<R, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByElement").field("item_bytes", &self.item_bytes).finish_non_exhaustive()
    }
}

/// The receiver of a result, independent of its type.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Route {
    Nobody,
    Future(FutureId),
    /// Every contributor.
    Everyone,
    /// An entry method; `before` has the serialized arguments before the last one.
    Entry {
        collection: CollectionId,
        method: u16,
        before: Vec<u8>,
        broadcast: bool,
    },
}
