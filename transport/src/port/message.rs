//! A message as the port gives it to its user, and its kind. Knows nothing of how it arrived.

use super::{Charge, tags};
use charm4rs_transport_core::memory::Payloads;
use charm4rs_transport_core::{Msg, Pe};

/// The kind of a message. [`super::tags`] has the ranges.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tag(pub u8);

impl Tag {
    /// Whether its messages are handled on arrival, and never queued. They need no credit, and may overtake messages that wait for credit.
    #[inline]
    #[must_use]
    pub const fn is_system(self) -> bool {
        self.0 >= tags::OBJECTS.end
    }

    /// The charge of a message without weight from another PE.
    #[inline]
    #[must_use]
    pub const fn charge(self) -> Charge {
        if self.is_system() { Charge::NONE } else { Charge::PLAIN }
    }
}

/// A message that arrived.
#[derive(Debug)]
pub struct Incoming {
    /// The sender.
    pub from: Pe,
    /// Its kind.
    pub tag: Tag,
    /// The charge against its sender's credit until it is taken: see [`Port::took`](super::Port::took).
    pub charge: Charge,
    /// Its bytes, 16-byte aligned.
    pub msg: Msg,
    /// The payloads that came with it out of band.
    pub payloads: Payloads,
}

impl Incoming {
    /// A message of a PE to itself, which needs no credit.
    #[inline]
    pub fn own(pe: Pe, tag: Tag, msg: Msg, payloads: Payloads) -> Self {
        Self { from: pe, tag, charge: Charge::NONE, msg, payloads }
    }

    /// Its cost in the sender's credit.
    #[inline]
    pub(super) fn cost(&self) -> u64 {
        let payloads = self.payloads.iter().fold(0, |sum, payload| sum + payload.len() as u64);
        self.charge.cost(self.msg.len() as u64 + payloads)
    }
}

// There are millions of messages, and they are moved often.
const _: () = assert!(size_of::<Incoming>() == 40);
