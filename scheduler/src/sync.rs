//! The only module that names the primitives of lock-free code, so that `cfg(loom)` can replace them all.

#[cfg(not(loom))]
pub(crate) use real::*;

#[cfg(loom)]
pub(crate) use model::*;

#[cfg(not(loom))]
mod real {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

    /// Many threads push, the PE pops.
    pub(crate) use crossbeam_queue::SegQueue as Mpsc;

    /// Wakes a parked PE. It keeps the ring until the PE parks: a ring just before the sleep is not lost.
    pub(crate) use charm4rs_transport::Waker as Bell;

    /// The bell of a port's PE.
    pub(crate) fn bell(waker: Bell) -> Bell {
        waker
    }
}

#[cfg(loom)]
mod model {
    use std::collections::VecDeque;

    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
    use loom::sync::{Arc, Condvar, Mutex};

    /// Replaces the lock-free queue, which has models of its own.
    #[derive(Debug)]
    pub(crate) struct Mpsc<T>(Mutex<VecDeque<T>>);

    impl<T> Mpsc<T> {
        pub(crate) fn new() -> Self {
            Self(Mutex::new(VecDeque::new()))
        }

        pub(crate) fn push(&self, item: T) {
            self.0.lock().expect("no model panics with the lock").push_back(item);
        }

        pub(crate) fn pop(&self) -> Option<T> {
            self.0.lock().expect("no model panics with the lock").pop_front()
        }
    }

    /// Replaces the doorbell: a token and a condition variable to wait for it.
    #[derive(Clone, Debug)]
    pub(crate) struct Bell(Arc<(Mutex<bool>, Condvar)>);

    impl Bell {
        pub(crate) fn new() -> Self {
            Self(Arc::new((Mutex::new(false), Condvar::new())))
        }

        pub(crate) fn wake(&self) {
            *self.0.0.lock().expect("no model panics with the lock") = true;
            self.0.1.notify_one();
        }

        pub(crate) fn park(&self) {
            let mut rung = self.0.0.lock().expect("no model panics with the lock");
            while !*rung {
                rung = self.0.1.wait(rung).expect("no model panics with the lock");
            }
            *rung = false;
        }
    }

    /// Not used: the models create their own bells.
    pub(crate) fn bell(_: charm4rs_transport::Waker) -> Bell {
        Bell::new()
    }
}
