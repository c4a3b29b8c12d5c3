//! What a simulated network is like, and what shall happen to it.

use std::ops::Range;

use charm4rs_transport_core::{Layout, Pe};

/// What the wire does to what is sent.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Mode {
    /// Packets arrive once and whole, in order from each sender unless `reorder` says otherwise.
    Reliable {
        /// How likely a packet is not kept behind the ones before it.
        reorder: f64,
    },
    /// Datagrams may be lost, doubled, reordered (their delays differ) or damaged; a protocol above restores order.
    Datagram {
        /// How likely a datagram is lost.
        loss: f64,
        /// How likely it arrives twice.
        duplicate: f64,
        /// How likely some of its bits are changed, or its end is cut off.
        corrupt: f64,
    },
}

/// Something that happens to the network at a time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The PE is gone, with all it had not yet put on the wire.
    Kill(Pe),
    /// The PE stands still (as by SIGSTOP).
    Pause(Pe),
    /// It goes on.
    Resume(Pe),
    /// Nothing passes between one set of PEs and the others.
    Cut(Vec<Pe>),
    /// All cuts are mended.
    Heal,
}

/// A network's description. Equal descriptions behave equally.
#[derive(Clone, Debug)]
pub struct Config {
    /// The shape of the job.
    pub layout: Layout,
    /// What all that looks random is made from.
    pub seed: u64,
    /// What the wire does.
    pub mode: Mode,
    /// How long a packet travels, in nanoseconds, besides its length.
    pub delay_ns: Range<u64>,
    /// How long 1,024 bytes take, in nanoseconds.
    pub kib_ns: u64,
    /// Packets that may be on their way from one PE to another, or wait there, before posts are refused.
    pub capacity: u32,
    /// Bytes, as well.
    pub capacity_bytes: usize,
    /// How likely a post is refused though there is room.
    pub busy: f64,
    /// See [`Caps::inject_max`](charm4rs_transport_core::Caps::inject_max).
    pub inject_max: usize,
    /// See [`Caps::send_max`](charm4rs_transport_core::Caps::send_max).
    pub send_max: usize,
    /// See [`Caps::put_max`](charm4rs_transport_core::Caps::put_max).
    pub put_max: usize,
    /// See [`Caps::handover`](charm4rs_transport_core::Caps::handover).
    pub handover: bool,
    /// Buffers that a PE's pool has.
    pub pool: usize,
    /// Largest datagram, in bytes.
    pub datagram_max: usize,
    /// How long a PE must be unreachable to be taken for lost, in nanoseconds.
    pub dead_after_ns: u64,
    /// What happens when, in nanoseconds.
    pub faults: Vec<(u64, Fault)>,
}

impl Config {
    /// A fabric: nothing is lost, nothing overtakes.
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

    /// A bad wire: 30 of 100 datagrams are lost, some doubled and damaged.
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
