//! Shared memory for the limits, without the engine.

use std::ops::{Deref, DerefMut};
use std::ptr::{NonNull, null_mut};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// A mapping with `MAP_SHARED` that one thread owns at a time; huge pages where the system gives them to shared memory.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for Mapping {}

impl Mapping {
    pub(crate) fn new(len: usize) -> rustix::io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice does not affect other memory.
        let base = unsafe { mmap_anonymous(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED) }?;
        // SAFETY: advice about our own mapping, which changes no byte; a refusal is fine.
        let _ = unsafe { madvise(base, len, Advice::LinuxHugepage) };
        Ok(Self { base: NonNull::new(base.cast()).ok_or(rustix::io::Errno::NOMEM)?, len })
    }
}

impl Deref for Mapping {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: mapped, readable and initialized (zeros) for `len` bytes until the drop.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl DerefMut for Mapping {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and writable; there is no other reference.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: slices of it borrow `self`, so there are none.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}
