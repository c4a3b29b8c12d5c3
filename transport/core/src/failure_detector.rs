//! Failure detection for backends whose network does not report failures: an endpoint of reliable datagrams gets no error when a peer process is killed or
//! stopped.
//!
//! Wire-up gives such a backend a [`FailureDetector`], which another part of the engine implements: a helper thread exchanges heartbeats with the processes
//! to its left and right, so that every process is observed and no process observes all. Therefore only one or two processes notice a failure. That is
//! sufficient, because it ends the job.

use std::fmt::Debug;

use crate::{Doorbell, Pe, TransportError};

/// A process that has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loss {
    /// Its number.
    pub process: u32,
    /// What was observed.
    pub why: &'static str,
}

/// Detects failed processes.
pub trait FailureDetector: Send + Sync + Debug {
    /// Returns the failure events for a PE of this process. The detector rings `doorbell` when there is an event.
    fn subscribe(&self, pe: Pe, doorbell: &Doorbell) -> Box<dyn FailureEvents>;
}

/// The failure events of one PE.
pub trait FailureEvents: Send + Debug {
    /// Whether there are events. One load.
    fn has_events(&self) -> bool;

    /// Returns the processes that have failed since the last call.
    ///
    /// # Errors
    /// If the job cannot continue for another reason.
    fn take(&self) -> Result<Vec<Loss>, TransportError>;
}

/// An endpoint checks for events once in so many progress rounds.
const ROUNDS_PER_CHECK: u32 = 64;

/// The failure events of an endpoint, if it has a detector. There are millions of progress rounds a second; most of them do not check.
#[derive(Debug)]
pub struct FailurePoll {
    events: Option<Box<dyn FailureEvents>>,
    rounds: u32,
}

impl FailurePoll {
    /// Polls `events`; nothing, where there is no detector.
    #[must_use]
    pub fn new(events: Option<Box<dyn FailureEvents>>) -> Self {
        Self { events, rounds: 0 }
    }

    /// Counts a progress round. Returns whether this round checks and there are events.
    #[inline]
    pub fn round(&mut self) -> bool {
        self.rounds = self.rounds.wrapping_add(1);
        self.rounds.is_multiple_of(ROUNDS_PER_CHECK) && self.has_events()
    }

    /// Whether there are events.
    pub fn has_events(&self) -> bool {
        self.events.as_ref().is_some_and(|events| events.has_events())
    }

    /// See [`FailureEvents::take`].
    pub fn take(&self) -> Result<Vec<Loss>, TransportError> {
        self.events.as_ref().map_or(Ok(Vec::new()), |events| events.take())
    }
}
