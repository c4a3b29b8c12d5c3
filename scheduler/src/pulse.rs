//! What other threads may see of a PE: whether it gets on, and whether it is idle. For who watches over a process.
//!
//! The PE alone writes, and pays a plain store for each thing that it does; whoever looks reads what was true a moment ago.
//! So one look says little, and two looks that are alike say that nothing has been begun or ended between them, since the number
//! of turns only grows.

use std::fmt;
use std::time::Duration;

use crate::sync::{AtomicU64, Ordering};

/// See the module's text.
pub struct Pulse {
    /// Calls that have been processed, as quiescence counts them.
    processed: AtomicU64,
    /// Everything else that was done: tasks resumed, timers fired, closures of other threads run.
    others: AtomicU64,
    /// In nanoseconds of the PE's clock, and one more; 0: it is not idle.
    idle_since: AtomicU64,
}

/// What one look at a PE shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Things that it has done, ever.
    pub turns: u64,
    /// Since when, on its clock, it has had nothing to do.
    pub idle_since: Option<Duration>,
}

#[inline]
fn bump(counter: &AtomicU64) {
    // No other thread writes.
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

impl Pulse {
    pub(crate) fn new() -> Self {
        Self { processed: AtomicU64::new(0), others: AtomicU64::new(0), idle_since: AtomicU64::new(0) }
    }

    /// From any thread.
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
