//! The type of groups: operations that need a collection with one element on each PE. It does not depend on how groups are created or called.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use charm4rs_transport::Pe;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Chare, Collection, GroupIndex, Proxy};

/// A collection with one element on each PE, whose index is the PE. Created by [`Job::group`](crate::Job::group).
///
/// A group is a [`Collection`] (it dereferences to one, and `into()` converts it) that also knows which element is on which PE. An element gets its
/// own group from [`Collection::as_group`].
///
/// ```
/// # use charm4rs::prelude::*;
/// struct Counter(u64);
///
/// #[chare(index = Pe)]
/// impl Counter {
///     #[init]
///     fn new() -> Self { Self(0) }
///     #[entry]
///     fn count(&self) -> u64 { self.0 }
/// }
/// # charm4rs::testing::threads(2, |job| async move {
///
/// let counters: Group<Counter> = job.group(());
/// counters.created().await;
/// counters.with_local(|counter| counter.0 += 1);   // this PE's, without a call
/// assert_eq!(counters.on(job.pe()).count().await, 1);
/// assert_eq!(counters.all().count().await.iter().sum::<u64>(), 1);
/// # }).unwrap();
/// ```
pub struct Group<T: Chare> {
    collection: Collection<T>,
}

impl<T: Chare<Index: GroupIndex>> Group<T> {
    /// The element on `pe`.
    ///
    /// # Panics
    /// If the job has no such PE.
    #[track_caller]
    #[must_use]
    pub fn on(&self, pe: Pe) -> Proxy<T> {
        self.at(T::Index::of(pe))
    }

    /// Calls `f` with the element on this PE; `None` if the element is in use, has been destroyed, or has not been created yet.
    pub fn with_local<R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.with_local_at(T::Index::of(crate::runtime::current().sched.pe()), f)
    }
}

impl<T: Chare> Group<T> {
    /// The group of a collection that is known to be one.
    pub(crate) fn of(collection: Collection<T>) -> Self {
        Self { collection }
    }
}

impl<T: Chare> Deref for Group<T> {
    type Target = Collection<T>;
    fn deref(&self) -> &Collection<T> {
        &self.collection
    }
}

impl<T: Chare> From<Group<T>> for Collection<T> {
    fn from(group: Group<T>) -> Self {
        group.collection
    }
}

impl<T: Chare> Clone for Group<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Chare> Copy for Group<T> {}
impl<T: Chare> PartialEq for Group<T> {
    fn eq(&self, other: &Self) -> bool {
        self.collection == other.collection
    }
}
impl<T: Chare> Eq for Group<T> {}
impl<T: Chare> Hash for Group<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.collection.hash(state);
    }
}
impl<T: Chare> fmt::Debug for Group<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.collection.fmt(f)
    }
}
impl<T: Chare> Serialize for Group<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.collection.serialize(serializer)
    }
}
impl<'de, T: Chare> Deserialize<'de> for Group<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Deserialize::deserialize(deserializer).map(Self::of)
    }
}
