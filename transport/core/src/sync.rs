//! The door through which lock-free code reaches its atomics: generic over [`Word`], it runs on real memory when it ships
//! and on loom's when it is model-checked (`--cfg loom`). Code in shared memory cannot simply rename a type, since
//! loom's atomics are no plain words.

use std::sync::atomic::{AtomicU64, Ordering};

/// An atomic word of 64 bits.
pub trait Word {
    /// Reads.
    fn load(&self, order: Ordering) -> u64;
    /// Writes.
    fn store(&self, value: u64, order: Ordering);
    /// Writes, and returns what was there.
    fn swap(&self, value: u64, order: Ordering) -> u64;
    /// Writes if `old` is there; may fail without reason.
    fn replace(&self, old: u64, new: u64, order: Ordering) -> Result<u64, u64>;
}

macro_rules! word {
    ($atomic:ty) => {
        impl Word for $atomic {
            #[inline]
            fn load(&self, order: Ordering) -> u64 {
                self.load(order)
            }
            #[inline]
            fn store(&self, value: u64, order: Ordering) {
                self.store(value, order);
            }
            #[inline]
            fn swap(&self, value: u64, order: Ordering) -> u64 {
                self.swap(value, order)
            }
            #[inline]
            fn replace(&self, old: u64, new: u64, order: Ordering) -> Result<u64, u64> {
                self.compare_exchange_weak(old, new, order, Ordering::Relaxed)
            }
        }
    };
}

word!(AtomicU64);
#[cfg(loom)]
word!(loom::sync::atomic::AtomicU64);
