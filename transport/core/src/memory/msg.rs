//! A message as it arrived: bytes, 16-byte aligned, that stay on their PE.
//!
//! It may live in two kinds of memory: in a block of the PE's [`Slab`] (small), or in a [`RegBuf`] (large, handed over). The layers
//! above cannot tell.

use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::ptr::NonNull;

use super::{RegBuf, Slab};

/// Larger messages are kept in buffers.
const SLAB_MAX: usize = 1 << 20;

/// A message; see the module's text. Dropping it frees its memory.
///
/// The address of its bytes does not depend on the kind of memory: only drop and conversions look at the kind.
#[must_use]
pub struct Msg {
    ptr: NonNull<u8>,
    len: usize,
    /// A raw `Slab` or `Box<RegBuf>`, which this message owns; its lowest bit is one of the kinds below.
    home: NonNull<()>,
}

// It is moved often, so it should be small.
const _: () = assert!(size_of::<Msg>() == 24);

/// The kinds of homes, as the lowest bit of their addresses.
const SLAB: usize = 0;
const BUF: usize = 1;

/// Marks the address of a home as one of `kind`.
#[inline]
fn marked<T>(home: *const T, kind: usize) -> NonNull<()> {
    const { assert!(align_of::<T>() > BUF) };
    let home = NonNull::new(home.cast_mut().cast::<()>()).expect("what owns memory has an address");
    home.map_addr(|addr| addr | kind)
}

impl Msg {
    /// A message of `len` bytes that `fill` writes, in a block of `slab`.
    #[inline]
    pub fn fill(slab: &Slab, len: usize, fill: impl FnOnce(&mut [MaybeUninit<u8>])) -> Self {
        if len > SLAB_MAX {
            let mut buf = RegBuf::heap(len);
            // SAFETY: a slice of possibly uninitialized bytes requires less than a slice of bytes; `fill` writes all of them.
            fill(unsafe { &mut *(std::ptr::from_mut::<[u8]>(&mut buf) as *mut [MaybeUninit<u8>]) });
            return buf.into();
        }
        let ptr = slab.take(len);
        // SAFETY: the block has at least `len` bytes, and MaybeUninit requires nothing more.
        fill(unsafe { std::slice::from_raw_parts_mut(ptr.as_ptr().cast(), len) });
        Self { ptr, len, home: marked(slab.clone().into_raw(), SLAB) }
    }

    /// A copy in a block of `slab`.
    ///
    /// # Safety
    /// `from` is valid for reads of `len` bytes, and of at least 48.
    #[inline]
    pub(super) unsafe fn copied(slab: &Slab, from: NonNull<u8>, len: usize) -> Self {
        let ptr = slab.take(len);
        // A copy of constant size takes a few moves; a call takes longer. Blocks have at least 64 bytes.
        let n = if len <= 48 { 48 } else { len };
        // SAFETY: both are valid for `n` bytes, as the caller promises and as every block is; they do not overlap.
        unsafe {
            if n == 48 {
                std::ptr::copy_nonoverlapping(from.as_ptr(), ptr.as_ptr(), 48);
            } else {
                std::ptr::copy_nonoverlapping(from.as_ptr(), ptr.as_ptr(), n);
            }
        }
        Self { ptr, len, home: marked(slab.clone().into_raw(), SLAB) }
    }

    /// The address of its first byte. The owner of the message may write through it.
    #[inline]
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Converts it into an owned buffer that may cross threads. Copies only a small message.
    #[must_use]
    pub fn into_buf(self) -> RegBuf {
        if self.kind() != BUF {
            return RegBuf::copy_of(&self);
        }
        let home = std::mem::ManuallyDrop::new(self).home();
        // SAFETY: the kind says that `from` made the home from a box, which is taken out once: the message is not dropped.
        *unsafe { Box::from_raw(home.cast::<RegBuf>()) }
    }

    #[inline]
    fn kind(&self) -> usize {
        self.home.addr().get() & BUF
    }

    /// The home's address without its mark.
    #[inline]
    fn home(&self) -> *mut () {
        self.home.as_ptr().map_addr(|addr| addr & !BUF)
    }

    #[cold]
    fn free_buf(&mut self) {
        // SAFETY: the kind says that `from` made the home from a box, which is taken back once, by drop.
        drop(unsafe { Box::from_raw(self.home().cast::<RegBuf>()) });
    }
}

impl From<RegBuf> for Msg {
    fn from(buf: RegBuf) -> Self {
        let (len, buf) = (buf.len(), Box::new(buf));
        let ptr = NonNull::new(buf.as_ptr()).expect("a buffer's address is not null");
        Self { ptr, len, home: marked(Box::into_raw(buf), BUF) }
    }
}

impl Drop for Msg {
    #[inline]
    fn drop(&mut self) {
        if self.kind() == SLAB {
            // SAFETY: the kind says that the home is a slab, which is taken back once, here; the block came from it for this length,
            // and has no other user.
            unsafe { Slab::from_raw(self.home().cast()).give(self.ptr, self.len) }
        } else {
            self.free_buf();
        }
    }
}

impl Deref for Msg {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the sender, `fill` or the buffer's owner initialized the bytes; the memory is ours until drop.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl fmt::Debug for Msg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Msg").field("len", &self.len()).finish_non_exhaustive()
    }
}
