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
///
/// Where its bytes are is known without looking at what they lie in: only its end asks for that.
#[must_use]
pub struct Msg {
    ptr: NonNull<u8>,
    len: usize,
    /// A raw `Rc<Inbox>`, `Slab` or `Box<RegBuf>`, which this message owns; its lowest bits are one of the kinds below.
    home: NonNull<()>,
}

// It is moved from hand to hand: the smaller the better.
const _: () = assert!(size_of::<Msg>() == 24);

/// The kinds of homes, as the lowest bits of their addresses.
const SLAB: usize = 0;
const RING: usize = 1;
const BUF: usize = 2;
const KINDS: usize = 3;

/// Marks the address of a home as one of `kind`.
#[inline]
fn marked<T>(home: *const T, kind: usize) -> NonNull<()> {
    const { assert!(align_of::<T>() > KINDS) };
    let home = NonNull::new(home.cast_mut().cast::<()>()).expect("what owns memory has an address");
    home.map_addr(|addr| addr | kind)
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
        Self { ptr, len, home: marked(slab.clone().into_raw(), SLAB) }
    }

    /// A message in place.
    ///
    /// # Safety
    /// `body` is that of a record of `inbox` that was taken, has `len` bytes, and is released by nobody else.
    #[inline]
    pub(super) unsafe fn in_ring(body: NonNull<u8>, len: usize, inbox: Rc<Inbox>) -> Self {
        Self { ptr: body, len, home: marked(Rc::into_raw(inbox), RING) }
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
        Self { ptr, len, home: marked(slab.clone().into_raw(), SLAB) }
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
        self.kind() == RING
    }

    /// The address of its first byte. The owner of the message may write through it.
    #[inline]
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// As an owned buffer that may cross threads; copies only a small message.
    #[must_use]
    pub fn into_buf(self) -> RegBuf {
        if self.kind() != BUF {
            return RegBuf::copy_of(&self);
        }
        let home = std::mem::ManuallyDrop::new(self).home();
        // SAFETY: the kind says that `from` made it of a box, which is taken out once: the message is not dropped.
        *unsafe { Box::from_raw(home.cast::<RegBuf>()) }
    }

    #[inline]
    fn kind(&self) -> usize {
        self.home.addr().get() & KINDS
    }

    /// The home's address without its mark.
    #[inline]
    fn home(&self) -> *mut () {
        self.home.as_ptr().map_addr(|addr| addr & !KINDS)
    }

    fn free_elsewhere(&mut self) {
        if self.kind() == RING {
            // SAFETY: the kind says that `in_ring` made it of an `Rc`, which is taken back once, by drop.
            unsafe { Rc::from_raw(self.home().cast::<Inbox>()) }.release(self.ptr);
        } else {
            // SAFETY: as above, of a box by `from`.
            drop(unsafe { Box::from_raw(self.home().cast::<RegBuf>()) });
        }
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
            // SAFETY: the kind says that the home is a slab's, taken back once, here; the block came from it for this length,
            // and nobody else uses it.
            unsafe { Slab::from_raw(self.home().cast()).give(self.ptr, self.len) }
        } else {
            self.free_elsewhere();
        }
    }
}

impl Deref for Msg {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the sender, `fill` or the buffer's owner initialized the bytes; the place is ours until drop.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl fmt::Debug for Msg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Msg").field("len", &self.len()).finish_non_exhaustive()
    }
}
