//! Proxies: names of chares. A proxy can be called from any PE, copied, compared, and sent.

use std::fmt;
use std::future::IntoFuture;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use charm4rs_transport::Pe;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::message::CollectionId;
use crate::runtime;
use crate::{
    Arguments, Calls, Chare, ChareTrait, GridIndex, Group, Implements, IntoInit, Job, Many, One, Promise, Reply, Target,
};

/// The reason why elements cannot be inserted into a collection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NoInsertion {
    /// It is a section: elements are inserted only into whole arrays.
    Section,
    /// It is not a sparse array, and has all its elements from the start.
    Full,
}

impl fmt::Display for NoInsertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Section => "it is a section, and elements are inserted only into whole arrays",
            Self::Full => "it is not a sparse array, and has all its elements from the start",
        })
    }
}

impl std::error::Error for NoInsertion {}

/// Never implemented. Proxies have the methods of a chare that are not entry methods under this bound, so that the compiler prints its message.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "this method of the chare is not an entry method",
    label = "not an entry method: proxies do not have it",
    note = "mark it with `#[entry]` to call it through proxies, from any PE; only its chare can call a method without the mark"
)]
pub trait HasMethodsWithoutEntry {}

/// A proxy of one element. It has the element's entry methods as methods.
///
/// `proxy.method(args)` sends the call when the statement ends, and returns at once. See [`Call`](crate::Call) for
/// results, completion and priorities.
pub struct Proxy<T: Chare>(T::Calls<One>);

/// A proxy of all elements of a collection. A call through it is a broadcast.
pub struct All<T: Chare>(T::Calls<Many>);

macro_rules! proxy {
    ($($proxy:ident $kind:ident),*) => {$(
        impl<T: Chare> $proxy<T> {
            pub(crate) fn to(target: Target<T, $kind>) -> Self {
                Self(T::Calls::new(target))
            }
            pub(crate) fn target(&self) -> &Target<T, $kind> {
                self.0.target()
            }
        }
        impl<T: Chare> Deref for $proxy<T> {
            type Target = T::Calls<$kind>;
            fn deref(&self) -> &Self::Target {
                &self.0
            }
        }
        impl<T: Chare> Clone for $proxy<T> {
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<T: Chare> Copy for $proxy<T> {}
        impl<T: Chare> fmt::Debug for $proxy<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.target().fmt(f)
            }
        }
        impl<T: Chare> PartialEq for $proxy<T> {
            fn eq(&self, other: &Self) -> bool {
                let (a, b) = (self.target(), other.target());
                a.collection == b.collection && a.which == b.which
            }
        }
        impl<T: Chare> Eq for $proxy<T> {}
        impl<T: Chare> Hash for $proxy<T> {
            fn hash<H: Hasher>(&self, state: &mut H) {
                (self.target().collection, self.target().which).hash(state);
            }
        }
        impl<T: Chare> Serialize for $proxy<T> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                (self.target().collection, self.target().which).serialize(serializer)
            }
        }
        impl<'de, T: Chare> Deserialize<'de> for $proxy<T> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let (collection, which) = Deserialize::deserialize(deserializer)?;
                Ok(Self::to(Target { collection, which }))
            }
        }
    )*};
}
proxy!(Proxy One, All Many);

// Entry methods cannot have the names of these methods: `OF_PROXIES` in the macros lists them.
impl<T: Chare> All<T> {
    /// The entry methods of a trait that the chares implement: see [`AnyProxy`](crate::AnyProxy).
    #[must_use]
    pub fn as_trait<D: ?Sized + ChareTrait>(&self) -> D::Calls<T, Many>
    where
        T: Implements<D>,
    {
        (*self.target()).into()
    }
}

impl<T: Chare> Proxy<T> {
    /// The entry methods of a trait that the chare implements: see [`AnyProxy`](crate::AnyProxy).
    #[must_use]
    pub fn as_trait<D: ?Sized + ChareTrait>(&self) -> D::Calls<T, One>
    where
        T: Implements<D>,
    {
        (*self.target()).into()
    }

    /// The index of the element that the proxy names.
    #[must_use]
    pub fn index(&self) -> T::Index {
        self.target().which
    }

    /// The collection of the element.
    #[must_use]
    pub fn collection(&self) -> Collection<T> {
        Collection::named(self.target().collection)
    }
}

/// A group, an array, or a section of one: many elements under one name.
///
/// [`Job::array`](crate::Job::array), [`Job::group`](crate::Job::group), [`Job::sparse`](crate::Job::sparse) and [`Collection::section`] create
/// collections. They can be copied and sent freely.
pub struct Collection<T: Chare> {
    pub(crate) id: CollectionId,
    /// The collection of which this is a section, or its own id.
    whole: CollectionId,
    item: std::marker::PhantomData<fn() -> T>,
}

impl<T: Chare> Collection<T> {
    /// Its id in the runtime.
    #[doc(hidden)]
    #[must_use]
    pub fn id(&self) -> CollectionId {
        self.id
    }

    /// The whole collection of this id, for callers that know the type of its chares.
    #[doc(hidden)]
    #[must_use]
    pub fn named(id: CollectionId) -> Self {
        Self { id, whole: id, item: std::marker::PhantomData }
    }

    /// A section: some of the elements as a collection of their own. It can be called ([`Collection::all`]), its elements can contribute to
    /// reductions in it ([`Cx::contribute_in`](crate::Cx::contribute_in)), and it can have sections. Sections may overlap. An index that occurs
    /// twice counts once; an element that has been destroyed is left out.
    ///
    /// It can be used at once, on this PE and on every PE to which it is sent. A section of a sparse array is created when
    /// [`Collection::done_inserting`] closes the array, and its calls wait for that. A section exists until it or the whole collection is destroyed:
    /// create one and keep it, instead of one for each call.
    ///
    /// ```
    /// # use charm4rs::prelude::*;
    /// # struct Block;
    /// # #[chare(index = usize)]
    /// # impl Block {
    /// #     #[init]
    /// #     fn new() -> Self { Self }
    /// #     #[entry]
    /// #     fn number(&mut self, cx: &mut Cx<Self>) -> usize { cx.index() }
    /// # }
    /// # charm4rs::testing::threads(2, |job| async move {
    /// let blocks = job.array::<Block>(10, ());
    /// let odd = blocks.section((0..10).filter(|i| i % 2 == 1));
    /// assert_eq!(odd.all().number().await, [1, 3, 5, 7, 9]);
    /// let ends = odd.section([1, 9]);
    /// assert_eq!(ends.all().number().await, [1, 9]);
    /// # }).unwrap();
    /// ```
    ///
    /// # Panics
    /// If a bounded array or a group cannot have one of the elements. If a sparse array lacks one when it is closed, the job
    /// ends with an error.
    #[track_caller]
    #[must_use]
    pub fn section(&self, indices: impl IntoIterator<Item = T::Index>) -> Self {
        let id = runtime::section::<T>(runtime::current(), self.whole, indices);
        Self { id, ..*self }
    }

    /// A section of elements that are not known yet: calls of the section wait until `indices` completes.
    ///
    /// ```
    /// # use charm4rs::prelude::*;
    /// # struct Block;
    /// # #[chare(index = usize)]
    /// # impl Block {
    /// #     #[init]
    /// #     fn new() -> Self { Self }
    /// #     #[entry]
    /// #     fn chosen(&mut self, cx: &mut Cx<Self>) -> usize { cx.index() * 3 % 10 }
    /// # }
    /// # charm4rs::testing::threads(2, |job| async move {
    /// let blocks = job.array::<Block>(10, ());
    /// let chosen = blocks.at(7).chosen();
    /// let one = blocks.section_of(async { [chosen.await] });
    /// assert_eq!(one.all().chosen().await, [3]);
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn section_of<I>(&self, indices: impl IntoFuture<Output = I, IntoFuture: 'static>) -> Self
    where
        I: IntoIterator<Item = T::Index>,
    {
        let id = runtime::section_of::<T, I>(runtime::current(), self.whole, indices.into_future());
        Self { id, ..*self }
    }

    /// The extent, if this is a bounded array that this PE knows: all indices are below it.
    #[must_use]
    pub fn extent(&self) -> Option<T::Index> {
        runtime::try_current()?.collection::<T>(self.whole)?.extent()
    }

    /// Whether this is a section.
    #[must_use]
    pub fn is_section(&self) -> bool {
        self.id != self.whole
    }

    /// The group or array of which this is a section, or this collection itself.
    #[must_use]
    pub fn whole(&self) -> Self {
        Self::named(self.whole)
    }

    /// All elements.
    #[must_use]
    pub fn all(&self) -> All<T> {
        All::to(Target { collection: self.id, which: () })
    }

    /// The element at `index`, whether or not it is in this section.
    ///
    /// # Panics
    /// If a bounded array or a group cannot have such an element.
    #[track_caller]
    #[must_use]
    pub fn at(&self, index: T::Index) -> Proxy<T> {
        if let Some(collection) = runtime::try_current().and_then(|rt| rt.collection::<T>(self.whole)) {
            assert!(collection.may_exist(&index), "{} has no element {index:?}: {}", T::NAME, collection.extent_text());
        }
        Proxy::to(Target { collection: self.whole, which: index })
    }

    /// The element at `index`; `None` if a bounded array or a group cannot have it.
    #[must_use]
    pub fn try_at(&self, index: T::Index) -> Option<Proxy<T>> {
        let known = runtime::try_current().and_then(|rt| rt.collection::<T>(self.whole));
        let exists = known.is_none_or(|collection| collection.may_exist(&index));
        exists.then(|| Proxy::to(Target { collection: self.whole, which: index }))
    }

    /// Calls `f` with the element at `index`; `None` if the element is not on this PE, or is in use.
    pub fn with_local_at<R>(&self, index: T::Index, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        let element = runtime::current().collection::<T>(self.whole)?.find(&index)?;
        let mut state = element.state.try_borrow_mut().ok()?;
        state.as_mut().map(f)
    }

    /// This collection as a group, or the group of which it is a section. `None` for an array, and if this PE does not know the collection yet. A PE
    /// always knows the group of an element that runs on it.
    #[must_use]
    pub fn as_group(&self) -> Option<Group<T>> {
        let members = runtime::try_current()?.collection::<T>(self.whole)?;
        members.is_group().then(|| Group::of(self.whole()))
    }

    /// A promise for a value of the elements, for example the result of a reduction. If there are no elements, the value is `empty`. The same as
    /// [`Job::promise`](crate::Job::promise), for collections that may be empty.
    ///
    /// No element of an empty collection contributes, so its reductions have no result. (A call of all its elements completes, with an empty list.)
    /// The number of elements is that at the time of this call; for a sparse array, that when it is closed.
    ///
    /// ```
    /// # use charm4rs::prelude::*;
    /// # struct Sample;
    /// # #[chare(index = usize)]
    /// # impl Sample {
    /// #     #[init]
    /// #     fn new() -> Self { Self }
    /// #     #[entry]
    /// #     fn add_up(&mut self, cx: &mut Cx<Self>, to: Promise<f64>) { cx.contribute(0.5, reduce::sum, to); }
    /// # }
    /// # charm4rs::testing::threads(2, |job| async move {
    /// for (count, expected) in [(0, 0.0), (6, 3.0)] {
    ///     let samples = job.array::<Sample>(count, ());
    ///     let (to, sum) = samples.promise_or(0.0);
    ///     samples.all().add_up(to);
    ///     assert_eq!(sum.await, expected);
    /// }
    /// # }).unwrap();
    /// ```
    ///
    /// # Panics
    /// If this is the collection of a single chare.
    #[track_caller]
    pub fn promise_or<R: Arguments>(&self, empty: R) -> (Promise<R>, Reply<R>) {
        assert!(self.id.creator().is_some(), "{} is a single chare: its collection is never empty", T::NAME);
        let rt = runtime::current();
        let (promise, reply) = Job::of(rt).promise();
        let (id, elements) = (promise.id, Reply(runtime::elements(rt, self.id)));
        runtime::spawn(rt, async move {
            if elements.await == 0 {
                rt.futures.fulfil(id, empty);
            }
        });
        (promise, reply)
    }

    /// Completes when all elements have been created on all PEs. Only the creator of the collection may call this, and only once.
    pub fn created(&self) -> Reply<()> {
        Reply(runtime::current().created(self.id))
    }

    /// Creates an element of a sparse array on the PE that the array's map gives.
    ///
    /// The array may be closed already: calls reach the new element at once, and reductions count it when the array is closed again
    /// ([`Collection::done_inserting`]).
    ///
    /// # Panics
    /// If the array is bounded, or this is a section.
    #[track_caller]
    pub fn insert(&self, index: T::Index, init: impl IntoInit<T::Init>) {
        self.assert_whole();
        runtime::insert::<T>(runtime::current(), self.id, index, init.into_init(), None);
    }

    /// Creates an element of a sparse array on `pe`.
    ///
    /// # Panics
    /// If the array is bounded, or the job has no such PE, or this is a section.
    #[track_caller]
    pub fn insert_on(&self, pe: Pe, index: T::Index, init: impl IntoInit<T::Init>) {
        self.assert_whole();
        let rt = runtime::current();
        assert!(pe.0 < rt.sched.pes(), "the job has no PE {pe}: it has {}", rt.sched.pes());
        runtime::insert::<T>(rt, self.id, index, init.into_init(), Some(pe));
    }

    /// Closes a sparse array. Completes when every element whose insertion has begun exists. From then on, a call of an element that does not exist
    /// is an error, and reductions know how many elements contribute.
    ///
    /// Elements may be inserted and destroyed afterwards, and the array closed again. Then the new elements take part in reductions, all of them from
    /// the same reduction on: the first to which no element has contributed at that time. Reductions in progress do not change. Contributions that
    /// new elements make earlier wait for that reduction.
    ///
    /// ```
    /// # use charm4rs::prelude::*;
    /// # struct Node;
    /// # #[chare(index = u32)]
    /// # impl Node {
    /// #     #[init]
    /// #     fn new() -> Self { Self }
    /// #     #[entry]
    /// #     fn count(&self, cx: &mut Cx<Self>, to: Promise<u64>) { cx.contribute((), reduce::count, to) }
    /// # }
    /// # charm4rs::testing::threads(2, |job| async move {
    /// let nodes = job.sparse::<Node>();
    /// for level in 0..3 {
    ///     (0..1 << level).for_each(|node| nodes.insert((1 << level) + node, ()));
    ///     nodes.done_inserting().await;
    ///     let (promise, count) = job.promise();
    ///     nodes.all().count(promise);
    ///     assert_eq!(count.await, (2 << level) - 1);
    /// }
    /// # });
    /// ```
    ///
    /// # Panics
    /// If this is a section.
    #[track_caller]
    pub fn done_inserting(&self) -> Reply<()> {
        self.assert_whole();
        Reply(runtime::census(runtime::current(), self.id))
    }

    /// Destroys the collection: its elements on all PEs, and its sections. For a section, destroys only the section. Any PE may call this, and more
    /// than once.
    ///
    /// An element's running entry method finishes first. Its suspended methods end where they are, and their callers get
    /// [`CallError::Dropped`](crate::CallError::Dropped). Broadcasts and calls that this PE made before run first, except those with payloads and
    /// those to elements that were inserted on another PE than their home: await them before. Later calls fail with
    /// [`CallError::Destroyed`](crate::CallError::Destroyed). The memory of the elements is freed at once. The runtime keeps some hundred bytes for
    /// each collection on each PE, and reuses them for the next collection of the same chares, shape and map.
    ///
    /// ```
    /// # use charm4rs::prelude::*;
    /// # struct Block;
    /// # #[chare(index = usize)]
    /// # impl Block {
    /// #     #[init]
    /// #     fn new() -> Self { Self }
    /// #     #[entry]
    /// #     fn number(&mut self, cx: &mut Cx<Self>) -> usize { cx.index() }
    /// # }
    /// # charm4rs::testing::threads(2, |job| async move {
    /// for round in 0..3 {
    ///     let blocks = job.array::<Block>(10, ());
    ///     assert_eq!(blocks.at(round).number().await, round);
    ///     blocks.destroy();
    /// }
    /// # });
    /// ```
    pub fn destroy(&self) {
        runtime::destroy_collection::<T>(runtime::current(), self.id);
    }

    /// Whether elements can be inserted.
    ///
    /// # Errors
    /// If this is not a sparse array, or is a section.
    pub fn may_insert(&self) -> Result<(), NoInsertion> {
        if self.is_section() {
            return Err(NoInsertion::Section);
        }
        if runtime::may_insert::<T>(runtime::current(), self.id) { Ok(()) } else { Err(NoInsertion::Full) }
    }

    /// Whether the sparse array is closed: reductions then do not count the elements that this PE inserts until the array is closed again.
    #[doc(hidden)]
    pub fn is_closed(&self) -> bool {
        runtime::is_closed::<T>(runtime::current(), self.id)
    }

    #[track_caller]
    fn assert_whole(&self) {
        assert!(!self.is_section(), "this is a section of {}: elements are inserted only into whole arrays", T::NAME);
    }
}

impl<T: Chare> Clone for Collection<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Chare> Copy for Collection<T> {}
impl<T: Chare> PartialEq for Collection<T> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}
impl<T: Chare> Eq for Collection<T> {}
impl<T: Chare> Hash for Collection<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}
impl<T: Chare> fmt::Debug for Collection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.all().fmt(f)
    }
}
impl<T: Chare> Serialize for Collection<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.id, self.whole).serialize(serializer)
    }
}
impl<'de, T: Chare> Deserialize<'de> for Collection<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (id, whole) = Deserialize::deserialize(deserializer)?;
        Ok(Self { id, whole, item: std::marker::PhantomData })
    }
}

/// The number of elements of a bounded array; panics if the extent is not valid.
#[track_caller]
pub(crate) fn volume<I: GridIndex>(extent: &I) -> u64 {
    I::volume(extent).unwrap_or_else(|| panic!("an array cannot have the extent {extent:?}"))
}
