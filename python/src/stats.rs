//! The cost of each method, for `charm.printStats()`, and the options that the native part uses. Counts only while profiling is on.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

static PROFILING: AtomicBool = AtomicBool::new(false);
static BY_REFERENCE: AtomicBool = AtomicBool::new(false);
static PICKLE_PROTOCOL: AtomicU32 = AtomicU32::new(5);

/// Whether calls are counted and timed.
pub(crate) fn profiling() -> bool {
    PROFILING.load(Ordering::Relaxed)
}

/// Whether arguments of calls that stay on their PE are passed by reference.
pub(crate) fn by_reference() -> bool {
    BY_REFERENCE.load(Ordering::Relaxed)
}

/// The protocol with which values are pickled.
pub(crate) fn pickle_protocol() -> u32 {
    PICKLE_PROTOCOL.load(Ordering::Relaxed)
}

/// Sets the program's options.
#[pyfunction]
pub(crate) fn set_options(profiling: bool, by_reference: bool, pickle_protocol: u32) {
    PROFILING.store(profiling, Ordering::Relaxed);
    BY_REFERENCE.store(by_reference, Ordering::Relaxed);
    PICKLE_PROTOCOL.store(pickle_protocol, Ordering::Relaxed);
}

/// See [`Stats::figures`].
pub(crate) type Figures = (u64, f64, u64, u64, u64, u64);

/// What one method has cost this PE.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    calls: AtomicU64,
    nanoseconds: AtomicU64,
    sent: AtomicU64,
    bytes_sent: AtomicU64,
    received: AtomicU64,
    bytes_received: AtomicU64,
}

fn add(to: &AtomicU64, more: u64) {
    to.fetch_add(more, Ordering::Relaxed);
}

impl Stats {
    /// A call has been sent to an element, or to all elements of a collection.
    pub(crate) fn sent(&self, bytes: usize) {
        add(&self.sent, 1);
        add(&self.bytes_sent, bytes as u64);
    }

    /// A call has arrived.
    pub(crate) fn received(&self, bytes: usize) {
        add(&self.received, 1);
        add(&self.bytes_received, bytes as u64);
    }

    /// The method has run for `time`. A coroutine reports each run up to its next wait.
    pub(crate) fn ran(&self, time: Duration) {
        add(&self.nanoseconds, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Calls, seconds, messages and bytes sent, messages and bytes received; `None` if the method was neither called nor run.
    pub(crate) fn figures(&self) -> Option<Figures> {
        let Self { calls, nanoseconds, sent, bytes_sent, received, bytes_received } = self;
        let [calls, nanoseconds, sent, bytes_sent, received, bytes_received] =
            [calls, nanoseconds, sent, bytes_sent, received, bytes_received].map(|count| count.load(Ordering::Relaxed));
        let seconds = Duration::from_nanos(nanoseconds).as_secs_f64();
        (calls + sent + received > 0).then_some((calls, seconds, sent, bytes_sent, received, bytes_received))
    }

    /// Runs a call.
    pub(crate) fn timed<T>(&self, call: impl FnOnce() -> T) -> T {
        if !profiling() {
            return call();
        }
        add(&self.calls, 1);
        let from = Instant::now();
        let result = call();
        self.ran(from.elapsed());
        result
    }
}
