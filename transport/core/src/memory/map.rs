//! Mappings: the only place that calls `mmap`.

use std::os::fd::BorrowedFd;
use std::ptr::{NonNull, null_mut};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use crate::TransportError;

/// The page size that everything here is rounded to. (Larger than the page of some systems; a multiple of the page of all but ARM with 64 KiB.)
pub const PAGE: usize = 4096;
/// A huge page.
pub const HUGE: usize = 2 << 20;

/// An address range of this process, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is only an address range; its users synchronize their accesses.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

fn memory(len: usize, source: rustix::io::Errno) -> TransportError {
    if matches!(source, rustix::io::Errno::NOMEM | rustix::io::Errno::NOSPC) {
        return TransportError::no_memory("shared memory", len);
    }
    TransportError::system("mmap", source)
}

impl Mapping {
    /// Addresses without memory, `len` bytes, aligned to a huge page.
    pub(crate) fn reserve(len: usize) -> Result<Self, TransportError> {
        let whole = len + HUGE;
        // SAFETY: a new mapping at an address that the kernel chooses overlaps no other.
        let at =
            unsafe { mmap_anonymous(null_mut(), whole, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE) }
                .map_err(|e| memory(len, e))?
                .cast::<u8>();
        let skip = at.align_offset(HUGE);
        // SAFETY: head and tail lie in the new mapping, which has no other user yet.
        unsafe {
            if skip > 0 {
                let _ = munmap(at.cast(), skip);
            }
            let _ = munmap(at.add(skip + len).cast(), HUGE - skip);
            Ok(Self { base: NonNull::new_unchecked(at.add(skip)), len })
        }
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The address at `offset`.
    pub(crate) fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset <= self.len);
        // SAFETY: within the mapping, or at its end.
        unsafe { self.base.add(offset) }
    }

    /// Maps `len` bytes of a file at `offset` of this range.
    pub(crate) fn place_file(
        &self,
        offset: usize,
        len: usize,
        fd: BorrowedFd<'_>,
        at: u64,
    ) -> Result<(), TransportError> {
        assert!(offset + len <= self.len && offset.is_multiple_of(PAGE));
        // SAFETY: the range is ours and nothing refers into it yet (only constructors call this).
        unsafe {
            mmap(
                self.at(offset).as_ptr().cast(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE,
                fd,
                at,
            )
        }
        .map(drop)
        .map_err(|e| memory(len, e))
    }

    /// Maps private memory of zeros at `offset` of this range.
    pub(crate) fn place_private(&self, offset: usize, len: usize) -> Result<(), TransportError> {
        assert!(offset + len <= self.len && offset.is_multiple_of(PAGE));
        // SAFETY: as above.
        unsafe {
            mmap_anonymous(
                self.at(offset).as_ptr().cast(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
            )
        }
        .map(drop)
        .map_err(|e| memory(len, e))
    }

    /// Asks for huge pages. A system without them ignores it.
    pub(crate) fn advise_huge(&self, offset: usize, len: usize) {
        assert!(offset + len <= self.len);
        // SAFETY: advice about our own range, which changes no byte.
        let _ = unsafe { madvise(self.at(offset).as_ptr().cast(), len, Advice::LinuxHugepage) };
    }

    /// Brings the pages of private memory in, so that a lack of memory shows here. Returns whether the kernel took the request
    /// and had the memory.
    pub(crate) fn populate(&self, offset: usize, len: usize) -> rustix::io::Result<()> {
        assert!(offset + len <= self.len);
        // SAFETY: reads and writes back bytes of our own range, unchanged.
        match unsafe { madvise(self.at(offset).as_ptr().cast(), len, Advice::LinuxPopulateWrite) } {
            // Before Linux 5.14: the pages come in when they are touched.
            Err(rustix::io::Errno::INVAL) => Ok(()),
            other => other,
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // This calls the function of the C library, not the system call: RDMA libraries intercept it, to forget their registrations
        // of the unmapped memory, whose addresses may be reused.
        // SAFETY: every user of the mapping keeps it alive, so there is none.
        let _ = unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
