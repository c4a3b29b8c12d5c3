//! The operations of a PE that wait for a peer's answer.

use std::collections::HashMap;

use charm4rs_transport_core::memory::RegBuf;
use charm4rs_transport_core::{OpId, Pe};

/// An operation that waits for a peer's answer.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) op: OpId,
    pub(super) peer: Pe,
    /// The source of a put, once acknowledged; the destination of a get, unless it is being filled.
    pub(super) buf: Option<RegBuf>,
    /// Bytes of a get that arrived.
    pub(super) received: usize,
    pub(super) is_get: bool,
}

/// The pending operations of a PE, by a number that is never used twice.
#[derive(Debug, Default)]
pub(super) struct Operations {
    pending: HashMap<u64, Pending>,
    last: u64,
}

impl Operations {
    pub(super) fn add(&mut self, pending: Pending) -> u64 {
        self.last += 1;
        self.pending.insert(self.last, pending);
        self.last
    }

    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut Pending> {
        self.pending.get_mut(&key)
    }

    pub(super) fn remove(&mut self, key: u64) -> Option<Pending> {
        self.pending.remove(&key)
    }

    /// Removes all that wait for `peer`, in the order in which they were posted.
    pub(super) fn remove_all_of(&mut self, peer: Pe) -> Vec<Pending> {
        let mut of_peer: Vec<_> = self.pending.extract_if(|_, pending| pending.peer == peer).collect();
        of_peer.sort_unstable_by_key(|(key, _)| *key);
        of_peer.into_iter().map(|(_, pending)| pending).collect()
    }
}
