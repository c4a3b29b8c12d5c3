//! The configuration of a simulated network, and the faults to inject.

use std::ops::Range;

use charm4rs_transport_core::{Layout, Pe};

/// What the wire does to packets.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Mode {
    /// Packets arrive once and whole, in order from each sender unless `reorder` says otherwise.
    Reliable {
        /// The probability that a packet may overtake the ones before it.
        reorder: f64,
    },
    /// Datagrams may be lost, duplicated, reordered (their delays differ) or damaged; a protocol above restores order.
    Datagram {
        /// The probability that a datagram is lost.
        loss: f64,
        /// The probability that it arrives twice.
        duplicate: f64,
        /// The probability that some of its bits are changed, or its end is cut off.
        corrupt: f64,
    },
}

/// A fault of the network at a given time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The PE is gone, with everything that it had not yet put on the wire.
    Kill(Pe),
    /// The PE stands still (as by SIGSTOP).
    Pause(Pe),
    /// It continues.
    Resume(Pe),
    /// No packet passes between one set of PEs and the others.
    Cut(Vec<Pe>),
    /// All cuts are healed.
    Heal,
}

/// The description of a network. Networks with equal descriptions behave equally.
#[derive(Clone, Debug)]
pub struct Config {
    /// The shape of the job.
    pub layout: Layout,
    /// The seed of everything random.
    pub seed: u64,
    /// The behaviour of the wire.
    pub mode: Mode,
    /// The delay of a packet, in nanoseconds, besides that for its length.
    pub delay_ns: Range<u64>,
    /// The time for 1,024 bytes, in nanoseconds.
    pub kib_ns: u64,
    /// Packets from one PE to another that may be in flight, or wait there, before posts are refused.
    pub capacity: u32,
    /// The same in bytes.
    pub capacity_bytes: usize,
    /// The probability that a post is refused although there is capacity.
    pub busy: f64,
    /// See [`Caps::inject_max`](charm4rs_transport_core::Caps::inject_max).
    pub inject_max: usize,
    /// See [`Caps::send_max`](charm4rs_transport_core::Caps::send_max).
    pub send_max: usize,
    /// See [`Caps::put_max`](charm4rs_transport_core::Caps::put_max).
    pub put_max: usize,
    /// See [`Caps::handover`](charm4rs_transport_core::Caps::handover).
    pub handover: bool,
    /// Buffers in a PE's pool.
    pub pool: usize,
    /// Largest datagram, in bytes.
    pub datagram_max: usize,
    /// How long a PE must be unreachable to be considered lost, in nanoseconds.
    pub dead_after_ns: u64,
    /// The faults, each with its time in nanoseconds.
    pub faults: Vec<(u64, Fault)>,
}

impl Config {
    /// A fabric: no packet is lost, none overtakes another.
    #[must_use]
    pub fn reliable(layout: Layout, seed: u64) -> Self {
        Self {
            layout,
            seed,
            mode: Mode::Reliable { reorder: 0.0 },
            delay_ns: 1_000..20_000,
            kib_ns: 100,
            capacity: 64,
            capacity_bytes: 4 << 20,
            busy: 0.0,
            inject_max: 4_096,
            send_max: 1 << 40,
            put_max: 1 << 40,
            handover: false,
            pool: 256,
            datagram_max: 1_400,
            dead_after_ns: 5_000_000_000,
            faults: Vec::new(),
        }
    }

    /// A bad wire: 30 of 100 datagrams are lost, and some are duplicated or damaged.
    #[must_use]
    pub fn datagram(layout: Layout, seed: u64) -> Self {
        let mode = Mode::Datagram { loss: 0.3, duplicate: 0.05, corrupt: 0.02 };
        Self { mode, ..Self::reliable(layout, seed) }
    }

    /// Whether messages from one PE to another arrive in order.
    pub(super) fn ordered(&self) -> bool {
        match self.mode {
            Mode::Reliable { reorder } => reorder <= 0.0,
            Mode::Datagram { .. } => true,
        }
    }
}
