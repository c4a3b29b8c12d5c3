//! The interface of the scheduler to the layer above: its handler, its configuration, and its reports.

use std::time::Duration;

use charm4rs_transport::port::{Incoming, Offer, Tag};
use charm4rs_transport::{Pe, RegBuf, TransportError};

use crate::idle::Spin;
use crate::{Class, Clock};

/// The layer above, which knows what messages mean.
pub trait Handler {
    /// The urgency of a call that arrived. It must only read the message: the PE is in the middle of its poll.
    fn class(&self, msg: &Incoming) -> Class;

    /// Runs the call in a message, or handles a system message ([`Tag::is_system`]), which is delivered directly from the poll.
    fn deliver(&self, msg: Incoming);

    /// The memory for an offer's payloads, in order; `None`: pooled memory.
    fn offer(&self, offer: &Offer) -> Vec<Option<RegBuf>>;

    /// A message of this PE could not be delivered because there is no memory for its `bytes`. `head`: its first bytes, at most 256; empty if even
    /// they are lost.
    fn refused(&self, to: Pe, tag: Tag, head: &[u8], bytes: u64) {
        let _ = (to, tag, head, bytes);
    }

    /// The PE has run out of work. Called once, and again only after it has had work.
    fn idle(&self) {}

    /// The PE's thread is about to sleep; it sleeps when `sleep` is called, exactly once. A handler that must release something for that time, an
    /// interpreter's lock for example, does so here.
    fn sleep(&self, sleep: &mut dyn FnMut()) {
        sleep();
    }
}

/// How a PE runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its clock.
    pub clock: Clock,
    /// Whether the host has more PEs than cores that they may use.
    pub oversubscribed: bool,
    /// How long to poll before sleeping.
    pub spin: Spin,
    /// The maximum number of calls between two polls of the port; less if calls are long.
    pub burst_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { clock: Clock::real(), oversubscribed: false, spin: Spin::default(), burst_max: 64 }
    }
}

/// The result of a round.
#[derive(Debug)]
#[must_use]
pub enum Step {
    /// Something was done; there may be more work.
    Busy,
    /// There was no work, and there will be none before this time unless something arrives.
    Idle {
        /// The deadline of the next timer, on the PE's clock.
        until: Option<Duration>,
    },
    /// [`Scheduler::stop`](crate::Scheduler::stop) was called, with this code.
    Stopped(i32),
    /// The job cannot continue.
    Failed(TransportError),
}

/// Why a PE may be waiting forever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stalled {
    /// How long it has been idle.
    pub idle_for: Duration,
    /// Tasks that have not been woken.
    pub tasks_suspended: usize,
    /// Timers that will still fire: if there are any, this is no deadlock.
    pub timers: usize,
    /// Holds and queued closures of other threads: if there are any, this is no deadlock.
    pub holds: u64,
}

/// The state of a PE, for the detection of deadlocks. Take two such snapshots of all PEs, the second begun after the first has ended. If they are
/// equal, every PE is settled, and the sums of sent and processed are equal, then nothing more will happen in the job unless another thread wakes a
/// task. (For the reason see the text of `quiescence`: the two snapshots are its two waves.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// How long it has been idle; `None` while it has work.
    pub idle_for: Option<Duration>,
    /// Nothing is queued, no task is ready, no timer is pending, no hold exists, and no request for quiescence is open.
    pub settled: bool,
    /// What it has sent since the start, as quiescence counts it.
    pub sent: u64,
    /// What it has processed since the start, as quiescence counts it.
    pub processed: u64,
    /// Work items done since the start.
    pub turns: u64,
}
