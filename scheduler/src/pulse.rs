//! What other threads can see of a PE: whether it makes progress, and whether it is idle. For a thread that supervises the process.
//!
//! Only the PE writes, and pays a plain store for each work item; a reader sees what was true a moment ago. One reading says little. Two equal
//! readings mean that nothing has begun or ended between them, since the number of turns only grows.

use std::fmt;
use std::time::Duration;

use crate::sync::{AtomicU64, Ordering};

/// See the module's text.
pub struct Pulse {
    /// Calls processed, as quiescence counts them.
    processed: AtomicU64,
    /// All other work: tasks resumed, timers fired, closures of other threads run.
    others: AtomicU64,
    /// In nanoseconds of the PE's clock, plus one; 0 if it is not idle.
    idle_since: AtomicU64,
}

/// One reading of a PE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Work items done since the start.
    pub turns: u64,
    /// Since when it has been idle, on its clock.
    pub idle_since: Option<Duration>,
}

#[inline]
fn bump(counter: &AtomicU64) {
    // Only this thread writes.
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

impl Pulse {
    pub(crate) fn new() -> Self {
        Self { processed: AtomicU64::new(0), others: AtomicU64::new(0), idle_since: AtomicU64::new(0) }
    }

    /// Reads the PE's state, from any thread.
    #[must_use]
    pub fn look(&self) -> Seen {
        let turns = self.processed().wrapping_add(self.others.load(Ordering::Relaxed));
        Seen { turns, idle_since: self.idle_since() }
    }

    #[inline]
    pub(crate) fn processed(&self) -> u64 {
        self.processed.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn one_processed(&self) {
        bump(&self.processed);
    }

    #[inline]
    pub(crate) fn one_other(&self) {
        bump(&self.others);
    }

    pub(crate) fn idle_since(&self) -> Option<Duration> {
        self.idle_since.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_nanos)
    }

    pub(crate) fn idle_from(&self, now: Duration) {
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX - 1);
        self.idle_since.store(nanos + 1, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn works(&self) {
        self.idle_since.store(0, Ordering::Relaxed);
    }
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.look().fmt(f)
    }
}
