//! What a PE runs: written before an entry method begins, and read by who watches over PEs that do not come back from one.
//!
//! # Who reads what
//! The PE stores which entry method it runs, of which element, and clears it when the method has returned, or waits. Any
//! thread may compare two such looks, which tells whether the PE gets on; what the element is called, only the PE's own
//! thread can read, since the element may be gone the next moment. So it does, in the handler of a signal
//! ([`look`]): then the thread is somewhere between the two stores, so that the element lives, and its index, which
//! never changes, is copied bit by bit. Printed it is elsewhere, since that is code of the user's.

use std::mem::MaybeUninit;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicPtr, Ordering, compiler_fence};

use charm4rs_bootstrap::interrupt::{self, NOTE, Note, Seat, Told};

use crate::Chare;
use crate::cx::{AnyElement, Element};
use crate::registry::MethodInfo;

/// See the module's text.
#[derive(Default, Debug)]
pub(crate) struct Running {
    method: AtomicPtr<MethodInfo>,
    element: AtomicPtr<()>,
}

/// While it exists, a method runs.
pub(super) struct Run<'a>(&'a Running);

impl Running {
    /// `element` is alive until the method has ended.
    #[inline]
    pub(super) fn begin<T: Chare>(&self, method: &'static MethodInfo, element: &Rc<Element<T>>) -> Run<'_> {
        self.element.store(Rc::as_ptr(element).cast::<()>().cast_mut(), Ordering::Relaxed);
        self.method.store(ptr::from_ref(method).cast_mut(), Ordering::Release);
        Run(self)
    }

    /// The same, of an element whose type is not known.
    pub(super) fn begin_any(&self, method: &'static MethodInfo, element: &Rc<dyn AnyElement>) -> Run<'_> {
        self.element.store(Rc::as_ptr(element).cast::<()>().cast_mut(), Ordering::Relaxed);
        self.method.store(ptr::from_ref(method).cast_mut(), Ordering::Release);
        Run(self)
    }

    /// What runs, as something to compare.
    pub(crate) fn token(&self) -> (usize, usize) {
        (self.method.load(Ordering::Relaxed).addr(), self.element.load(Ordering::Relaxed).addr())
    }
}

impl Drop for Run<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.method.store(ptr::null_mut(), Ordering::Relaxed);
        // The element may go from here on: to the handler, which runs on this thread, that must not seem to come first.
        compiler_fence(Ordering::SeqCst);
    }
}

/// How an index is copied out of an element, and printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexLook {
    copy: unsafe fn(*const (), &mut [MaybeUninit<u8>; NOTE]),
    print: unsafe fn(&[MaybeUninit<u8>; NOTE]) -> String,
}

impl IndexLook {
    pub(crate) const fn of<T: Chare>() -> Self {
        Self { copy: copy::<T>, print: print::<T> }
    }
}

/// # Safety
/// `element` is a living `Element<T>`.
unsafe fn copy<T: Chare>(element: *const (), to: &mut [MaybeUninit<u8>; NOTE]) {
    if size_of::<T::Index>() <= NOTE {
        // SAFETY: the caller's promise. Its index never changes, and is `Copy`.
        unsafe {
            let index = &raw const (*element.cast::<Element<T>>()).index;
            to.as_mut_ptr().cast::<T::Index>().write_unaligned(index.read());
        }
    }
}

/// # Safety
/// `bytes` are what [`copy`] has written for the same `T`.
unsafe fn print<T: Chare>(bytes: &[MaybeUninit<u8>; NOTE]) -> String {
    if size_of::<T::Index>() > NOTE {
        return "?".to_owned();
    }
    // SAFETY: the caller's promise; an index is `Send`, so it may be looked at on another thread.
    let index = unsafe { bytes.as_ptr().cast::<T::Index>().read_unaligned() };
    format!("{index:?}")
}

/// Has this thread, a PE's, answer what it runs.
pub(crate) fn seat() -> Seat {
    // SAFETY: `look` reads a thread-local without a destructor, two atomics and what they name, and writes into the note.
    unsafe { interrupt::sit(look) }
}

/// In a signal handler of a PE's thread: notes what it runs.
fn look(note: &mut Note) {
    let Some(rt) = super::try_current() else { return };
    let method = rt.running.method.load(Ordering::Acquire);
    // SAFETY: only references to what lives for ever are stored there, or null.
    let Some(info) = (unsafe { method.as_ref() }) else { return };
    note.word = method.expose_provenance();
    // SAFETY: a method is set only while its element, of the method's chare type, lives; and this is its PE's thread.
    unsafe { (info.index.copy)(rt.running.element.load(Ordering::Relaxed), &mut note.bytes) };
}

/// What a PE's thread has noted, in words.
pub(crate) fn name(told: &Told) -> String {
    // SAFETY: `look` has written null, or the address of a method's row, which lives for ever.
    let Some(info) = (unsafe { ptr::with_exposed_provenance::<MethodInfo>(told.note.word).as_ref() }) else {
        return "code outside of entry methods (main, a spawned future, a constructor, a reducer)".to_owned();
    };
    // SAFETY: `look` has had the index of that method's chare type copied there.
    let print = || unsafe { (info.index.print)(&told.note.bytes) };
    let index = super::guard(print).unwrap_or_else(|_| "?".to_owned());
    format!("{}[{index}].{}", info.chare, info.name)
}
