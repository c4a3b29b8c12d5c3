//! Faults on demand, for tests: what may happen to a message on its way out.

use std::fmt::Debug;

use super::Tag;
use charm4rs_transport_core::Pe;

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Fate {
    /// It is sent.
    Pass,
    /// It is lost.
    Drop,
    /// It is sent only after so many polls of the sender; what is sent to the same PE meanwhile comes after it.
    Delay(u32),
    /// The receiver counts as dead: the sender's next poll fails with `PeerDown`.
    Kill,
}

/// Decides about every message of a port, the port's own included.
pub trait Faults: Send + Sync + Debug {
    /// What becomes of a message of `len` bytes.
    fn fate(&self, from: Pe, to: Pe, tag: Tag, len: usize) -> Fate;
}
