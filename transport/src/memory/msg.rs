//! A message as it arrived: bytes, 16-byte aligned, that stay on their PE.
//!
//! It may live in three kinds of memory: in place in the PE's inbox ring (small, the fast path), in a block of
//! the PE's [`Slab`] (a call to itself; or kept for long), or in a [`RegBuf`] (large, handed over). The
//! layers above cannot tell.

use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::ptr::NonNull;

use super::{RegBuf, Slab};

/// A message; see the module's text. Dropping it frees its place.
#[must_use]
pub struct Msg(Repr);

enum Repr {
    Slab { ptr: NonNull<u8>, len: usize, slab: Slab },
    Buf(RegBuf),
}

impl Msg {
    /// A message of `len` bytes that `fill` writes, in a block of `slab`.
    #[inline]
    pub fn fill(slab: &Slab, len: usize, fill: impl FnOnce(&mut [MaybeUninit<u8>])) -> Self {
        let ptr = slab.take(len);
        // SAFETY: the block has at least `len` bytes, and MaybeUninit asks for nothing more.
        fill(unsafe { std::slice::from_raw_parts_mut(ptr.as_ptr().cast(), len) });
        Self(Repr::Slab { ptr, len, slab: slab.clone() })
    }

    /// The address of its first byte. The owner of the message may write through it.
    #[inline]
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        match &self.0 {
            Repr::Slab { ptr, .. } => ptr.as_ptr(),
            Repr::Buf(buf) => buf.as_ptr(),
        }
    }

    /// As an owned buffer that may cross threads; copies only a small message.
    #[must_use]
    pub fn into_buf(self) -> RegBuf {
        if let Repr::Slab { .. } = self.0 {
            return RegBuf::copy_of(&self);
        }
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped, so its buffer is moved out exactly once.
        match unsafe { std::ptr::read(&raw const this.0) } {
            Repr::Buf(buf) => buf,
            Repr::Slab { .. } => unreachable!("handled above"),
        }
    }
}

impl From<RegBuf> for Msg {
    fn from(buf: RegBuf) -> Self {
        Self(Repr::Buf(buf))
    }
}

impl Drop for Msg {
    #[inline]
    fn drop(&mut self) {
        match &self.0 {
            // SAFETY: the block came from this slab, for this length, and nobody else uses it.
            Repr::Slab { ptr, len, slab } => unsafe { slab.give(*ptr, *len) },
            Repr::Buf(_) => {}
        }
    }
}

impl Deref for Msg {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            // SAFETY: `fill` initialized the bytes; the block is ours until drop.
            Repr::Slab { ptr, len, .. } => unsafe { std::slice::from_raw_parts(ptr.as_ptr(), *len) },
            Repr::Buf(buf) => buf,
        }
    }
}

impl fmt::Debug for Msg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Msg").field("len", &self.len()).finish_non_exhaustive()
    }
}
