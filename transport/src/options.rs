//! The user's options for the transport.

use std::sync::Arc;

use charm4rs_bootstrap::options::Options;
use charm4rs_transport_core::seam::MESSAGE_MAX;
use charm4rs_transport_core::{Notices, TransportKind};

use crate::port::Faults;

/// The user's options.
#[derive(Clone, Debug)]
pub struct TransportOptions {
    /// The only backend to use between PEs of different processes (`++transport`).
    pub force: Option<TransportKind>,
    /// Bytes that may be in flight to one peer before the sender waits (`++credit`).
    pub credit: u64,
    /// Bytes of the longest message, with all its payloads, that may pass between processes (`++message-max`).
    pub message_max: u64,
    /// Bytes of a PE's inbox, a power of two.
    pub ring: usize,
    /// Whether a send may wait for capacity. If one thread drives many PEs it may not: it then uses a backlog.
    pub may_block: bool,
    /// Digest of the program's entry methods: processes with different ones refuse each other.
    pub digest: [u8; 32],
    /// Whether frames on the network carry a checksum (`++checksum`).
    pub checksum: bool,
    /// Whether a silent process counts as dead (`++no-liveness`: it does not).
    pub liveness: bool,
    /// The port to listen on, for backends that listen; ephemeral if not given.
    pub port: Option<u16>,
    /// Tells the user about events that do not end the job.
    pub notices: Notices,
    /// Faults on demand, for tests.
    pub faults: Option<Arc<dyn Faults>>,
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            force: None,
            credit: 64 << 20,
            message_max: MESSAGE_MAX,
            ring: 256 << 10,
            may_block: true,
            digest: [0; 32],
            checksum: false,
            liveness: true,
            port: None,
            notices: Notices::default(),
            faults: None,
        }
    }
}

impl TransportOptions {
    /// Bytes of the longest frame: a message, and what the port adds to it.
    pub(crate) fn frame_max(&self) -> u64 {
        self.message_max.saturating_add(FRAMING_MAX)
    }
}

/// The most bytes that the port adds to a message.
const FRAMING_MAX: u64 = 1 << 20;

impl From<&Options> for TransportOptions {
    fn from(options: &Options) -> Self {
        let usual = Self::default();
        Self {
            force: options.transport,
            credit: options.credit.unwrap_or(usual.credit),
            message_max: options.message_max.unwrap_or(usual.message_max),
            checksum: options.checksum,
            liveness: !options.no_liveness,
            ..usual
        }
    }
}
