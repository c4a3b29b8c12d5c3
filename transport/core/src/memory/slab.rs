//! A PE's own free lists, for calls to itself, and for small messages, which are copied out of the inbox as they arrive.
//!
//! They are neither atomic nor shared: a block is allocated and freed on one thread, last in, first out, so the
//! next call finds its memory in cache.

use std::alloc::Layout as AllocLayout;
use std::cell::UnsafeCell;
use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;

use super::buf::ALIGN;

/// Block sizes double from 64 bytes on; larger ones go to the heap.
const CLASSES: usize = 8;
const SMALLEST: usize = 64;

/// Free lists of one PE. Cheap to clone: clones share the lists.
#[derive(Clone)]
pub struct Slab(Rc<Lists>);

/// The free blocks of each class.
pub(super) struct Lists(UnsafeCell<[Vec<NonNull<u8>>; CLASSES]>);

impl Slab {
    /// Empty lists.
    #[must_use]
    pub fn new() -> Self {
        Self(Rc::new(Lists(UnsafeCell::default())))
    }

    /// Converts this handle into an address; [`Slab::from_raw`] converts it back.
    #[inline]
    pub(super) fn into_raw(self) -> *const Lists {
        Rc::into_raw(self.0)
    }

    /// Converts an address back into a handle.
    ///
    /// # Safety
    /// `raw` came from [`Slab::into_raw`], and is converted back once.
    #[inline]
    pub(super) unsafe fn from_raw(raw: *const Lists) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Rc::from_raw(raw) })
    }

    /// The class whose blocks hold `len` bytes: 0 up to the smallest size, one more for each doubling.
    #[inline]
    fn class(len: usize) -> usize {
        if len <= SMALLEST {
            return 0;
        }
        ((len - 1).ilog2() - (SMALLEST - 1).ilog2()) as usize
    }

    fn layout(class: usize) -> AllocLayout {
        AllocLayout::from_size_align(SMALLEST << class, ALIGN).expect("a block's size fits the address space")
    }

    /// A block of at least `len` uninitialized bytes, 64-byte aligned.
    #[inline]
    pub(super) fn take(&self, len: usize) -> NonNull<u8> {
        let class = Self::class(len);
        if class < CLASSES {
            // SAFETY: the lists are only touched in `take` and `give`, which do not nest, on one thread (Rc).
            if let Some(block) = unsafe { &mut *self.0.0.get() }[class].pop() {
                return block;
            }
        }
        Self::fresh(class)
    }

    #[cold]
    fn fresh(class: usize) -> NonNull<u8> {
        let layout = Self::layout(class);
        // SAFETY: the layout's size is at least 64.
        NonNull::new(unsafe { std::alloc::alloc(layout) }).unwrap_or_else(|| std::alloc::handle_alloc_error(layout))
    }

    /// Takes a block back.
    ///
    /// # Safety
    /// `block` came from `take(len)` of this slab (or a clone) and is not used afterwards.
    #[inline]
    pub(super) unsafe fn give(&self, block: NonNull<u8>, len: usize) {
        let class = Self::class(len);
        if class < CLASSES {
            // SAFETY: as in `take`.
            let lists = unsafe { &mut *self.0.0.get() };
            lists[class].push(block);
        } else {
            // SAFETY: `fresh` allocated it with the layout of its class.
            unsafe { std::alloc::dealloc(block.as_ptr(), Self::layout(class)) }
        }
    }
}

impl Default for Slab {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lists {
    fn drop(&mut self) {
        for (class, list) in self.0.get_mut().iter_mut().enumerate() {
            for block in list.drain(..) {
                // SAFETY: blocks in the lists are free, and were allocated with their class's layout.
                unsafe { std::alloc::dealloc(block.as_ptr(), Slab::layout(class)) }
            }
        }
    }
}

impl fmt::Debug for Slab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slab").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_holds_the_lengths_it_serves_and_no_smaller_class_does() {
        for len in (0..5000).chain([65_535, 65_536, 65_537]) {
            let class = Slab::class(len);
            assert!(SMALLEST << class >= len, "{len}");
            assert!(class == 0 || SMALLEST << (class - 1) < len, "{len}");
        }
    }
}
