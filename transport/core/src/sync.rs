//! How lock-free code accesses its atomics: it is generic over [`Word`], so that it runs on real memory when it ships
//! and on loom's atomics when it is model-checked (`--cfg loom`). Code in shared memory cannot simply rename a type, since
//! loom's atomics are not plain words.

use std::sync::atomic::{AtomicU64, Ordering};

/// An atomic word of 64 bits.
pub trait Word {
    /// Loads the value.
    fn load(&self, order: Ordering) -> u64;
    /// Stores a value.
    fn store(&self, value: u64, order: Ordering);
    /// Stores a value, and returns the old one.
    fn swap(&self, value: u64, order: Ordering) -> u64;
    /// Stores a value if the old one is `old`; may fail spuriously.
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
