//! The contexts in which entry methods run. Their methods for users are in `cx.rs`.

use std::cell::OnceCell;
use std::ops::Deref;
use std::rc::Rc;

use super::element::Element;
use crate::runtime::chare::Chare;

/// The context of a plain entry method.
pub struct Cx<T: Chare> {
    pub(crate) element: Rc<Element<T>>,
}

/// A chare in its `async` entry methods: its state is accessible only inside [`This::with`], its receives are methods.
///
/// While the method waits, other entry methods of the chare may run; so the state is borrowed for the time of a closure, never across an await.
pub struct This<T: Chare> {
    pub(crate) element: Rc<Element<T>>,
    receives: OnceCell<Box<T::Receives>>,
}

impl<T: Chare> This<T> {
    #[inline]
    pub(crate) fn new(element: Rc<Element<T>>) -> Self {
        Self { element, receives: OnceCell::new() }
    }

    pub(crate) fn element(&self) -> &Rc<Element<T>> {
        &self.element
    }

    pub(crate) fn into_element(self) -> Rc<Element<T>> {
        self.element
    }
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
