//! Proxies of chares of which only a trait is known. They correspond to inheritance of entry methods in Charm++.
//!
//! `#[chare]` on a trait makes its `#[entry]` methods entry methods of every chare that implements it by `#[chare] impl Trait for Chare`. Such an
//! implementation is a row of the registry: it has the rows of the entry methods for this chare, and a table of functions that send calls of
//! these methods. An [`AnyProxy`] names an element by the number of an implementation, a collection, and the serialized index.

use std::any::{Any, TypeId};
use std::fmt;
use std::future::IntoFuture;
use std::hash::{Hash, Hasher};
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;

use crate::message::CollectionId;
use crate::message::envelope::CallOptions;
use crate::message::envelope::FutureId;
use crate::message::wire;
use crate::runtime::registry::{self, Implementation, MethodInfo};
use crate::runtime::{self, Awaited, OpenFuture, Rt};
use crate::{Arguments, CallError, Chare, Checked, Entry, Kind, Proxy, Reply, Target};

/// A trait whose methods are entry methods, as `dyn Trait`. Implemented by [`#[chare]`](macro@crate::chare).
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no entry methods",
    label = "not a trait of chares",
    note = "put `#[chare]` on the trait, and `#[entry]` on each method that proxies need"
)]
pub trait ChareTrait: 'static {
    /// Its path.
    const NAME: &'static str;
    /// The entry methods as methods of an [`AnyProxy`].
    type AnyCalls: From<AnyTarget<Self>> + Deref<Target = AnyTarget<Self>>;
    /// The entry methods as methods of a chare of a known type: see [`Proxy::as_trait`].
    type Calls<T: Implements<Self>, K: Kind>: From<Target<T, K>>;
    /// The functions that send calls of each method.
    #[doc(hidden)]
    type Table: Any + Sync;
    /// The methods' rows in the registry.
    #[doc(hidden)]
    type Rows;
}

/// The rows and the table of a trait's methods for one chare.
#[doc(hidden)]
pub trait RowsOf<T>: ChareTrait {
    const ROWS: Self::Rows;
    const TABLE: Self::Table;
}

/// A chare that has the entry methods of a trait. Implemented by `#[chare] impl Trait for Chare`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not have the entry methods of `{D}`",
    label = "not implemented for proxies",
    note = "put `#[chare]` on its implementation of the trait: `#[chare] impl Trait for Chare {{ … }}`"
)]
pub trait Implements<D: ?Sized + ChareTrait>: Chare {
    #[doc(hidden)]
    fn rows() -> &'static [MethodInfo];
    #[doc(hidden)]
    fn implementation() -> &'static Implementation;
    #[doc(hidden)]
    fn table() -> &'static D::Table;
}

impl Implementation {
    /// The row of the implementation of `D` by `T`.
    #[must_use]
    pub const fn of<T: Chare, D: ?Sized + ChareTrait>(
        methods: &'static [MethodInfo],
        table: &'static D::Table,
    ) -> Self {
        Self::new(T::NAME, D::NAME, methods, TypeId::of::<D>(), table)
    }
}

/// The element that an [`AnyProxy`] names.
pub struct AnyTarget<D: ?Sized + ChareTrait> {
    element: AnyElementName,
    table: &'static D::Table,
}

#[derive(Clone)]
struct AnyElementName {
    implementation: &'static Implementation,
    collection: CollectionId,
    index: SmallVec<[u8; 16]>,
}

impl AnyElementName {
    /// The fields by which names are compared and hashed.
    fn parts(&self) -> (u16, CollectionId, &[u8]) {
        (self.implementation.id(), self.collection, &self.index)
    }
}

impl<D: ?Sized + ChareTrait> AnyTarget<D> {
    /// The functions that send calls.
    #[doc(hidden)]
    #[must_use]
    pub fn table(&self) -> &'static D::Table {
        self.table
    }

    /// A call of a method. For `#[chare]`.
    #[doc(hidden)]
    pub fn call<A: Arguments, O: Arguments>(&self, method: AnyMethod<A, O>, args: A) -> AnyCall<A, O> {
        let options = CallOptions::default();
        AnyCall { element: self.element.clone(), method, args: ManuallyDrop::new(Some(args)), options }
    }
}

/// A proxy of a chare of which only a trait is known. For example, one list can hold elements of different chare types.
///
/// `#[chare]` on the trait and on its implementations makes the methods callable. `into()` converts a proxy of an implementor into an `AnyProxy`. An
/// `AnyProxy` can be an argument and a result, as any proxy.
///
/// ```
/// use charm4rs::AnyProxy;
/// # use charm4rs::prelude::*;
///
/// #[chare]
/// trait Shape {
///     #[entry]
///     fn area(&self) -> f64;
///     #[entry]
///     fn scale(&mut self, by: f64);
/// }
///
/// struct Circle { radius: f64 }
///
/// #[chare]
/// impl Circle {
///     #[init]
///     fn new(radius: f64) -> Self { Self { radius } }
/// }
///
/// #[chare]
/// impl Shape for Circle {
///     fn area(&self) -> f64 { 3.0 * self.radius * self.radius }
///     fn scale(&mut self, by: f64) { self.radius *= by }
/// }
///
/// struct Square { side: f64 }
///
/// #[chare(index = usize)]
/// impl Square {
///     #[init]
///     fn new(side: f64) -> Self { Self { side } }
/// }
///
/// #[chare]
/// impl Shape for Square {
///     fn area(&self) -> f64 { self.side * self.side }
///     fn scale(&mut self, by: f64) { self.side *= by }
/// }
/// # charm4rs::testing::threads(2, |job| async move {
///
/// let squares = job.array::<Square>(2, 1.0);
/// let shapes: Vec<AnyProxy<dyn Shape>> = vec![job.single::<Circle>(1.0).into(), squares.at(1).into()];
/// shapes.iter().for_each(|shape| drop(shape.scale(2.0)));
/// assert_eq!(join_all(shapes.iter().map(|shape| shape.area())).await, [12.0, 4.0]);
/// // The methods of a chare whose type is known:
/// assert_eq!(squares.all().as_trait::<dyn Shape>().area().reduce(reduce::sum).await, 5.0);
/// # }).unwrap();
/// ```
pub struct AnyProxy<D: ?Sized + ChareTrait>(D::AnyCalls);

impl<D: ?Sized + ChareTrait> AnyProxy<D> {
    fn to(element: AnyElementName, table: &'static D::Table) -> Self {
        Self(AnyTarget { element, table }.into())
    }

    fn element(&self) -> &AnyElementName {
        &self.0.element
    }
}

impl<T: Implements<D>, D: ?Sized + ChareTrait> From<Proxy<T>> for AnyProxy<D> {
    fn from(proxy: Proxy<T>) -> Self {
        let target = proxy.target();
        let mut index = Vec::new();
        wire::pack(&target.which, &mut index).expect("an index can be packed");
        let (implementation, collection) = (T::implementation(), target.collection);
        Self::to(AnyElementName { implementation, collection, index: index.into() }, T::table())
    }
}

impl<D: ?Sized + ChareTrait> Deref for AnyProxy<D> {
    type Target = D::AnyCalls;
    fn deref(&self) -> &D::AnyCalls {
        &self.0
    }
}

impl<D: ?Sized + ChareTrait> Clone for AnyProxy<D> {
    fn clone(&self) -> Self {
        Self::to(self.element().clone(), self.0.table)
    }
}

impl<D: ?Sized + ChareTrait> PartialEq for AnyProxy<D> {
    fn eq(&self, other: &Self) -> bool {
        self.element().parts() == other.element().parts()
    }
}
impl<D: ?Sized + ChareTrait> Eq for AnyProxy<D> {}

impl<D: ?Sized + ChareTrait> Hash for AnyProxy<D> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.element().parts().hash(state);
    }
}

impl<D: ?Sized + ChareTrait> fmt::Debug for AnyProxy<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AnyProxy({:?})", &*self.0)
    }
}

impl<D: ?Sized + ChareTrait> fmt::Debug for AnyTarget<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AnyElementName { implementation, collection, .. } = &self.element;
        write!(f, "{implementation:?}, {collection:?}")
    }
}

impl<D: ?Sized + ChareTrait> Serialize for AnyProxy<D> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.element().parts().serialize(serializer)
    }
}

impl<'de, D: ?Sized + ChareTrait> Deserialize<'de> for AnyProxy<D> {
    fn deserialize<R: Deserializer<'de>>(deserializer: R) -> Result<Self, R::Error> {
        let (id, collection, index): (u16, CollectionId, Vec<u8>) = Deserialize::deserialize(deserializer)?;
        let found = registry::registry().implementations.get(usize::from(id)).copied();
        let implementation = found.filter(|found| found.of == TypeId::of::<D>());
        let table = implementation.and_then(|found| (found.table as &dyn Any).downcast_ref::<D::Table>());
        let (Some(implementation), Some(table)) = (implementation, table) else {
            return Err(R::Error::custom(format_args!("a proxy of a chare that does not implement {}", D::NAME)));
        };
        Ok(Self::to(AnyElementName { implementation, collection, index: index.into() }, table))
    }
}

/// The functions that call a method of a trait, independent of the chare that implements it.
#[doc(hidden)]
pub struct AnyMethod<A, O> {
    send: fn(Rt, &[u8], CollectionId, A, CallOptions, FutureId),
    info: fn() -> &'static MethodInfo,
    result: std::marker::PhantomData<fn() -> O>,
}

impl<A, O> Clone for AnyMethod<A, O> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<A, O> Copy for AnyMethod<A, O> {}

impl<A: Arguments, O: Arguments> AnyMethod<A, O> {
    /// The functions for the entry method of one chare.
    #[must_use]
    pub const fn of<E: Entry<Args = A, Output = O>>() -> Self {
        Self { send: send::<E>, info: E::info, result: std::marker::PhantomData }
    }
}

impl<A, O> fmt::Debug for AnyMethod<A, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str((self.info)().name)
    }
}

fn send<E: Entry>(
    rt: Rt,
    index: &[u8],
    collection: CollectionId,
    args: E::Args,
    options: CallOptions,
    reply: FutureId,
) {
    match wire::unpack::<<E::Chare as Chare>::Index>(index, Vec::new()) {
        Ok(index) => runtime::call::<E>(rt, collection, index, args, options, reply),
        Err(error) => runtime::fail_unsent(rt, E::info(), reply, &error),
    }
}

/// A call through an [`AnyProxy`]. Like a [`Call`](crate::Call), it is sent when it is awaited or dropped.
pub struct AnyCall<A: Arguments, O: Arguments> {
    element: AnyElementName,
    method: AnyMethod<A, O>,
    args: ManuallyDrop<Option<A>>,
    options: CallOptions,
}

impl<A: Arguments, O: Arguments> AnyCall<A, O> {
    /// The same as [`Call::priority`](crate::Call::priority).
    pub fn priority(mut self, priority: i32) -> Self {
        self.options = self.options.priority(priority);
        self
    }

    /// The same as [`Call::lifo`](crate::Call::lifo).
    pub fn lifo(mut self) -> Self {
        self.options = self.options.lifo();
        self
    }

    /// The same as [`Call::expedited`](crate::Call::expedited).
    pub fn expedited(mut self) -> Self {
        self.options = self.options.expedited();
        self
    }

    /// Sends the call now. The reply is the entry method's result. To wait for it at once, await the call itself.
    #[must_use = "the reply is not awaited: write `.await` in place of `.call()`, or nothing"]
    pub fn call(mut self) -> Reply<O> {
        let rt = runtime::current();
        let reply = Reply(OpenFuture::new(rt, Awaited::Call((self.method.info)())));
        self.send(rt, reply.id());
        reply
    }

    /// Sends the call. The reply arrives when the entry method has finished.
    #[must_use = "the reply is not awaited: add `.await`, or leave `.done()` out"]
    pub fn done(mut self) -> Reply<()> {
        let rt = runtime::current();
        let reply = Reply(OpenFuture::discarding::<O>(rt, Awaited::Call((self.method.info)())));
        self.send(rt, reply.id());
        reply
    }

    /// The same as [`Call::checked`](crate::Call::checked).
    pub fn checked(self) -> Checked<O> {
        self.call().checked()
    }

    /// The same as [`Call::timeout`](crate::Call::timeout).
    #[must_use = "the result is not awaited: add `.await`, or leave `.timeout(…)` out"]
    pub fn timeout(self, limit: Duration) -> impl Future<Output = Result<O, CallError>> + use<A, O> {
        self.call().timeout(limit)
    }

    fn send(&mut self, rt: Rt, reply: FutureId) {
        if let Some(args) = self.args.take() {
            (self.method.send)(rt, &self.element.index, self.element.collection, args, self.options, reply);
        }
    }
}

/// The same as awaiting [`AnyCall::call`].
impl<A: Arguments, O: Arguments> IntoFuture for AnyCall<A, O> {
    type Output = O;
    type IntoFuture = Reply<O>;

    fn into_future(self) -> Reply<O> {
        self.call()
    }
}

impl<A: Arguments, O: Arguments> Drop for AnyCall<A, O> {
    fn drop(&mut self) {
        if self.args.is_some() {
            self.send(runtime::current(), FutureId::NONE);
        }
    }
}

impl<A: Arguments, O: Arguments> fmt::Debug for AnyCall<A, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}.{:?}(..)", self.element.implementation, self.method)
    }
}
