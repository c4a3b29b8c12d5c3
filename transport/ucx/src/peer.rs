//! The state that an endpoint keeps of one peer. Knows nothing of UCX but the connection.

use super::worker::Connection;
use charm4rs_transport_core::in_order::InOrder;
use charm4rs_transport_core::parting::Parting;
use charm4rs_transport_core::{Imm, Pe};

/// The most operations to one peer that may be in flight.
const OPERATIONS_MAX: usize = 1024;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) pe: Pe,
    /// The first bytes of every message to it.
    pub(super) pass: u64,
    /// Once it has said goodbye, it does not need what is sent to it.
    pub(super) parting: Parting,
    /// Made when something is first sent to it.
    pub(super) connection: Option<Connection>,
    /// Numbers of the next message and the next put to it.
    pub(super) next_message: u32,
    pub(super) next_put: u32,
    /// Puts that are complete; those with an immediate must be announced.
    pub(super) puts: InOrder<Option<Imm>>,
    /// Sends and puts that are in flight to it, and their bytes.
    pub(super) operations: usize,
    pub(super) bytes: usize,
}

impl Peer {
    pub(super) fn new(pe: Pe, pass: u64) -> Self {
        Self {
            pe,
            pass,
            parting: Parting::default(),
            connection: None,
            next_message: 0,
            next_put: 0,
            puts: InOrder::default(),
            operations: 0,
            bytes: 0,
        }
    }

    /// Whether another operation may start, while at most `credit` bytes may be in flight.
    #[inline]
    pub(super) fn has_room(&self, credit: usize) -> bool {
        self.operations < OPERATIONS_MAX && self.bytes < credit
    }

    /// Whether an endpoint that closes need not wait for it.
    pub(super) fn is_done(&self) -> bool {
        self.parting.is_gone() || self.parting.is_confirmed()
    }
}
