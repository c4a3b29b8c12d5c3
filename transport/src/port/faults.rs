//! Fault injection for tests: what happens to an outgoing message.

use std::fmt::Debug;

use super::Tag;
use charm4rs_transport_core::Pe;

/// What happens to a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Fate {
    /// It is sent.
    Pass,
    /// It is lost.
    Drop,
    /// It is sent only after this many polls of the sender. Later messages to the same PE come after it.
    Delay(u32),
    /// The receiver counts as dead: the sender's next poll fails with `PeerDown`.
    Kill,
}

/// Decides about every message of a port, including the port's own.
pub trait Faults: Send + Sync + Debug {
    /// What happens to a message of `len` bytes.
    fn fate(&self, from: Pe, to: Pe, tag: Tag, len: usize) -> Fate;
}
