//! The counters of a port. They are plain numbers of one thread, so they cost nothing to read.

/// The traffic in one direction, to or from peers of one [`Reach`](charm4rs_transport_core::Reach).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Flow {
    /// Messages, without the port's own.
    pub messages: u64,
    /// Their bytes, with payloads.
    pub bytes: u64,
}

impl Flow {
    #[inline]
    pub(super) fn add(&mut self, bytes: u64) {
        self.messages += 1;
        self.bytes += bytes;
    }
}

/// A port's counters.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct Counters {
    /// Sent, by reach: itself, process, host, network.
    pub sent: [Flow; 4],
    /// Received, by reach.
    pub received: [Flow; 4],
    /// Messages and payloads that were copied although their transport can do without.
    pub copies: u64,
    /// Sends that found no capacity and had to wait.
    pub waits: u64,
    /// Sends that could not wait and went to the backlog.
    pub backlogged: u64,
    /// Times the PE went to sleep.
    pub sleeps: u64,
}
