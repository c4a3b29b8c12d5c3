//! What an endpoint knows of one peer. Knows no UCX but its connection.

use super::sequence::Sequence;
use super::worker::Connection;
use charm4rs_transport_core::{Imm, Pe};

/// Operations to one peer that may be on their way at a time.
const OPERATIONS_MAX: usize = 1024;

/// Whether a peer can be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Live,
    /// It said goodbye: what is sent to it is of no interest any more.
    Closed,
    Lost,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) pe: Pe,
    /// What stands before every message to it.
    pub(super) pass: u64,
    pub(super) state: State,
    /// Made when something is first sent to it.
    pub(super) connection: Option<Connection>,
    /// Numbers of the next message and the next put to it.
    pub(super) next_message: u32,
    pub(super) next_put: u32,
    /// Puts that are done; those with an immediate are to be announced.
    pub(super) puts: Sequence<Option<Imm>>,
    /// Sends and puts that are on their way to it, and their bytes.
    pub(super) operations: usize,
    pub(super) bytes: usize,
    pub(super) bye_said: bool,
    /// It has seen this PE's goodbye, and all that came before it.
    pub(super) bye_seen: bool,
}

impl Peer {
    pub(super) fn new(pe: Pe, pass: u64) -> Self {
        Self {
            pe,
            pass,
            state: State::Live,
            connection: None,
            next_message: 0,
            next_put: 0,
            puts: Sequence::default(),
            operations: 0,
            bytes: 0,
            bye_said: false,
            bye_seen: false,
        }
    }

    /// Whether another operation may begin, while at most `credit` bytes may be on their way.
    #[inline]
    pub(super) fn has_room(&self, credit: usize) -> bool {
        self.operations < OPERATIONS_MAX && self.bytes < credit
    }

    /// Whether an endpoint that closes need not wait for it.
    pub(super) fn is_done(&self) -> bool {
        self.state != State::Live || self.bye_seen
    }
}
