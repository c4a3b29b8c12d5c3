//! Test memory that is unmapped and mapped again at the same address. The test is that nothing of the old mapping, above all no registration, gives
//! access to the new one. libfabric and UCX cache registrations by address. They patch libc's functions to notice that memory is unmapped, and do not see
//! system calls that bypass libc; so every mapping whose memory is sent must be unmapped through libc.

use std::ffi::{c_int, c_void};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use charm4rs_transport_core::{Home, RegBuf};

const ANONYMOUS: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// A range of addresses.
#[derive(Debug)]
pub(super) struct Spot(Arc<Range>);

#[derive(Debug)]
struct Range {
    at: NonNull<u8>,
    len: usize,
    mapped: AtomicBool,
}

// SAFETY: a range of addresses; only the one buffer over it accesses its memory.
unsafe impl Send for Range {}
// SAFETY: as above.
unsafe impl Sync for Range {}

impl Range {
    /// Replaces what is mapped there by fresh memory, or by memory without access.
    ///
    /// # Safety
    /// The memory there is not in use.
    unsafe fn map(&self, protection: c_int) {
        let at: *mut c_void = self.at.as_ptr().cast();
        // SAFETY: the range is ours, and the caller promises that it is not in use.
        let mapped = unsafe { libc::mmap(at, self.len, protection, ANONYMOUS | libc::MAP_FIXED, -1, 0) };
        assert_eq!(mapped, at, "a range that was mapped can be mapped again");
    }
}

impl Spot {
    /// A range of `len` bytes, without memory yet.
    ///
    /// # Panics
    /// If the address space is full.
    #[must_use]
    pub(super) fn new(len: usize) -> Self {
        let len = len.next_multiple_of(4096);
        // SAFETY: a fresh mapping aliases nothing.
        let at = unsafe { libc::mmap(null_mut(), len, libc::PROT_NONE, ANONYMOUS, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED, "the address space is not full");
        let at = NonNull::new(at.cast()).expect("a mapping has an address");
        Self(Arc::new(Range { at, len, mapped: AtomicBool::new(false) }))
    }

    /// Maps fresh memory of `len` bytes there, until the buffer is dropped.
    ///
    /// # Panics
    /// If it is too long, or the last buffer is still alive.
    #[must_use]
    pub(super) fn map(&self, len: usize) -> RegBuf {
        assert!(len <= self.0.len && !self.0.mapped.swap(true, Ordering::AcqRel), "one buffer at a time");
        // SAFETY: the range is not in use, as was just checked; then the block is valid, zeroed and the buffer's alone until it is reclaimed.
        unsafe {
            self.0.map(libc::PROT_READ | libc::PROT_WRITE);
            RegBuf::from_raw(self.0.at, len, self.0.len, self.0.clone())
        }
    }
}

// SAFETY: there is one buffer at a time, and its memory is mapped until it is reclaimed.
unsafe impl Home for Range {
    unsafe fn reclaim(&self, _: NonNull<u8>, _: usize) {
        // SAFETY: its only user has given it back.
        unsafe { self.map(libc::PROT_NONE) };
        self.mapped.store(false, Ordering::Release);
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        // SAFETY: no buffer uses it, since a buffer would keep the range alive.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}
