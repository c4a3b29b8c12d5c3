//! Reusable blocks for large messages: the next message finds its memory mapped and, if it was just freed, in cache.
//!
//! Sizes double from 16 KiB to 128 MiB; larger blocks are mapped for one message. Blocks are returned from any thread.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use charm4rs_transport_core::memory::{Home, RegBuf};

const SMALLEST: usize = 16 << 10;
const CLASSES: usize = 14;
/// Free bytes that are kept.
const KEPT_MAX: usize = 256 << 20;
/// A block of at least this size may use huge pages.
const HUGE: usize = 2 << 20;

/// A PE's blocks.
#[derive(Clone, Debug)]
pub(super) struct Pool(Arc<Blocks>);

#[derive(Debug, Default)]
struct Blocks(Mutex<Free>);

#[derive(Debug, Default)]
struct Free {
    lists: [Vec<Block>; CLASSES],
    bytes: usize,
}

/// A free mapping.
#[derive(Debug)]
struct Block(NonNull<u8>);

// SAFETY: a free block is memory that nothing refers to; it may be used on any thread.
unsafe impl Send for Block {}

fn class_of(len: usize) -> Option<usize> {
    let size = len.max(SMALLEST).checked_next_power_of_two()?;
    let class = (size.trailing_zeros() - SMALLEST.trailing_zeros()) as usize;
    (class < CLASSES).then_some(class)
}

fn map(size: usize) -> Option<NonNull<u8>> {
    // SAFETY: a fresh anonymous mapping aliases nothing.
    let ptr = unsafe {
        mmap_anonymous(std::ptr::null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE).ok()?
    };
    if size >= HUGE {
        // Only advice: it also works without huge pages.
        // SAFETY: the range was just mapped.
        let _ = unsafe { madvise(ptr, size, Advice::LinuxHugepage) };
    }
    NonNull::new(ptr.cast())
}

/// # Safety
/// `block` is a mapping of `size` bytes that is not used any more.
unsafe fn unmap(block: NonNull<u8>, size: usize) {
    // SAFETY: the caller's promise. It cannot fail for a whole mapping, and could only leak if it did.
    let _ = unsafe { munmap(block.as_ptr().cast(), size) };
}

impl Pool {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// A buffer of `len` bytes; `None`: the system has no memory.
    pub(super) fn take(&self, len: usize) -> Option<RegBuf> {
        let (block, cap) = match class_of(len) {
            Some(class) => {
                let size = SMALLEST << class;
                let mut free = self.0.lock();
                let block = free.lists[class].pop();
                if block.is_some() {
                    free.bytes -= size;
                }
                drop(free);
                (block.map_or_else(|| map(size), |block| Some(block.0))?, size)
            }
            None => {
                let size = len.checked_next_multiple_of(4096)?;
                (map(size)?, size)
            }
        };
        // SAFETY: the block is a mapping of `cap` bytes, zeroed by the kernel or written by its last owner, and has no other owner.
        Some(unsafe { RegBuf::from_raw(block, len, cap, self.0.clone()) })
    }
}

impl Blocks {
    fn lock(&self) -> std::sync::MutexGuard<'_, Free> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: a block is in the free lists, or in one RegBuf, never in both.
unsafe impl Home for Blocks {
    unsafe fn reclaim(&self, block: NonNull<u8>, cap: usize) {
        if let Some(class) = class_of(cap) {
            let mut free = self.lock();
            if free.bytes + cap <= KEPT_MAX {
                free.bytes += cap;
                free.lists[class].push(Block(block));
                return;
            }
        }
        // SAFETY: `take` mapped it with this size, and its only owner gave it back.
        unsafe { unmap(block, cap) }
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        let free = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (class, list) in free.lists.iter_mut().enumerate() {
            for block in list.drain(..) {
                // SAFETY: free blocks have no user, and have their class's size.
                unsafe { unmap(block.0, SMALLEST << class) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_block_is_the_next_one_to_be_used() {
        let pool = Pool::new();
        let first = pool.take(100_000).unwrap();
        let at = first.as_ptr();
        assert_eq!((first.len(), first.capacity()), (100_000, 128 << 10));
        std::thread::spawn(move || drop(first)).join().unwrap();
        assert_eq!(pool.take(70_000).unwrap().as_ptr(), at);
    }

    #[test]
    fn an_impossible_size_is_none_and_untouched_memory_costs_nothing() {
        let pool = Pool::new();
        assert!(pool.take(usize::MAX).is_none() && pool.take(1 << 55).is_none());
        drop(pool.take(5 << 30));
        let held: Vec<_> = (0..5).map(|_| pool.take(128 << 20).unwrap()).collect();
        drop(held);
        assert!(pool.0.lock().bytes <= KEPT_MAX);
    }
}
