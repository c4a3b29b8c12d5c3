//! What a PE runs: written before an entry method begins, and read by the thread that supervises PEs in long-running entry methods.
//!
//! # Access from other threads
//! The PE stores which entry method it runs, of which element, and clears it when the method has returned, or waits. Any thread may compare two
//! readings, which shows whether the PE makes progress; only the PE's own thread can read the element's index, since the element may be gone the next
//! moment. It does so in a signal handler ([`look`]): then the thread is between the two stores, so the element lives, and its index, which never
//! changes, is copied bit by bit. The index is printed elsewhere, since printing is user code.

use std::mem::MaybeUninit;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicPtr, Ordering, compiler_fence};

use charm4rs_bootstrap::interrupt::{self, NOTE, Note, Seat, Told};

use crate::runtime::chare::Chare;
use crate::runtime::element::{AnyElement, Element};
use crate::runtime::registry::MethodInfo;

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

    /// The same, for an element whose type is not known.
    pub(super) fn begin_any(&self, method: &'static MethodInfo, element: &Rc<dyn AnyElement>) -> Run<'_> {
        self.element.store(Rc::as_ptr(element).cast::<()>().cast_mut(), Ordering::Relaxed);
        self.method.store(ptr::from_ref(method).cast_mut(), Ordering::Release);
        Run(self)
    }

    /// What runs, as a value to compare.
    pub(crate) fn token(&self) -> (usize, usize) {
        (self.method.load(Ordering::Relaxed).addr(), self.element.load(Ordering::Relaxed).addr())
    }
}

impl Drop for Run<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.method.store(ptr::null_mut(), Ordering::Relaxed);
        // The element may be dropped from here on: the handler, which runs on this thread, must not see that as happening first.
        compiler_fence(Ordering::SeqCst);
    }
}

/// Copies an index out of an element, and prints it.
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
/// [`copy`] has written `bytes` for the same `T`.
unsafe fn print<T: Chare>(bytes: &[MaybeUninit<u8>; NOTE]) -> String {
    if size_of::<T::Index>() > NOTE {
        return "?".to_owned();
    }
    // SAFETY: the caller's promise; an index is `Send`, so another thread may read it.
    let index = unsafe { bytes.as_ptr().cast::<T::Index>().read_unaligned() };
    format!("{index:?}")
}

/// Registers this thread, a PE's, to answer what it runs.
pub(crate) fn seat() -> Seat {
    // SAFETY: `look` reads a thread-local without a destructor, two atomics and what they name, and writes into the note.
    unsafe { interrupt::sit(look) }
}

/// In a signal handler of a PE's thread: records what it runs.
fn look(note: &mut Note) {
    let Some(rt) = super::try_current() else { return };
    let method = rt.running.method.load(Ordering::Acquire);
    // SAFETY: only references to objects that live forever are stored there, or null.
    let Some(info) = (unsafe { method.as_ref() }) else { return };
    note.word = method.expose_provenance();
    // SAFETY: a method is set only while its element, of the method's chare type, lives; and this is its PE's thread.
    unsafe { (info.index.copy)(rt.running.element.load(Ordering::Relaxed), &mut note.bytes) };
}

/// The text for what a PE's thread has recorded.
pub(crate) fn name(told: &Told) -> String {
    // SAFETY: `look` has written null, or the address of a method's row, which lives forever.
    let Some(info) = (unsafe { ptr::with_exposed_provenance::<MethodInfo>(told.note.word).as_ref() }) else {
        return "code outside of entry methods (main, a spawned future, a constructor, a reducer)".to_owned();
    };
    // SAFETY: `look` has copied the index of that method's chare type there.
    let print = || unsafe { (info.index.print)(&told.note.bytes) };
    let index = super::guard(print).unwrap_or_else(|_| "?".to_owned());
    format!("{}[{index}].{}", info.chare, info.name)
}
