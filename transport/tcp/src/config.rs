//! The configuration of a TCP fabric.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use charm4rs_transport_core::Layout;
use charm4rs_transport_core::auth::{JobId, Secret};

/// Which addresses to listen on. Never every interface.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Listen {
    /// Loopback when the job has one host, the routed interface otherwise.
    #[default]
    Auto,
    /// Loopback only.
    Loopback,
    /// The interface that leads to other hosts (IPv4, IPv6, or both).
    Routed,
    /// These addresses.
    On(Vec<IpAddr>),
}

/// How a silent process is detected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Liveness {
    /// The time between two heartbeats.
    pub every: Duration,
    /// How long a process may be silent before it is considered dead.
    pub silence: Duration,
}

impl Default for Liveness {
    fn default() -> Self {
        Self { every: Duration::from_secs(1), silence: Duration::from_secs(5) }
    }
}

/// The configuration of a [`TcpFabric`](super::TcpFabric): start with [`TcpConfig::new`], then set what differs.
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// The job's shape.
    pub layout: Arc<Layout>,
    /// This process.
    pub process: u32,
    /// Identifies the job, and keeps out stray processes of other jobs early. Not secret.
    pub job: JobId,
    /// The job's secret.
    pub secret: Secret,
    /// Digest of the program: processes with different ones refuse each other (exit code 76).
    pub digest: [u8; 32],
    /// Where to listen.
    pub listen: Listen,
    /// Names or addresses of other hosts: the interface that leads to them is the routed one.
    pub toward: Vec<String>,
    /// The port to listen on; ephemeral if not given.
    pub port: Option<u16>,
    /// Bytes in flight to one peer before posts are [`Busy`](charm4rs_transport_core::PostError::Busy).
    pub credit: usize,
    /// Largest message, put or get that is accepted from a peer, in bytes.
    pub message_max: u64,
    /// Whether every frame carries a CRC-32. All processes must agree.
    pub checksum: bool,
    /// Heartbeats; `None`: a silent process is not considered dead (`++no-liveness`, for debuggers).
    pub liveness: Option<Liveness>,
    /// How long it may take to replace a broken connection.
    pub reconnect: Duration,
    /// How long a handshake may take.
    pub handshake: Duration,
}

impl TcpConfig {
    /// The usual settings.
    #[must_use]
    pub fn new(layout: Arc<Layout>, process: u32, job: JobId, secret: Secret, digest: [u8; 32]) -> Self {
        Self {
            layout,
            process,
            job,
            secret,
            digest,
            listen: Listen::Auto,
            toward: Vec::new(),
            port: None,
            credit: 64 << 20,
            message_max: charm4rs_transport_core::MESSAGE_MAX,
            checksum: false,
            liveness: Some(Liveness::default()),
            reconnect: Duration::from_secs(5),
            handshake: Duration::from_secs(5),
        }
    }
}
