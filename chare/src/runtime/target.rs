//! What a call names: one element of a collection or all of them. Proxies are made of it.

use std::fmt;
use std::hash::Hash;

use serde::Serialize;

use super::Rt;
use crate::message::CollectionId;
use crate::message::envelope::{CallOptions, FutureId};
use crate::runtime::chare::{Chare, Entry};

mod sealed {
    pub trait Sealed {}
}

/// Whether a call goes to one element or to many. See [`One`] and [`Many`].
pub trait Kind: sealed::Sealed + Copy + 'static {
    /// Identifies the targets within a collection.
    type Which<T: Chare>: Copy + PartialEq + Hash + Serialize + serde::de::DeserializeOwned + Send + fmt::Debug;
    /// The result of a call, where `O` is the result of one element.
    type Result<O>;
    #[doc(hidden)]
    const BROADCAST: bool;
    /// Sends a call without a reply.
    #[doc(hidden)]
    fn send<E: Entry>(rt: Rt, target: &Target<E::Chare, Self>, args: E::Args, options: CallOptions);
}

/// One element.
#[derive(Clone, Copy, Debug)]
pub enum One {}
/// All elements of a collection.
#[derive(Clone, Copy, Debug)]
pub enum Many {}

impl sealed::Sealed for One {}
impl sealed::Sealed for Many {}

impl Kind for One {
    type Which<T: Chare> = T::Index;
    type Result<O> = O;
    const BROADCAST: bool = false;
    #[inline]
    fn send<E: Entry>(rt: Rt, target: &Target<E::Chare, One>, args: E::Args, options: CallOptions) {
        super::call::<E>(rt, target.collection, target.which, args, options, FutureId::NONE);
    }
}

impl Kind for Many {
    type Which<T: Chare> = ();
    type Result<O> = Vec<O>;
    const BROADCAST: bool = true;
    fn send<E: Entry>(rt: Rt, target: &Target<E::Chare, Many>, args: E::Args, options: CallOptions) {
        super::call_all::<E>(rt, target.collection, args, options, super::Answer::None);
    }
}

/// The element or elements that a proxy names.
pub struct Target<T: Chare, K: Kind> {
    pub(crate) collection: CollectionId,
    pub(crate) which: K::Which<T>,
}

impl<T: Chare, K: Kind> Clone for Target<T, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Chare, K: Kind> Copy for Target<T, K> {}

impl<T: Chare, K: Kind> fmt::Debug for Target<T, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = T::NAME.find('<').map_or(T::NAME, |arguments| &T::NAME[..arguments]);
        let name = &T::NAME[path.rfind("::").map_or(0, |at| at + 2)..];
        write!(f, "{name}@{:?}", self.collection)?;
        if K::BROADCAST { f.write_str("[..]") } else { write!(f, "[{:?}]", self.which) }
    }
}

/// The methods that a proxy of `T` offers. Implemented by `#[chare]`.
pub trait Calls<T: Chare, K: Kind>: Copy {
    /// The methods for a target.
    fn new(target: Target<T, K>) -> Self;
    /// The target.
    fn target(&self) -> &Target<T, K>;
}
