//! An owned run of bytes that knows where its memory goes when it is dropped.
//!
//! A `RegBuf` comes from a pool (registered memory), from the heap, or from a vector of the user. Dropping
//! it, on any thread, gives the memory back to its [`Home`]. It moves through operations by value.

use std::alloc::Layout as AllocLayout;
use std::any::Any;
use std::fmt;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, LazyLock};

/// Where a buffer's memory goes when it is dropped.
///
/// # Safety
/// While a [`RegBuf`] made with this home exists, its block must stay valid, writable and unaliased.
pub unsafe trait Home: Any + Send + Sync {
    /// Takes a block back. May be called on any thread.
    ///
    /// # Safety
    /// `block` and `cap` are what the home gave to [`RegBuf::from_raw`]. The call is made once, and the block is not used afterwards.
    unsafe fn reclaim(&self, block: NonNull<u8>, cap: usize);

    /// Identifies the memory, for a backend that recognizes its own (0: none).
    fn tag(&self) -> u64 {
        0
    }
}

/// An owned buffer of bytes; see the module's text. Initialized in its whole length.
pub struct RegBuf {
    ptr: NonNull<u8>,
    len: usize,
    cap: usize,
    home: Arc<dyn Home>,
}

// SAFETY: a RegBuf owns its block exclusively (Home's contract), and a Home takes blocks back on any thread.
unsafe impl Send for RegBuf {}
// SAFETY: a shared RegBuf only reads its bytes.
unsafe impl Sync for RegBuf {}

/// Every block's alignment: a cache line, and enough for any Pod type.
pub(crate) const ALIGN: usize = 64;

struct Heap;

fn heap_layout(cap: usize) -> AllocLayout {
    AllocLayout::from_size_align(cap, ALIGN).expect("a buffer's size fits the address space")
}

// SAFETY: blocks come from the global allocator, and have no other user.
unsafe impl Home for Heap {
    unsafe fn reclaim(&self, block: NonNull<u8>, cap: usize) {
        // SAFETY: `zeroed` allocated the block with this layout.
        unsafe { std::alloc::dealloc(block.as_ptr(), heap_layout(cap)) }
    }
}

static HEAP: LazyLock<Arc<dyn Home>> = LazyLock::new(|| Arc::new(Heap));

/// Heap blocks up to this size are aligned by hand: an allocator takes several times as long for an aligned block as for an unaligned one.
const SMALL_MAX: usize = 4 << 10;

/// The heap, for small blocks. The offset of a block from the start of its memory is stored in front of the block.
struct SmallHeap;

/// The alignment that the heap gives by default.
const ALIGN_OF_HEAP: usize = 16;
const _: () = assert!(size_of::<usize>() <= ALIGN_OF_HEAP);

fn small_layout(cap: usize) -> AllocLayout {
    AllocLayout::from_size_align(cap + ALIGN, ALIGN_OF_HEAP).expect("a small size")
}

impl SmallHeap {
    /// A block of zeros.
    fn alloc(cap: usize) -> Option<NonNull<u8>> {
        // SAFETY: the layout's size is not 0.
        let memory = NonNull::new(unsafe { std::alloc::alloc(small_layout(cap)) })?;
        let offset = ALIGN - memory.addr().get() % ALIGN;
        // SAFETY: the block begins at least ALIGN_OF_HEAP and at most ALIGN bytes after the start, so `cap` bytes follow it, and the skipped bytes
        // precede it, at an address that is a multiple of ALIGN_OF_HEAP.
        unsafe {
            let block = memory.add(offset);
            block.cast::<usize>().sub(1).write(offset);
            block.write_bytes(0, cap);
            Some(block)
        }
    }
}

// SAFETY: blocks come from the global allocator, and have no other user.
unsafe impl Home for SmallHeap {
    unsafe fn reclaim(&self, block: NonNull<u8>, cap: usize) {
        // SAFETY: `alloc` made the block with this layout, and wrote the offset in front of it, where nothing else writes.
        unsafe {
            let offset = block.cast::<usize>().sub(1).read();
            std::alloc::dealloc(block.sub(offset).as_ptr(), small_layout(cap));
        }
    }
}

static SMALL_HEAP: LazyLock<Arc<dyn Home>> = LazyLock::new(|| Arc::new(SmallHeap));

struct VecHome<T> {
    vec: std::sync::Mutex<Option<Vec<T>>>,
}

// SAFETY: the vector is not touched while its buffer exists, and its heap block does not move.
unsafe impl<T: Send + 'static> Home for VecHome<T> {
    unsafe fn reclaim(&self, _: NonNull<u8>, _: usize) {
        drop(self.vec.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
    }
}

/// Keeps the memory of a split buffer alive.
struct Parts {
    whole: RegBuf,
}

// SAFETY: the parts are disjoint, and the whole is not touched until the last of them is gone.
unsafe impl Home for Parts {
    unsafe fn reclaim(&self, _: NonNull<u8>, _: usize) {}

    fn tag(&self) -> u64 {
        self.whole.tag()
    }
}

impl RegBuf {
    /// A buffer on the heap, zeroed; `None` if there is no memory.
    #[must_use]
    pub fn try_heap(len: usize) -> Option<Self> {
        let cap = len.max(1).checked_next_multiple_of(ALIGN).filter(|&cap| cap <= isize::MAX as usize)?;
        if cap <= SMALL_MAX {
            return Some(Self { ptr: SmallHeap::alloc(cap)?, len, cap, home: SMALL_HEAP.clone() });
        }
        // SAFETY: the layout's size is not 0.
        let ptr = NonNull::new(unsafe { std::alloc::alloc_zeroed(heap_layout(cap)) })?;
        Some(Self { ptr, len, cap, home: HEAP.clone() })
    }

    /// A buffer on the heap, zeroed.
    #[must_use]
    pub fn heap(len: usize) -> Self {
        Self::try_heap(len).unwrap_or_else(|| std::alloc::handle_alloc_error(heap_layout(len)))
    }

    /// A copy of `bytes` on the heap.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buf = Self::heap(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }

    /// The memory of a vector of plain data, without a copy.
    #[must_use]
    pub fn from_vec<T: bytemuck::Pod + Send>(mut vec: Vec<T>) -> Self {
        let len = size_of_val(vec.as_slice());
        let ptr = NonNull::new(vec.as_mut_ptr().cast::<u8>()).expect("a vector's pointer is not null");
        Self { ptr, len, cap: len, home: Arc::new(VecHome { vec: std::sync::Mutex::new(Some(vec)) }) }
    }

    /// A buffer over a block of `cap` bytes that `home` handed out, of which the first `len` are used.
    ///
    /// # Safety
    /// The block must be valid for reads and writes of `cap` initialized bytes, aligned to 64 if it is to carry
    /// messages, and owned by the caller, until `home.reclaim` is called with it.
    #[must_use]
    pub unsafe fn from_raw(ptr: NonNull<u8>, len: usize, cap: usize, home: Arc<dyn Home>) -> Self {
        debug_assert!(len <= cap);
        Self { ptr, len, cap, home }
    }

    /// The address of its first byte.
    #[inline]
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// The size of its block: `len` may grow up to it.
    #[inline]
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.cap
    }

    /// Identifies its memory (see [`Home::tag`]).
    #[inline]
    #[must_use]
    pub fn tag(&self) -> u64 {
        self.home.tag()
    }

    /// Sets how many of its bytes are used.
    ///
    /// # Panics
    /// If `len` is above the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.cap, "{len} bytes in a block of {}", self.cap);
        self.len = len;
    }

    /// Whether it is a whole block of `home`, not a part of one.
    #[inline]
    pub fn is_at_home<H: Home>(&self, home: &Arc<H>) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.home), Arc::as_ptr(home))
    }

    /// Lets `fill` write the buffer's bytes.
    pub fn fill_with(&mut self, fill: impl FnOnce(&mut [MaybeUninit<u8>])) {
        // SAFETY: valid for `len` bytes and ours; MaybeUninit<u8> has the layout of u8.
        fill(unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr().cast(), self.len) });
    }

    /// The vector that owns this memory, without a copy.
    ///
    /// # Errors
    /// The buffer, if its memory did not come from [`RegBuf::from_vec`] with this type, or if it is not the whole `Vec<T>`.
    pub fn into_vec<T: bytemuck::Pod + Send>(self) -> Result<Vec<T>, Self> {
        let home: Arc<dyn Any + Send + Sync> = self.home.clone();
        let Ok(home) = home.downcast::<VecHome<T>>() else { return Err(self) };
        let mut lent = home.vec.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match lent.take() {
            Some(vec) if size_of_val(vec.as_slice()) == self.len => Ok(vec), // `self` gives back the empty rest
            other => {
                *lent = other;
                drop(lent);
                Err(self)
            }
        }
    }

    /// Joins the parts of a split buffer, without a copy.
    ///
    /// # Errors
    /// The parts, as they were, if they are not all parts of one buffer, in order.
    pub fn join(parts: Vec<Self>) -> Result<Self, Vec<Self>> {
        let Some(first) = parts.first() else { return Err(parts) };
        let home: Arc<dyn Any + Send + Sync> = first.home.clone();
        let Ok(home) = home.downcast::<Parts>() else { return Err(parts) };
        let mut end = home.whole.as_ptr();
        let in_order = parts.iter().all(|part| {
            let follows = part.as_ptr() == end && part.is_at_home(&home);
            end = end.wrapping_add(part.len);
            follows
        });
        if !in_order || end != home.whole.as_ptr().wrapping_add(home.whole.len) {
            return Err(parts);
        }
        drop(parts);
        Ok(Arc::into_inner(home).expect("all parts were here, and each held its home once").whole)
    }

    /// Splits the buffer into parts of `len` bytes, the last one shorter. The memory is given back when all parts are dropped.
    #[must_use]
    pub fn split(self, len: usize) -> Vec<Self> {
        if self.len <= len {
            return vec![self];
        }
        let (ptr, total) = (self.ptr, self.len);
        let home: Arc<dyn Home> = Arc::new(Parts { whole: self });
        (0..total)
            .step_by(len)
            .map(|at| {
                let len = len.min(total - at);
                // SAFETY: disjoint parts of a block that lives as long as `home`, which every part holds.
                unsafe { Self { ptr: ptr.add(at), len, cap: len, home: home.clone() } }
            })
            .collect()
    }

    /// Takes the buffer apart; the inverse of [`RegBuf::from_raw`].
    #[must_use]
    pub fn into_raw(self) -> (NonNull<u8>, usize, usize, Arc<dyn Home>) {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped, so its home is moved out exactly once.
        (this.ptr, this.len, this.cap, unsafe { std::ptr::read(&raw const this.home) })
    }
}

impl Drop for RegBuf {
    fn drop(&mut self) {
        // SAFETY: this is the block's only owner, and it is being dropped.
        unsafe { self.home.reclaim(self.ptr, self.cap) }
    }
}

impl Deref for RegBuf {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the block is valid and initialized for `len` bytes, and owned by self.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for RegBuf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl fmt::Debug for RegBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegBuf").field("len", &self.len).field("cap", &self.cap).field("tag", &self.tag()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heap_buffer_is_zeroed_and_aligned() {
        let lens = (0..300).chain([SMALL_MAX - 1, SMALL_MAX, SMALL_MAX + 1, 100_000]);
        // Some buffers stay alive while others come and go, and all their bytes are written.
        let mut kept = Vec::new();
        for len in lens {
            let mut buf = RegBuf::heap(len);
            assert!(buf.iter().all(|&b| b == 0) && buf.len() == len && buf.capacity() >= len);
            assert_eq!(buf.as_ptr() as usize % ALIGN, 0);
            buf.set_len(buf.capacity());
            buf.fill(0xFF);
            if len % 3 == 0 {
                kept.push(buf);
            }
        }
        assert!(kept.iter().all(|buf| buf.iter().all(|&b| b == 0xFF)));
    }

    #[test]
    fn a_vector_lends_its_memory_and_is_freed_with_the_buffer() {
        let vec = vec![1.0f64, 2.0, 3.0];
        let at = vec.as_ptr() as usize;
        let buf = RegBuf::from_vec(vec);
        assert_eq!(buf.as_ptr() as usize, at);
        assert_eq!(bytemuck::cast_slice::<u8, f64>(&buf), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn the_parts_of_a_buffer_are_its_bytes_in_order() {
        let parts = RegBuf::copy_of(b"0123456789").split(4);
        assert_eq!(parts.iter().map(|p| &**p).collect::<Vec<_>>(), [&b"0123"[..], b"4567", b"89"]);
    }

    #[test]
    fn only_all_parts_of_a_buffer_in_order_can_be_joined() {
        let whole = RegBuf::copy_of(b"0123456789");
        let at = whole.as_ptr() as usize;
        let mut parts = whole.split(4);
        parts.swap(0, 1);
        let mut parts = RegBuf::join(parts).unwrap_err();
        parts.swap(0, 1);
        let last = parts.pop().unwrap();
        let mut parts = RegBuf::join(parts).unwrap_err();
        parts.push(RegBuf::copy_of(b"89"));
        let mut parts = RegBuf::join(parts).unwrap_err();
        parts[2] = last;
        parts[1][0] = b'x';
        let whole = RegBuf::join(parts).unwrap();
        assert_eq!((&*whole, whole.as_ptr() as usize), (&b"0123x56789"[..], at));
        assert!(RegBuf::join(vec![]).is_err() && RegBuf::join(vec![whole]).is_err());
    }

    #[test]
    fn a_vector_comes_back_from_a_buffer_only_as_its_own_type() {
        let vec = vec![1u32, 2, 3];
        let at = vec.as_ptr();
        let buf = RegBuf::from_vec(vec).into_vec::<f32>().unwrap_err();
        let mut buf = buf.into_vec::<u8>().unwrap_err();
        buf[0] = 7;
        buf.set_len(8);
        let mut buf = buf.into_vec::<u32>().unwrap_err();
        buf.set_len(12);
        let vec = buf.into_vec::<u32>().unwrap();
        assert_eq!((&*vec, vec.as_ptr()), (&[7, 2, 3][..], at));
        assert!(RegBuf::heap(8).into_vec::<u64>().is_err());
    }

    #[test]
    fn a_buffer_taken_apart_can_be_put_together() {
        let (ptr, len, cap, home) = RegBuf::copy_of(b"hello").into_raw();
        // SAFETY: the parts come from into_raw, and are used once.
        let buf = unsafe { RegBuf::from_raw(ptr, len, cap, home) };
        assert_eq!(&*buf, b"hello");
    }
}
