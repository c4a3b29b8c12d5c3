//! TCP: the backend that works everywhere.
//!
//! It knows nothing of what messages mean, nor of the launcher. Read [`frame`] for the format of frames, [`outbox`] for what is
//! kept until it has arrived, [`link`] and [`read`] for one pair of PEs, [`endpoint`] for one PE, [`helper`] for the rest of the process.
//!
//! # Connections
//! A pair of PEs that communicate has one connection, made when one of them first posts. The PE asks its process's helper thread, which dials, does the
//! handshake ([`charm4rs_transport_core::auth`]) and leaves the proven socket in the PE's mailbox. At the other end the helper accepts, and does the same.
//! Before the proof nothing but the handshake is decoded.
//!
//! *Which connection wins.* Both may dial at once, and a connection may break while another is being made. Every attempt has a
//! generation, one above any that its dialer knows of. Connections are ranked by generation, and within one by dialer: that of the lower
//! PE is higher. A link accepts a connection only if it ranks above its current one and above the one it is dialing
//! itself; otherwise it closes it. Since both ends rank alike, both keep the same one. The end of the losing connection tells its dialer,
//! which by then either has the winning one or dials again, one generation higher.
//!
//! # Exactly once, in order
//! Numbered frames are counted per pair and direction: the number is not sent. Each end keeps what it sent until the other has acknowledged it. Every header
//! carries an acknowledgement, and a separate one is sent after 256 KiB, after 64 KiB when there is nothing else to do, or when the sender asks. The first
//! frame on every connection, both ways, is `Resume` with the number of frames that arrived so far. If part of a large frame arrived after them, it also has
//! the size of that part: the head, and some bytes of the body, which stay in place meanwhile. An end sends nothing else before it has the peer's `Resume`;
//! then it continues with the first byte that did not arrive. (A small frame that arrived in part is sent again as a whole.) From then on nothing is read
//! from the old connection. So each frame is accepted exactly once whatever breaks, as long as both processes live, and the largest one arrives even if no
//! connection lives long enough for the whole of it.
//!
//! A broken connection is replaced within five seconds, or the peer is lost: [`Event::PeerLost`](charm4rs_transport_core::Event::PeerLost), and all
//! operations that wait for it fail. The peer is also lost if connections are made and break, each within a second, while something waits and nothing of it
//! gets through: neither a frame nor a byte of a large one's body, in either direction, for five seconds. A process that refuses connections five times in a
//! row, after it had accepted some, is considered gone sooner.
//!
//! # Puts and gets
//! A put names a window by number. Its body is read into the window's memory, within its bounds, and `PutDone` answers it. If the
//! window is gone or too short the body is discarded and the answer says so. A put into a persistent window is not answered: it is acknowledged
//! as a message is, and if it finds no window the contract is broken. A get is answered in pieces of a MiB, which are copied when there
//! is space in the outbox, so a window may be taken back at any time.
//!
//! # The end
//! A PE that closes sends `Bye`, the last numbered frame, and waits until everything is acknowledged. After `Bye` the end of a connection is
//! expected. If a PE was dropped without it, or is dialed after its end, its helper answers `Gone`. A helper that ends says goodbye
//! on its control connections ([`liveness`]).

mod address;
mod config;
mod dial;
mod endpoint;
mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod helper;
mod link;
mod liveness;
mod operations;
mod outbox;
mod pool;
mod read;
mod shared;

use std::sync::Arc;

pub use config::{Listen, Liveness, TcpConfig};
pub use shared::TcpCounters;

use self::endpoint::TcpBuilder;
use self::helper::Handle;
use self::shared::{Command, Shared};
use charm4rs_transport_core::{Caps, EndpointBuilder, Fabric, Pe, TransportError};

/// The process-wide half of the TCP backend: a listener, a helper thread, and the addresses of all processes.
#[derive(Debug)]
pub struct TcpFabric {
    caps: Caps,
    published: Vec<u8>,
    address: Option<std::net::IpAddr>,
    /// Shared with the endpoints: the helper ends when the last of them is dropped.
    handle: Arc<Handle>,
}

impl TcpFabric {
    /// Listens, and starts the helper thread.
    ///
    /// # Errors
    /// [`TransportError::Resource`] with the port if it is in use; [`TransportError::Config`] if there is no
    /// address to listen on.
    pub fn open(config: TcpConfig) -> Result<Self, TransportError> {
        raise_descriptor_limit();
        let largest = usize::try_from(config.message_max.min(frame::LENGTH_MAX)).unwrap_or(usize::MAX);
        let caps = Caps {
            name: "tcp",
            inject_max: link::SMALL_MAX.min(largest),
            send_max: largest,
            put_max: largest,
            ordered: true,
            handover: true,
            one_sided: false,
            wakes: true,
            latency_ns: 5_000,
            bandwidth_mb_s: 2_500,
        };
        let listeners = address::listeners(&config)?;
        let published = address::encode(listeners.iter().map(|(_, address)| *address));
        let address = listeners.first().map(|(_, address)| address.ip());
        let handle = helper::start(Arc::new(Shared::new(config)?), listeners)?;
        Ok(Self { caps, published, address, handle: Arc::new(handle) })
    }

    /// The address of this host at which others reach it.
    #[must_use]
    pub fn address(&self) -> Option<std::net::IpAddr> {
        self.address
    }

    /// The addresses at which this process listens, for [`TcpFabric::set_addresses`] of the others. Opaque, at most 64 bytes.
    #[must_use]
    pub fn publish(&self) -> Vec<u8> {
        self.published.clone()
    }

    /// Takes what each process published, by rank. Called once, before the first endpoint is built. Entries are decoded on first use.
    pub fn set_addresses(&self, addresses: Vec<Vec<u8>>) {
        if self.handle.shared.addresses.set(addresses).is_ok() {
            self.handle.shared.command(Command::Watch);
        }
    }

    /// Ends the helper as if the process were killed: without goodbye.
    #[cfg(any(test, feature = "faults"))]
    pub fn vanish(&self) {
        self.handle.shared.command(Command::Vanish);
    }

    /// Counts strangers and broken connections.
    #[must_use]
    pub fn counters(&self) -> &TcpCounters {
        &self.handle.shared.counters
    }
}

impl Fabric for TcpFabric {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn builder(&self, pe: Pe) -> Box<dyn EndpointBuilder> {
        Box::new(TcpBuilder { pe, caps: self.caps.clone(), handle: self.handle.clone() })
    }
}

/// Raises the soft limit to the hard limit, since every peer takes a descriptor.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // If it fails the limit stays as it is, and running out of descriptors is reported when it happens.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

#[cfg(test)]
mod tests;
