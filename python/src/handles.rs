//! The elements of Python objects, by a key that each object has. An object may be dropped on any thread, since the interpreter collects
//! garbage on any thread that allocates; its element must be dropped on the PE's thread.

use std::cell::{Cell, RefCell};
use std::sync::{Mutex, PoisonError};

use hashbrown::HashMap;

use crate::element::Handle;

thread_local! {
    static KEPT: RefCell<HashMap<u64, Handle>> = RefCell::default();
    static LAST: Cell<u64> = const { Cell::new(0) };
}

/// Keys of objects that were dropped on other threads. They belong to the only PE of this process.
static DROPPED: Mutex<Vec<u64>> = Mutex::new(Vec::new());

fn dropped() -> std::sync::MutexGuard<'static, Vec<u64>> {
    DROPPED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A key for a new object.
pub(crate) fn new() -> u64 {
    LAST.set(LAST.get() + 1);
    LAST.get()
}

/// Keeps an object's element.
pub(crate) fn keep(key: u64, handle: Handle) {
    let gone = std::mem::take(&mut *dropped());
    gone.into_iter().for_each(|key| drop(take(key)));
    KEPT.with_borrow_mut(|kept| kept.insert(key, handle));
}

/// An object's element.
pub(crate) fn get(key: u64) -> Option<Handle> {
    KEPT.with_borrow(|kept| kept.get(&key).cloned())
}

/// Takes the element out of the table before it is dropped, since that may drop other objects.
fn take(key: u64) -> Option<Handle> {
    KEPT.try_with(|kept| kept.borrow_mut().remove(&key)).ok().flatten()
}

/// An object has been dropped.
pub(crate) fn forget(key: u64) {
    match take(key) {
        Some(handle) => drop(handle),
        None => dropped().push(key),
    }
}
