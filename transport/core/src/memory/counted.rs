//! A home that wraps another one and counts the buffers in use: for tests that check for leaks, and for
//! pools that are only a limit.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Home, RegBuf};

/// A count of buffers. Cheap to clone: clones share it.
#[derive(Clone, Default, Debug)]
pub struct Counted(Arc<AtomicUsize>);

struct CountedHome {
    inner: Arc<dyn Home>,
    live: Arc<AtomicUsize>,
}

// SAFETY: the block belongs to the inner home, which upholds the contract; this one only counts.
unsafe impl Home for CountedHome {
    unsafe fn reclaim(&self, block: NonNull<u8>, cap: usize) {
        self.live.fetch_sub(1, Ordering::AcqRel);
        // SAFETY: the inner home handed out this block with this capacity (see `Counted::wrap`), and it is not used again.
        unsafe { self.inner.reclaim(block, cap) }
    }

    fn tag(&self) -> u64 {
        self.inner.tag()
    }
}

impl Counted {
    /// Counts `buf` until it is dropped.
    #[must_use]
    pub fn wrap(&self, buf: RegBuf) -> RegBuf {
        self.0.fetch_add(1, Ordering::AcqRel);
        let (ptr, len, cap, inner) = buf.into_raw();
        // SAFETY: the parts are those of a buffer that was taken apart just now; our home returns the block to its own.
        unsafe { RegBuf::from_raw(ptr, len, cap, Arc::new(CountedHome { inner, live: self.0.clone() })) }
    }

    /// How many counted buffers exist.
    #[must_use]
    pub fn live(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_buffers_are_counted_until_they_are_dropped() {
        let counted = Counted::default();
        let (a, b) = (counted.wrap(RegBuf::heap(10)), counted.wrap(RegBuf::from_vec(vec![1.5f64; 4])));
        assert_eq!((counted.live(), b.len()), (2, 32));
        drop((a, b));
        assert_eq!(counted.live(), 0);
    }
}
