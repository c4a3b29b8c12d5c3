//! The context of an entry method: [`Cx`] in plain methods, [`This`] in `async` ones.

use std::cell::{Cell, RefCell, RefMut};
use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use charm4rs_scheduler::TaskId;
use charm4rs_transport::Pe;

use crate::receive::Mailboxes;
use crate::reduce::{IntoSink, Reducer};
use crate::registry::MethodInfo;
use crate::runtime::{self, AnyCollection, Members, Membership, Rt};
use crate::{All, Arguments, Chare, Collection, Job, One, Proxy, Reply, Target};

/// An element on its PE.
pub(crate) struct Element<T: Chare> {
    pub(crate) index: T::Index,
    pub(crate) members: &'static Members<T>,
    /// `None` while it is constructed, and after it was destroyed.
    pub(crate) state: RefCell<Option<T>>,
    base: Base,
}

/// The part of an element that does not depend on its type.
pub(crate) struct Base {
    pub(crate) rt: Rt,
    pub(crate) mailboxes: Mailboxes,
    pub(crate) suspended: Suspended,
    /// The number of reductions it has contributed to.
    pub(crate) contributed: Cell<u64>,
    /// The sections that it is in.
    pub(crate) sections: RefCell<Vec<Membership>>,
}

impl Base {
    fn new(rt: Rt) -> Self {
        Self {
            rt,
            mailboxes: Mailboxes::default(),
            suspended: Suspended::default(),
            contributed: Cell::new(0),
            sections: RefCell::default(),
        }
    }
}

impl<T: Chare> Deref for Element<T> {
    type Target = Base;
    #[inline]
    fn deref(&self) -> &Base {
        &self.base
    }
}

impl<T: Chare> Element<T> {
    pub(crate) fn new(rt: Rt, members: &'static Members<T>, index: T::Index) -> Rc<Self> {
        members.alive.set(members.alive.get() + 1);
        Rc::new(Self { index, members, state: RefCell::new(None), base: Base::new(rt) })
    }

    /// Whether it was destroyed.
    #[inline]
    pub(crate) fn is_gone(&self) -> bool {
        self.state.try_borrow().is_ok_and(|state| state.is_none())
    }
}

impl<T: Chare> Drop for Element<T> {
    fn drop(&mut self) {
        self.members.alive.set(self.members.alive.get() - 1);
    }
}

/// An element, independent of its type.
pub(crate) trait AnyElement {
    fn base(&self) -> &Base;
    fn members(&self) -> &'static dyn AnyCollection;
    fn index_text(&self) -> String;
    /// Drops the chare.
    fn drop_state(&self);
    /// Whether its collection has it under its index.
    fn is_listed(&self) -> bool;
    /// Leaves a section.
    fn leave(&self, section: &'static dyn AnyCollection);
}

impl<T: Chare> AnyElement for Element<T> {
    fn base(&self) -> &Base {
        &self.base
    }

    fn members(&self) -> &'static dyn AnyCollection {
        self.members
    }

    fn index_text(&self) -> String {
        format!("{:?}", self.index)
    }

    fn drop_state(&self) {
        drop(self.state.take());
    }

    fn is_listed(&self) -> bool {
        self.members.find(&self.index).is_some_and(|living| std::ptr::eq(&*living, self))
    }

    fn leave(&self, section: &'static dyn AnyCollection) {
        if let Some(section) = section.as_any().downcast_ref::<Members<T>>() {
            section.remove(&self.index);
        }
    }
}

/// The suspended methods of a chare.
#[derive(Default)]
pub(crate) struct Suspended {
    tasks: RefCell<Vec<Option<(TaskId, &'static MethodInfo)>>>,
    free: RefCell<Vec<usize>>,
}

impl Suspended {
    /// Reserves a slot for a method that is about to be suspended.
    pub(crate) fn reserve(&self) -> usize {
        let reused = self.free.borrow_mut().pop();
        reused.unwrap_or_else(|| {
            let mut tasks = self.tasks.borrow_mut();
            tasks.push(None);
            tasks.len() - 1
        })
    }

    pub(crate) fn set(&self, slot: usize, task: TaskId, method: &'static MethodInfo) {
        self.tasks.borrow_mut()[slot] = Some((task, method));
    }

    pub(crate) fn free(&self, slot: usize) {
        self.tasks.borrow_mut()[slot] = None;
        self.free.borrow_mut().push(slot);
    }

    /// All of them.
    pub(crate) fn tasks(&self) -> Vec<(TaskId, &'static MethodInfo)> {
        self.tasks.borrow().iter().flatten().copied().collect()
    }
}

macro_rules! surroundings {
    ($self:ident => $element:expr) => {
        /// The index of this chare.
        #[must_use]
        pub fn index(&$self) -> T::Index {
            $element.index
        }

        /// A proxy of this chare.
        #[must_use]
        pub fn proxy(&$self) -> Proxy<T> {
            Proxy::to(Target::<T, One> { collection: $element.members.id(), which: $element.index })
        }

        /// The collection that this chare is an element of.
        #[must_use]
        pub fn collection(&$self) -> Collection<T> {
            Collection::named($element.members.id())
        }

        /// A proxy of all elements of the collection.
        #[must_use]
        pub fn all(&$self) -> All<T> {
            $self.collection().all()
        }

        /// The PE on which it runs.
        #[must_use]
        pub fn pe(&$self) -> Pe {
            $element.rt.sched.pe()
        }

        /// The job.
        #[must_use]
        pub fn job(&$self) -> Job {
            Job::of($element.rt)
        }

        /// Adds this element's part to the collection's next reduction, whose result goes to `sink`.
        ///
        /// Every element contributes once to each reduction, in the same order, with the same reducer and sink.
        ///
        /// # Panics
        /// If another element of this PE has contributed a value of another type or length, or for another sink.
        #[track_caller]
        pub fn contribute<V: Arguments, R: Reducer<V>>(&$self, value: V, reducer: R, sink: impl IntoSink<R::Output>) {
            runtime::contribute($element, $element.members.id(), value, reducer, sink.into_sink().route);
        }

        /// Adds this element's part to the next reduction of a section that it is in, whose result goes to `sink`.
        ///
        /// Each section has reductions of its own, which do not wait for one another: every element of the section contributes once to each, in the
        /// same order.
        ///
        /// # Panics
        /// If this element is not in the section.
        #[track_caller]
        pub fn contribute_in<V: Arguments, R: Reducer<V>>(
            &$self,
            section: &Collection<T>,
            value: V,
            reducer: R,
            sink: impl IntoSink<R::Output>,
        ) {
            runtime::contribute($element, section.id, value, reducer, sink.into_sink().route);
        }

        /// Adds this element's part to the collection's next reduction; every contributor gets the result.
        ///
        /// # Panics
        /// If another element of this PE has contributed a value of another type or length.
        #[track_caller]
        pub fn allreduce<V: Arguments, R: Reducer<V>>(&$self, value: V, reducer: R) -> Reply<R::Output> {
            Reply::of(runtime::allreduce($element, $element.members.id(), value, reducer, true))
        }

        /// Adds this element's part to the next reduction of a section that it is in; every contributor gets the result.
        ///
        /// # Panics
        /// If this element is not in the section.
        #[track_caller]
        pub fn allreduce_in<V: Arguments, R: Reducer<V>>(
            &$self,
            section: &Collection<T>,
            value: V,
            reducer: R,
        ) -> Reply<R::Output> {
            Reply::of(runtime::allreduce($element, section.id, value, reducer, true))
        }

        /// As `allreduce_in`, but the result always comes from the reduction's root: messages that PE 0 sends to all PEs after it has the result
        /// arrive at each PE after that result. For the Python front, whose programs rely on it.
        #[doc(hidden)]
        #[track_caller]
        pub fn allreduce_from_root_in<V: Arguments, R: Reducer<V>>(
            &$self,
            section: &Collection<T>,
            value: V,
            reducer: R,
        ) -> Reply<R::Output> {
            Reply::of(runtime::allreduce($element, section.id, value, reducer, false))
        }

        /// Destroys this chare when the current entry method has ended, or waits. Calls that arrive later fail, and so do those whose methods are
        /// suspended.
        pub fn destroy(&$self) {
            runtime::destroy($element);
        }
    };
}

/// The context of a plain entry method.
pub struct Cx<T: Chare> {
    pub(crate) element: Rc<Element<T>>,
}

impl<T: Chare> Cx<T> {
    surroundings!(self => &self.element);

    /// A handle through which an `async` block can use this chare later.
    #[must_use]
    pub fn this(&self) -> This<T> {
        This::new(self.element.clone())
    }

    /// Runs a future on this PE, beside the entry methods.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        runtime::spawn(self.element.rt, future);
    }
}

impl<T: Chare> fmt::Debug for Cx<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cx({:?})", self.proxy())
    }
}

/// A chare in its `async` entry methods: its state is accessible only inside [`This::with`], its receives are methods.
///
/// While the method waits, other entry methods of the chare may run; so the state is borrowed for the time of a closure, never across an await.
pub struct This<T: Chare> {
    element: Rc<Element<T>>,
    receives: std::cell::OnceCell<Box<T::Receives>>,
}

impl<T: Chare> This<T> {
    #[inline]
    pub(crate) fn new(element: Rc<Element<T>>) -> Self {
        Self { element, receives: std::cell::OnceCell::new() }
    }

    pub(crate) fn element(&self) -> &Rc<Element<T>> {
        &self.element
    }

    pub(crate) fn into_element(self) -> Rc<Element<T>> {
        self.element
    }

    surroundings!(self => &self.element);

    /// Gives access to the chare's state.
    ///
    /// # Panics
    /// If called inside another `with` of the same chare, or after the chare was destroyed.
    #[inline]
    #[track_caller]
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.borrow())
    }

    #[inline]
    #[track_caller]
    fn borrow(&self) -> RefMut<'_, T> {
        match self.element.state.try_borrow_mut() {
            Ok(state) => RefMut::filter_map(state, Option::as_mut).unwrap_or_else(|_| gone(&self.proxy())),
            Err(_) => in_use(&self.proxy()),
        }
    }

    /// Runs a plain entry method. For `#[chare]`.
    #[doc(hidden)]
    #[inline]
    pub fn enter<R>(&self, f: impl FnOnce(&mut T, &mut Cx<T>) -> R) -> R {
        self.with(|state| f(state, &mut Cx { element: self.element.clone() }))
    }

    /// Waits for `time`, while other work of this PE runs.
    pub async fn sleep(&self, time: Duration) {
        self.element.rt.sched.sleep(time).await;
    }
}

#[cold]
#[track_caller]
fn in_use(proxy: &dyn fmt::Debug) -> ! {
    panic!("{proxy:?} is in use: `with` inside `with`, or inside a plain entry method")
}

#[cold]
#[track_caller]
fn gone(proxy: &dyn fmt::Debug) -> ! {
    panic!("{proxy:?} has been destroyed")
}

impl<T: Chare> Clone for This<T> {
    fn clone(&self) -> Self {
        Self::new(self.element.clone())
    }
}

impl<T: Chare> Deref for This<T> {
    type Target = T::Receives;
    fn deref(&self) -> &T::Receives {
        self.receives.get_or_init(|| Box::new(T::Receives::from(self.clone())))
    }
}

impl<T: Chare> fmt::Debug for This<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "This({:?})", self.proxy())
    }
}
