//! What a scheduler is given and what it gives back: the layer above it, its configuration, and its reports.

use std::time::Duration;

use charm4rs_transport::port::{Incoming, Offer, Tag};
use charm4rs_transport::{Pe, RegBuf, TransportError};

use crate::idle::Spin;
use crate::{Class, Clock};

/// What messages mean: the layer above.
pub trait Handler {
    /// How urgent a call is that arrived. Only looks at it: the PE is in the middle of taking what arrived.
    fn class(&self, msg: &Incoming) -> Class;

    /// Runs the call that a message is, or handles a system message ([`Tag::is_system`]), which comes straight from the poll.
    fn deliver(&self, msg: Incoming);

    /// Where an offer's payloads shall land, in order; `None`: in pooled memory.
    fn offer(&self, offer: &Offer) -> Vec<Option<RegBuf>>;

    /// A message of this PE could not be delivered: there is no memory for its `bytes`. `head`: its first ones, at most 256; none, if
    /// even they are lost.
    fn refused(&self, to: Pe, tag: Tag, head: &[u8], bytes: u64) {
        let _ = (to, tag, head, bytes);
    }

    /// The PE has run out of work. Called once, until it has had work again.
    fn idle(&self) {}

    /// The PE's thread is about to sleep, and does when `sleep` is called, once. For who must let go of something
    /// meanwhile, an interpreter's lock for example.
    fn sleep(&self, sleep: &mut dyn FnMut()) {
        sleep();
    }
}

/// How a PE is to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its clock.
    pub clock: Clock,
    /// Whether the host has more PEs than cores that they may use.
    pub oversubscribed: bool,
    /// How long to poll before sleeping.
    pub spin: Spin,
    /// The most calls between two polls of the port; fewer where calls are long.
    pub burst_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { clock: Clock::real(), oversubscribed: false, spin: Spin::default(), burst_max: 64 }
    }
}

/// What a round came to.
#[derive(Debug)]
#[must_use]
pub enum Step {
    /// Something was done; there may be more.
    Busy,
    /// There was nothing to do, and will not be before this time, unless something arrives.
    Idle {
        /// The deadline of the next timer, on the PE's clock.
        until: Option<Duration>,
    },
    /// [`Scheduler::stop`](crate::Scheduler::stop) was called, with this code.
    Stopped(i32),
    /// The job cannot go on.
    Failed(TransportError),
}

/// Why a PE may be waiting for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stalled {
    /// For how long it has had nothing to do.
    pub idle_for: Duration,
    /// Tasks that nobody has woken.
    pub tasks_suspended: usize,
    /// Timers that will still fire: if there are any, this is no deadlock.
    pub timers: usize,
    /// Holds that other threads have, and closures that they queued: as with timers.
    pub holds: u64,
}

/// Where a PE stands, for a search for deadlocks: two such looks at all PEs, the second begun after the first has ended, that are
/// alike, and in which all are settled and as much was sent as processed, show a job in which nothing will ever happen again unless
/// another thread wakes a task. (Why: see the text of `quiescence`, whose waves these two looks are.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// For how long it has had nothing to do; `None` while it has work.
    pub idle_for: Option<Duration>,
    /// Nothing is queued, no task is ready, no timer will fire, no hold is held, and no request for quiescence is open.
    pub settled: bool,
    /// What it has ever sent, as quiescence counts it.
    pub sent: u64,
    /// What it has ever processed, as quiescence counts it.
    pub processed: u64,
    /// Things that it has ever done.
    pub turns: u64,
}
