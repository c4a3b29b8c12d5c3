//! The time that a PE sees: the machine's clock, or a simulation's.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The time since the job's start. Clones tell the same time.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    Real(Instant),
    Virtual(Arc<dyn Fn() -> Duration + Send + Sync>),
}

impl Clock {
    /// The machine's clock. Time zero is now.
    #[must_use]
    pub fn real() -> Self {
        Self::since(Instant::now())
    }

    /// The machine's clock. Time zero is `start`, which all PEs of a process share.
    #[must_use]
    pub fn since(start: Instant) -> Self {
        Self(Source::Real(start))
    }

    /// A clock that calls `now`, which must never go back.
    #[must_use]
    pub fn from_fn(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Source::Virtual(Arc::new(now)))
    }

    /// Whether this is the machine's clock, which is slow to read and advances by itself.
    pub(crate) fn is_real(&self) -> bool {
        matches!(self.0, Source::Real(_))
    }

    /// The time since the job's start.
    #[inline]
    #[must_use]
    pub fn now(&self) -> Duration {
        match &self.0 {
            Source::Real(start) => start.elapsed(),
            Source::Virtual(now) => now(),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::real()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            Source::Real(_) => "Real",
            Source::Virtual(_) => "Virtual",
        };
        f.debug_tuple(name).field(&self.now()).finish()
    }
}

/// A clock that advances only by [`VirtualClock::advance_to`]. Clones are the same clock.
#[derive(Clone, Default, Debug)]
pub struct VirtualClock(Arc<AtomicU64>);

impl VirtualClock {
    /// At the job's start.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The clock to give to schedulers.
    #[must_use]
    pub fn clock(&self) -> Clock {
        let nanos = self.0.clone();
        Clock::from_fn(move || Duration::from_nanos(nanos.load(Ordering::Relaxed)))
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    /// Moves to `time`, unless that is past.
    pub fn advance_to(&self, time: Duration) {
        self.0.fetch_max(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
