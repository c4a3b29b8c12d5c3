//! A message as the port gives it to its user, and its kind. Knows nothing of how it came.

use super::{Charge, tags};
use charm4rs_transport_core::memory::Payloads;
use charm4rs_transport_core::{Msg, Pe};

/// The kind of a message. [`tags`](super::tags) has the ranges.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tag(pub u8);

impl Tag {
    /// Whether its messages are handled as they arrive, and never queued. They need no credit, and may overtake messages that wait for some.
    #[inline]
    #[must_use]
    pub const fn is_system(self) -> bool {
        self.0 >= tags::OBJECTS.end
    }

    /// How a message of another PE's counts that has no weight.
    #[inline]
    #[must_use]
    pub const fn charge(self) -> Charge {
        if self.is_system() { Charge::NONE } else { Charge::PLAIN }
    }
}

/// A message that arrived.
#[derive(Debug)]
pub struct Incoming {
    /// Who sent it.
    pub from: Pe,
    /// Its kind.
    pub tag: Tag,
    /// How it counts against its sender's credit until it is taken: see [`Port::took`](super::Port::took).
    pub charge: Charge,
    /// Its bytes, 16-byte aligned.
    pub msg: Msg,
    /// What came with it out of band.
    pub payloads: Payloads,
}

impl Incoming {
    /// A message of a PE to itself, which counts against nobody's credit.
    #[inline]
    pub fn own(pe: Pe, tag: Tag, msg: Msg, payloads: Payloads) -> Self {
        Self { from: pe, tag, charge: Charge::NONE, msg, payloads }
    }

    /// What it costs its sender's credit.
    #[inline]
    pub(super) fn cost(&self) -> u64 {
        let payloads = self.payloads.iter().fold(0, |sum, payload| sum + payload.len() as u64);
        self.charge.cost(self.msg.len() as u64 + payloads)
    }
}

// Messages come by the million, and are moved from hand to hand.
const _: () = assert!(size_of::<Incoming>() == 40);
