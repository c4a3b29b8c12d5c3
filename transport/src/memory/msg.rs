//! A message as it arrived: bytes, 16-byte aligned, that stay on their PE.
//!
//! It may live in three kinds of memory: in place in the PE's inbox ring (small, the fast path), in a block of
//! the PE's [`Slab`] (a call to itself; or kept for long), or in a [`RegBuf`] (large, handed over). The
//! layers above cannot tell.

use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;

use super::inbox::Inbox;
use super::{RegBuf, Slab, write_bytes};

/// Larger messages are kept in buffers.
const SLAB_MAX: usize = 1 << 20;

/// A message; see the module's text. Dropping it frees its place.
#[must_use]
pub struct Msg(Repr);

enum Repr {
    Ring { body: NonNull<u8>, len: u32, inbox: Rc<Inbox> },
    Slab { ptr: NonNull<u8>, len: u32, slab: Slab },
    Buf(Box<RegBuf>),
}

// It is moved from hand to hand: the smaller the better.
const _: () = assert!(size_of::<Msg>() == 24);

/// The length of a message that lies in a ring or a slab.
#[inline]
fn short(len: usize) -> u32 {
    u32::try_from(len).expect("a message of 4 GiB or more lies in a buffer of its own")
}

impl Msg {
    /// A message of `len` bytes that `fill` writes, in a block of `slab`.
    #[inline]
    pub fn fill(slab: &Slab, len: usize, fill: impl FnOnce(&mut [MaybeUninit<u8>])) -> Self {
        if len > SLAB_MAX {
            let mut buf = RegBuf::heap(len);
            // SAFETY: bytes that may be uninitialized ask for less than bytes; `fill` writes all of them.
            fill(unsafe { &mut *(std::ptr::from_mut::<[u8]>(&mut buf) as *mut [MaybeUninit<u8>]) });
            return buf.into();
        }
        let ptr = slab.take(len);
        // SAFETY: the block has at least `len` bytes, and MaybeUninit asks for nothing more.
        fill(unsafe { std::slice::from_raw_parts_mut(ptr.as_ptr().cast(), len) });
        Self(Repr::Slab { ptr, len: short(len), slab: slab.clone() })
    }

    /// A message in place.
    ///
    /// # Safety
    /// `body` is that of a record of `inbox` that was taken, has `len` bytes, and is released by nobody else.
    #[inline]
    pub(super) unsafe fn in_ring(body: NonNull<u8>, len: usize, inbox: Rc<Inbox>) -> Self {
        Self(Repr::Ring { body, len: short(len), inbox })
    }

    /// A copy in a block of `slab`.
    ///
    /// # Safety
    /// `from` is valid for reads of `len` bytes, and of 48 in any case.
    #[inline]
    pub(super) unsafe fn copied(slab: &Slab, from: NonNull<u8>, len: usize) -> Self {
        let ptr = slab.take(len);
        // A copy of known size is a few moves; a call would take longer. Blocks have at least 64 bytes.
        let n = if len <= 48 { 48 } else { len };
        // SAFETY: both are valid for `n` bytes, as the caller says and as blocks are; they do not overlap.
        unsafe {
            if n == 48 {
                std::ptr::copy_nonoverlapping(from.as_ptr(), ptr.as_ptr(), 48);
            } else {
                std::ptr::copy_nonoverlapping(from.as_ptr(), ptr.as_ptr(), n);
            }
        }
        Self(Repr::Slab { ptr, len: short(len), slab: slab.clone() })
    }

    /// Moves a message that lies in its inbox into a block of `slab`; any other stays where it is.
    ///
    /// An inbox can take new messages only behind the oldest that still lies in it. So whoever keeps a message for
    /// longer than it takes to run what is before it (in a priority queue, in a buffer until something else arrives)
    /// detaches it first.
    #[inline]
    pub fn detach(&mut self, slab: &Slab) {
        if self.in_place() {
            *self = Self::fill(slab, self.len(), |to| write_bytes(to, self));
        }
    }

    /// Whether it lies in its inbox; see [`Msg::detach`].
    #[inline]
    #[must_use]
    pub fn in_place(&self) -> bool {
        matches!(self.0, Repr::Ring { .. })
    }

    /// The address of its first byte. The owner of the message may write through it.
    #[inline]
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        match &self.0 {
            Repr::Ring { body: ptr, .. } | Repr::Slab { ptr, .. } => ptr.as_ptr(),
            Repr::Buf(buf) => buf.as_ptr(),
        }
    }

    /// As an owned buffer that may cross threads; copies only a small message.
    #[must_use]
    pub fn into_buf(self) -> RegBuf {
        if !matches!(self.0, Repr::Buf(_)) {
            return RegBuf::copy_of(&self);
        }
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped, so its buffer is moved out exactly once.
        match unsafe { std::ptr::read(&raw const this.0) } {
            Repr::Buf(buf) => *buf,
            _ => unreachable!("handled above"),
        }
    }
}

impl From<RegBuf> for Msg {
    fn from(buf: RegBuf) -> Self {
        Self(Repr::Buf(Box::new(buf)))
    }
}

impl Drop for Msg {
    #[inline]
    fn drop(&mut self) {
        match &self.0 {
            Repr::Ring { body, inbox, .. } => inbox.release(*body),
            // SAFETY: the block came from this slab, for this length, and nobody else uses it.
            Repr::Slab { ptr, len, slab } => unsafe { slab.give(*ptr, *len as usize) },
            Repr::Buf(_) => {}
        }
    }
}

impl Deref for Msg {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            // SAFETY: the sender or `fill` initialized the bytes; the place is ours until drop.
            Repr::Ring { body: ptr, len, .. } | Repr::Slab { ptr, len, .. } => unsafe {
                std::slice::from_raw_parts(ptr.as_ptr(), *len as usize)
            },
            Repr::Buf(buf) => buf,
        }
    }
}

impl fmt::Debug for Msg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Msg").field("len", &self.len()).finish_non_exhaustive()
    }
}
