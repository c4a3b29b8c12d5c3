//! The operations of endpoints that are not complete: what each one does, until its event.
//!
//! The port numbers its operations: a number is a place in a table. The place is taken when an endpoint answers `Pending`, and is free again when the one
//! event with that number arrives. An operation that is done at once takes no place.

use charm4rs_transport_core::{Imm, OpId};

/// Bytes of payloads in flight over the network above which a sender of more of them makes progress first.
const MUCH: u64 = 1 << 20;

/// What an operation does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Operation {
    /// The immediate of the message that it sends. `None`: it puts.
    pub(super) message: Option<Imm>,
    /// Bytes that it moves over the network.
    pub(super) network_bytes: u64,
}

/// See the module's text.
#[derive(Default, Debug)]
pub(super) struct Operations {
    /// `None`: the place is free.
    places: Vec<Option<Operation>>,
    free: Vec<usize>,
    /// Bytes in flight over the network, and bytes that wait for a CTS.
    network_bytes: u64,
    /// The network did not move when a sender last made progress for it.
    stuck: bool,
}

impl Operations {
    /// The number that the next operation has, if it does not complete at once.
    pub(super) fn next(&self) -> OpId {
        OpId(self.free.last().copied().unwrap_or(self.places.len()) as u64)
    }

    /// The operation that was posted with the number [`Operations::next`] is pending.
    pub(super) fn begin(&mut self, operation: Operation) {
        self.network_bytes += operation.network_bytes;
        match self.free.pop() {
            Some(place) => self.places[place] = Some(operation),
            None => self.places.push(Some(operation)),
        }
    }

    /// The event of an operation has arrived. `None`: no operation of that number is pending.
    pub(super) fn end(&mut self, op: OpId) -> Option<Operation> {
        let place = usize::try_from(op.0).ok()?;
        let operation = self.places.get_mut(place)?.take()?;
        self.free.push(place);
        self.unreserve(operation.network_bytes);
        Some(operation)
    }

    /// Counts bytes that will be in flight when their receiver allows it.
    pub(super) fn reserve(&mut self, bytes: u64) {
        self.network_bytes += bytes;
    }

    /// Ends a reservation.
    pub(super) fn unreserve(&mut self, bytes: u64) {
        self.network_bytes = self.network_bytes.saturating_sub(bytes);
        self.stuck = false;
    }

    /// Whether much is in flight.
    pub(super) fn has_much(&self) -> bool {
        self.network_bytes > MUCH
    }

    /// Notes that the network does not move until an operation completes. Returns whether that was known.
    pub(super) fn set_stuck(&mut self) -> bool {
        std::mem::replace(&mut self.stuck, true)
    }

    /// Bytes in flight or reserved, and operations that are pending.
    #[cfg(test)]
    pub(super) fn left(&self) -> (u64, usize) {
        (self.network_bytes, self.places.iter().flatten().count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUT: Operation = Operation { message: None, network_bytes: 700_000 };
    const SEND: Operation = Operation { message: Some(Imm(7)), network_bytes: 0 };

    #[test]
    fn a_number_stands_for_one_operation_until_its_event() {
        let mut operations = Operations::default();
        let [put, send] = [PUT, SEND].map(|operation| {
            let op = operations.next();
            assert_eq!(op, operations.next(), "an operation that is done at once takes no place");
            operations.begin(operation);
            op
        });
        assert_ne!(put, send);
        assert_eq!(operations.end(put), Some(PUT));
        assert_eq!(operations.end(put), None, "each has one event");
        assert_eq!(operations.next(), put, "its number is free again");
        assert_eq!(operations.end(send), Some(SEND));
        assert_eq!(operations.end(OpId(u64::MAX)), None);
        assert_eq!(operations.left(), (0, 0));
    }

    #[test]
    fn bytes_in_flight_and_bytes_that_wait_for_a_cts_count_together() {
        let mut operations = Operations::default();
        operations.reserve(700_000);
        assert!(!operations.has_much());
        let op = operations.next();
        operations.begin(PUT);
        assert!(operations.has_much() && !operations.set_stuck() && operations.set_stuck());
        operations.end(op);
        assert!(!operations.has_much() && !operations.set_stuck());
        operations.unreserve(700_000);
        assert_eq!(operations.left(), (0, 0));
    }
}
