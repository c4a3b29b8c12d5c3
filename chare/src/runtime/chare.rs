//! The traits between user code, macros and runtime: all that the runtime knows of a chare type and of an entry method. `#[chare]` implements them for the types of an `impl` block.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

use bytemuck::Pod;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::payload::RecvBuffer;
use super::registry::{ChareInfo, MethodInfo};
use crate::message::index::{ElementIndex, IndexMap};
use crate::runtime::payload::Payload;
use crate::runtime::target::{Calls, Kind};
use crate::runtime::{Cx, This};

/// A type of arguments and results: owned, sendable to another thread, serializable.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot travel between PEs",
    label = "not an argument or result of an entry method",
    note = "arguments and results are `Send + serde::Serialize + serde::Deserialize + 'static`: own the data (no borrows, no `Rc`), and derive serde's traits",
    note = "large arrays travel best as `charm4rs::Payload<T>`"
)]
pub trait Arguments: Send + Serialize + DeserializeOwned + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Send + Serialize + DeserializeOwned + 'static> Arguments for T {}

/// What a constructor's arguments `I` can be made of: themselves, and, if there is one alone, a `String` of a `&str` and a
/// [`Payload`] of a `Vec`.
#[diagnostic::on_unimplemented(
    message = "the chare's constructor takes `{I}`, not `{Self}`",
    label = "expected `{I}`, found `{Self}`",
    note = "several arguments are a tuple, none are `()`"
)]
pub trait IntoInit<I> {
    /// The arguments.
    fn into_init(self) -> I;
}

impl<I> IntoInit<I> for I {
    #[inline]
    fn into_init(self) -> I {
        self
    }
}

impl IntoInit<String> for &str {
    fn into_init(self) -> String {
        self.to_owned()
    }
}

impl<T: Pod + Send> IntoInit<Payload<T>> for Vec<T> {
    fn into_init(self) -> Payload<T> {
        self.into()
    }
}

/// A type whose values live on PEs and are called through proxies. Implemented by [`#[chare]`](macro@crate::chare).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a chare",
    note = "put `#[chare]` (or `#[chare(index = …)]`) on its `impl` block; a generic chare has the instances that its `instances(…)` lists"
)]
pub trait Chare: Sized + 'static {
    /// The index of an element in its collection; [`Solo`](crate::Solo) for single chares.
    type Index: ElementIndex;
    /// Decides on which PE an element is created.
    type Map: IndexMap<Self::Index>;
    /// The constructor's argument, or a tuple of them.
    type Init: Arguments;
    /// The entry methods as methods of a proxy.
    type Calls<K: Kind>: Calls<Self, K>;
    /// The bodiless entry methods as receives.
    type Receives: From<This<Self>>;
    /// The type's path.
    const NAME: &'static str;

    /// Creates an element.
    fn construct(cx: &mut Cx<Self>, init: Self::Init) -> Self;
    /// The type's row in the registry.
    fn info() -> &'static ChareInfo;
    /// The map of single chares; `None` if the chares have an index.
    #[doc(hidden)]
    fn solo_map() -> Option<Self::Map>;
    /// What its index type supports.
    #[doc(hidden)]
    fn naming() -> crate::message::index::Naming<Self::Index>;
}

/// One entry method of a chare, as a type. Implemented by `#[chare]`.
pub trait Entry: Sized + 'static {
    /// The chare.
    type Chare: Chare;
    /// A tuple of the arguments.
    type Args: Arguments;
    /// The result.
    type Output: Arguments;
    /// The method's name.
    const NAME: &'static str;
    /// Its arguments and result as text, for the digest.
    const SIGNATURE: &'static str;

    /// Whether it chooses the memory for its payloads: see [`Entry::post`].
    const POSTS: bool = false;

    /// The memory for payload number `which`, of `bytes` bytes, of an incoming call; `None`: memory of the runtime. Called only if the payload would
    /// otherwise be copied.
    fn post(this: &This<Self::Chare>, which: usize, bytes: usize) -> Option<RecvBuffer> {
        let _ = (this, which, bytes);
        None
    }

    /// The number of bytes that its arguments own on the heap, as far as that is cheap to determine.
    #[doc(hidden)]
    fn weight(args: &Self::Args) -> usize {
        let _ = args;
        0
    }

    /// Runs it, or starts it.
    fn run(this: &This<Self::Chare>, args: Self::Args) -> Started<Self::Output>;
    /// The method's row in the registry.
    fn info() -> &'static MethodInfo;
}

/// The state of an entry method after its start.
pub enum Started<O> {
    /// It has run.
    Done(O),
    /// It is an `async` method: this is the rest of it.
    Suspended(Pin<Box<dyn Future<Output = O>>>),
}

impl<O: Debug> Debug for Started<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done(out) => f.debug_tuple("Done").field(out).finish(),
            Self::Suspended(_) => f.write_str("Suspended"),
        }
    }
}
