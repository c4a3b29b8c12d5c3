//! What the context of an entry method offers: [`Cx`] in plain methods, [`This`] in `async` ones.

use std::cell::RefMut;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use charm4rs_transport::Pe;

use crate::reduce::{IntoSink, Reducer};
use crate::runtime::{self, Cx, This};
use crate::{All, Arguments, Chare, Collection, Job, One, Proxy, Reply, Target};

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
            Reply(runtime::allreduce($element, $element.members.id(), value, reducer, true))
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
            Reply(runtime::allreduce($element, section.id, value, reducer, true))
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
            Reply(runtime::allreduce($element, section.id, value, reducer, false))
        }

        /// Destroys this chare when the current entry method has ended, or waits. Calls that arrive later fail, and so do those whose methods are
        /// suspended.
        pub fn destroy(&$self) {
            runtime::destroy($element);
        }
    };
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

impl<T: Chare> This<T> {
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

impl<T: Chare> fmt::Debug for This<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "This({:?})", self.proxy())
    }
}
