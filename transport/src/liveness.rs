//! How a PE hears that a process is gone, where its network does not tell: endpoints of reliable datagrams say nothing when a
//! peer is killed, or stands still.
//!
//! Wire-up gives such a backend a [`Watch`], which another part of the engine keeps (a thread of its own, with heartbeats between
//! neighbours: each process watches the next one and is watched by the one before, so that nobody watches all). A loss is
//! thus noticed by one or two processes only; that is enough, for it ends the job.

use std::fmt::Debug;

use crate::{Doorbell, Pe, TransportError};

/// A process that is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loss {
    /// Which.
    pub process: u32,
    /// What was observed.
    pub why: &'static str,
}

/// Watches over processes.
pub trait Watch: Send + Sync + Debug {
    /// Where a PE of this process hears of losses; `doorbell` is rung when there is something to hear.
    fn ear(&self, pe: Pe, doorbell: &Doorbell) -> Box<dyn Ear>;
}

/// Where one PE hears of losses.
pub trait Ear: Send + Debug {
    /// Whether there is something to hear. One load.
    fn has_news(&self) -> bool;

    /// What was lost since the last call.
    ///
    /// # Errors
    /// If the job cannot go on for another reason.
    fn take(&self) -> Result<Vec<Loss>, TransportError>;
}

/// Rounds of an endpoint from one look at its ear to the next.
const ROUNDS_PER_LOOK: u32 = 64;

/// An endpoint's ear, if it has one. A round, of which there are millions in a second, need not look at it each time.
#[derive(Debug)]
pub(crate) struct Listener {
    ear: Option<Box<dyn Ear>>,
    rounds: u32,
}

impl Listener {
    pub(crate) fn new(ear: Option<Box<dyn Ear>>) -> Self {
        Self { ear, rounds: 0 }
    }

    /// In a round: whether there is something to hear, if this is one in which to look.
    #[inline]
    pub(crate) fn round(&mut self) -> bool {
        self.rounds = self.rounds.wrapping_add(1);
        self.rounds.is_multiple_of(ROUNDS_PER_LOOK) && self.has_news()
    }

    /// Whether there is something to hear.
    pub(crate) fn has_news(&self) -> bool {
        self.ear.as_ref().is_some_and(|ear| ear.has_news())
    }

    /// As [`Ear::take`].
    pub(crate) fn take(&self) -> Result<Vec<Loss>, TransportError> {
        self.ear.as_ref().map_or(Ok(Vec::new()), |ear| ear.take())
    }
}
