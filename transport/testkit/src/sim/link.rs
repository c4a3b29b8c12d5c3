//! The network's state of the direction from one PE to another. Made at its first use.

use std::collections::BTreeMap;

use crate::reliable::{Connection, Settings};
use charm4rs_transport_core::{Event, OpId, Pe, RegBuf, TransportError};

use super::config::{Config, Mode};

/// A posted operation that has not ended yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) op: OpId,
    /// The buffer that goes back; that of a send may have changed owner.
    pub(super) buf: Option<RegBuf>,
}

/// The direction from one PE to another.
#[derive(Debug)]
pub(super) struct Link {
    /// Packets and bytes that hold credit: in flight, or not yet taken by the receiver.
    pub(super) packets: u32,
    pub(super) bytes: usize,
    /// A post was refused since credit last came back.
    pub(super) starved: bool,
    /// The arrival time of the last packet that may not be overtaken, and of the last put.
    pub(super) floor_ns: u64,
    pub(super) put_floor_ns: u64,
    pub(super) pending: BTreeMap<u64, Pending>,
    next_serial: u64,
    /// This end's state of the reliability protocol, over datagrams.
    pub(super) connection: Option<Connection>,
    /// When its timer is due, if it is in the queue.
    pub(super) timer_ns: Option<u64>,
    /// This PE has lost the other.
    pub(super) lost: bool,
}

impl Link {
    pub(super) fn new(config: &Config, from: Pe, to: Pe) -> Self {
        let connection = matches!(config.mode, Mode::Datagram { .. }).then(|| {
            let round_trip_ns = 2 * config.delay_ns.end;
            let settings = Settings {
                datagram_max: config.datagram_max,
                message_max: usize::MAX / 2,
                timeout_ns_min: round_trip_ns.max(1_000),
                timeout_ns_max: (config.dead_after_ns / 50).max(4 * round_trip_ns),
            };
            Connection::new(settings, from.0, to.0)
        });
        Self {
            packets: 0,
            bytes: 0,
            starved: false,
            floor_ns: 0,
            put_floor_ns: 0,
            pending: BTreeMap::new(),
            next_serial: 0,
            connection,
            timer_ns: None,
            lost: false,
        }
    }

    /// Records an operation, and returns its serial number.
    pub(super) fn pend(&mut self, op: OpId, buf: Option<RegBuf>) -> u64 {
        self.next_serial += 1;
        self.pending.insert(self.next_serial, Pending { op, buf });
        self.next_serial
    }

    /// Fails all pending operations.
    pub(super) fn fail(&mut self, pe: Pe, why: &'static str) -> Vec<Event> {
        std::mem::take(&mut self.pending)
            .into_values()
            .map(|Pending { op, buf }| Event::Failed { op, buf, error: Box::new(TransportError::PeerDown { pe, why }) })
            .collect()
    }
}
