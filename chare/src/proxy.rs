//! Proxies: names of chares that can be called from anywhere, copied, compared, and sent.

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

/// Why elements cannot be inserted into a collection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NoInsertion {
    /// It is a section: only whole arrays are filled.
    Section,
    /// It is no sparse array, and has all of its elements from the beginning.
    Full,
}

impl fmt::Display for NoInsertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Section => "it is a section: arrays are filled as a whole",
            Self::Full => "it has all of its elements from the beginning",
        })
    }
}

impl std::error::Error for NoInsertion {}

/// Never: it stands for methods of a chare that are no entry methods, for its message.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "this method of the chare is not an entry method",
    label = "not an entry method: proxies do not have it",
    note = "mark it with `#[entry]` to call it through proxies, from everywhere; a method without the mark is called by its chare only"
)]
pub trait HasMethodsWithoutEntry {}

/// A proxy of one element: its entry methods are the proxy's methods.
///
/// `proxy.method(args)` sends the call when the statement ends, and returns at once. See [`Call`](crate::Call) for
/// results, completion and priorities.
pub struct Proxy<T: Chare>(T::Calls<One>);

/// A proxy of all elements of a collection: a call of it is a broadcast.
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

// Each name here is one that entry methods cannot have: `OF_PROXIES` in the macros.
impl<T: Chare> All<T> {
    /// The entry methods that the chares have from a trait: see [`AnyProxy`](crate::AnyProxy).
    #[must_use]
    pub fn as_trait<D: ?Sized + ChareTrait>(&self) -> D::Calls<T, Many>
    where
        T: Implements<D>,
    {
        (*self.target()).into()
    }
}

impl<T: Chare> Proxy<T> {
    /// The entry methods that the chare has from a trait: see [`AnyProxy`](crate::AnyProxy).
    #[must_use]
    pub fn as_trait<D: ?Sized + ChareTrait>(&self) -> D::Calls<T, One>
    where
        T: Implements<D>,
    {
        (*self.target()).into()
    }

    /// The index of the element that it names.
    #[must_use]
    pub fn index(&self) -> T::Index {
        self.target().which
    }

    /// The collection that the element is of.
    #[must_use]
    pub fn collection(&self) -> Collection<T> {
        Collection::named(self.target().collection)
    }
}

/// A group, an array, or a section of one: many elements under one name.
///
/// Made by [`Job::array`](crate::Job::array), [`Job::group`](crate::Job::group), [`Job::sparse`](crate::Job::sparse) and
/// [`Collection::section`]; copied and sent freely.
pub struct Collection<T: Chare> {
    pub(crate) id: CollectionId,
    /// What it is a section of, or itself.
    whole: CollectionId,
    item: std::marker::PhantomData<fn() -> T>,
}

impl<T: Chare> Collection<T> {
    /// Its name in the runtime.
    #[doc(hidden)]
    #[must_use]
    pub fn id(&self) -> CollectionId {
        self.id
    }

    /// The whole collection of this name, for callers that know its chares' type.
    #[doc(hidden)]
    #[must_use]
    pub fn named(id: CollectionId) -> Self {
        Self { id, whole: id, item: std::marker::PhantomData }
    }

    /// A section: some of the elements, under a name of their own, that can be called ([`Collection::all`]), contribute to
    /// reductions ([`Cx::contribute_in`](crate::Cx::contribute_in)), and be cut again. Sections may overlap. An index that comes
    /// twice counts once; an element that has been destroyed is left out.
    ///
    /// It can be used at once, here and wherever its name is sent. A section of a sparse array comes to be when the array is
    /// closed by [`Collection::done_inserting`], and its calls wait for that. A section lasts until it or the
    /// whole is destroyed: make one and keep it, rather than one for each call.
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

    /// The same, of elements that are not known yet: calls of the section wait until `indices` tells them.
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

    /// What all indices are below, of a bounded array that this PE knows.
    #[must_use]
    pub fn extent(&self) -> Option<T::Index> {
        runtime::try_current()?.collection::<T>(self.whole)?.extent()
    }

    /// Whether it is a section.
    #[must_use]
    pub fn is_section(&self) -> bool {
        self.id != self.whole
    }

    /// The group or array that it is a section of, or itself.
    #[must_use]
    pub fn whole(&self) -> Self {
        Self::named(self.whole)
    }

    /// All elements.
    #[must_use]
    pub fn all(&self) -> All<T> {
        All::to(Target { collection: self.id, which: () })
    }

    /// The element at `index`, be it in this section or not.
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

    /// The element at `index`, for the time of `f`, without a call; `None` if it does not live on this PE, or is in use.
    pub fn with_local_at<R>(&self, index: T::Index, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        let element = runtime::current().collection::<T>(self.whole)?.find(&index)?;
        let mut state = element.state.try_borrow_mut().ok()?;
        state.as_mut().map(f)
    }

    /// The group that it is, or is a section of; `None` if that is an array, or is not known on this PE yet. An element's own
    /// group is always known.
    #[must_use]
    pub fn as_group(&self) -> Option<Group<T>> {
        let members = runtime::try_current()?.collection::<T>(self.whole)?;
        members.is_group().then(|| Group::of(self.whole()))
    }

    /// A promise that the elements are to keep, by a reduction for example, and that is kept with `empty` if there are none: as
    /// [`Job::promise`](crate::Job::promise), for collections that may be empty.
    ///
    /// An empty collection has nobody who contributes, so its reductions have no result. (A call of all its elements completes, with an empty list.) The
    /// number of elements is that of now; if it is a sparse array, when it is closed.
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
    /// If it is the collection of a single chare.
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

    /// Completes when all elements have been made on all PEs. Only its creator may ask, once.
    pub fn created(&self) -> Reply<()> {
        Reply(runtime::current().created(self.id))
    }

    /// Makes an element of a sparse array where the array's map says.
    ///
    /// It may be one that has been closed: calls reach the new element at once, reductions count it when the array is closed again
    /// ([`Collection::done_inserting`]).
    ///
    /// # Panics
    /// If the array is bounded, or this is a section.
    #[track_caller]
    pub fn insert(&self, index: T::Index, init: impl IntoInit<T::Init>) {
        self.assert_whole();
        runtime::insert::<T>(runtime::current(), self.id, index, init.into_init(), None);
    }

    /// Makes an element of a sparse array on `pe`.
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

    /// Closes a sparse array: completes when every insertion that was begun has been made. From then on a call to
    /// an element that does not exist is an error, and reductions know how many contribute.
    ///
    /// Elements may be inserted and destroyed afterwards, and the array closed again: then the new elements take part in reductions, all from the same one
    /// on, which is the first to which no element had contributed by then. Reductions under way are not disturbed. What new elements contribute
    /// earlier waits for that.
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

    /// Destroys the collection: its elements, on all PEs, and its sections; of a section, only the section. It may be called by anybody, and
    /// more than once.
    ///
    /// An element's running entry method ends first; its suspended methods end where they are, and who waits for them gets
    /// [`CallError::Dropped`](crate::CallError::Dropped). Broadcasts and calls that this PE made before come first, except those with payloads or to elements that
    /// were inserted away from their home: wait for what they do. Calls that come later fail with
    /// [`CallError::Destroyed`](crate::CallError::Destroyed). The memory is free for other uses at once; what the runtime needs for
    /// each collection, some hundred bytes on each PE, serves the next one of the same chares, shape and map.
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
    /// If it is no sparse array, or a section.
    pub fn may_insert(&self) -> Result<(), NoInsertion> {
        if self.is_section() {
            return Err(NoInsertion::Section);
        }
        if runtime::may_insert::<T>(runtime::current(), self.id) { Ok(()) } else { Err(NoInsertion::Full) }
    }

    /// Whether reductions do not count what this PE inserts into a sparse array now, until that is closed again.
    #[doc(hidden)]
    pub fn is_closed(&self) -> bool {
        runtime::is_closed::<T>(runtime::current(), self.id)
    }

    #[track_caller]
    fn assert_whole(&self) {
        assert!(!self.is_section(), "{} is filled as a whole, not by a section", T::NAME);
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

/// The extent of a bounded array, checked where it is made.
#[track_caller]
pub(crate) fn volume<I: GridIndex>(extent: &I) -> u64 {
    I::volume(extent).unwrap_or_else(|| panic!("an array cannot have the extent {extent:?}"))
}
