//! How the PEs of a job come to know each other: from a bootstrap to one [`PortBuilder`] for each PE of this process.
//!
//! Knows nothing of what launched the process, nor of what the PEs will do.

mod select;
pub mod survey;
#[cfg(test)]
mod trial;
mod ucx;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use self::select::Selection;
use crate::bootstrap::Bootstrap;
use crate::bootstrap::options::Options;
use crate::local::LocalFabric;
use crate::port::{Fabrics, Faults, PortBuilder};
use crate::shm::ShmFabric;
use crate::tcp::TcpConfig;
use crate::{Fabric, Layout, Pe, TransportError};

/// Names a backend, as in `++transport NAME`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum TransportKind {
    /// Threads of one process.
    Local,
    /// Shared memory between processes of a host.
    Shm,
    /// TCP, everywhere.
    Tcp,
    /// libfabric.
    Ofi,
    /// UCX.
    Ucx,
    /// The simulated network.
    Sim,
}

impl std::fmt::Display for TransportKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Shm => "shm",
            Self::Tcp => "tcp",
            Self::Ofi => "ofi",
            Self::Ucx => "ucx",
            Self::Sim => "sim",
        })
    }
}

impl std::str::FromStr for TransportKind {
    type Err = TransportError;

    fn from_str(name: &str) -> Result<Self, TransportError> {
        Ok(match name {
            "local" => Self::Local,
            "shm" => Self::Shm,
            "tcp" => Self::Tcp,
            "ofi" => Self::Ofi,
            "ucx" => Self::Ucx,
            "sim" => Self::Sim,
            _ => {
                return Err(TransportError::Config(format!(
                    "no transport is called {name:?}; there are local, shm, tcp, ofi, ucx and sim"
                )));
            }
        })
    }
}

/// Tells the user something, from any thread. By default only who listens to `tracing` hears it.
#[derive(Clone)]
pub struct Notices(Arc<Told<dyn Fn(String) + Send + Sync>>);

struct Told<F: ?Sized> {
    once: Mutex<BTreeSet<&'static str>>,
    tell: F,
}

impl Notices {
    /// Whoever calls [`Notices::tell`] calls `tell`.
    pub fn new(tell: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Told { once: Mutex::default(), tell }))
    }

    /// Tells it.
    pub fn tell(&self, text: String) {
        (self.0.tell)(text);
    }

    /// Tells what need not be told again.
    pub fn tell_once(&self, text: &'static str) {
        let new = self.0.once.lock().unwrap_or_else(PoisonError::into_inner).insert(text);
        if new {
            self.tell(text.to_owned());
        }
    }
}

impl Default for Notices {
    fn default() -> Self {
        Self::new(|text| tracing::warn!("{text}"))
    }
}

impl std::fmt::Debug for Notices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Notices")
    }
}

/// Where `++message-max` does not say otherwise.
pub(crate) const MESSAGE_MAX: u64 = 16 << 30;

/// What the user may choose.
#[derive(Clone, Debug)]
pub struct TransportOptions {
    /// The only backend to use between PEs of different processes (`++transport`).
    pub force: Option<TransportKind>,
    /// Bytes that may be on their way to one peer before the sender waits (`++credit`).
    pub credit: u64,
    /// Bytes of the longest message, with all its payloads, that may pass between processes (`++message-max`).
    pub message_max: u64,
    /// Bytes of a PE's inbox, a power of two.
    pub ring: usize,
    /// Whether a send may wait for room. Where one thread drives many PEs it may not: it keeps a backlog instead.
    pub may_block: bool,
    /// Digest of the program's entry methods: processes with different ones refuse each other.
    pub digest: [u8; 32],
    /// Whether frames on the network carry a checksum (`++checksum`).
    pub checksum: bool,
    /// Whether a silent process counts as dead (`++no-liveness`: it does not).
    pub liveness: bool,
    /// The port to listen on, where a backend listens; ephemeral if not given.
    pub port: Option<u16>,
    /// Where the user is told what does not end the job.
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
    /// Bytes of the longest frame: a message, and what the port puts around it.
    pub(crate) fn frame_max(&self) -> u64 {
        self.message_max.saturating_add(FRAMING_MAX)
    }
}

/// What the port puts around a message has at most so many bytes.
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

/// Changes with every change of what processes say to each other.
const PROTOCOL: u32 = 3;

/// A job of one process, whose PEs are threads. One builder for each PE, in order. Where `shm` is forced they meet
/// in shared memory, as processes would.
///
/// # Errors
/// If the system is out of something.
pub fn local(layout: Layout, options: &TransportOptions) -> Result<Vec<PortBuilder>, TransportError> {
    let mut fabrics = Fabrics::default();
    match options.force {
        Some(TransportKind::Shm) => fabrics.shm = Some(ShmFabric::alone(layout.pes(), options.ring)?),
        _ => fabrics.local = Some(LocalFabric::new(0..layout.pes(), options.ring)?),
    }
    builders(&Arc::new(layout), 0, &fabrics, options)
}

/// A job of processes that `boot` knows: picks the backends, and exchanges what they need. All processes call it once.
///
/// # Errors
/// If the system is out of something, a backend that was asked for cannot do it, or the processes do not fit together.
pub fn open(boot: &mut dyn Bootstrap, options: &TransportOptions) -> Result<Vec<PortBuilder>, TransportError> {
    let layout = Arc::new(boot.layout().clone());
    let rank = boot.rank();
    if layout.processes() == 1
        && !matches!(options.force, Some(TransportKind::Tcp | TransportKind::Ofi | TransportKind::Ucx))
    {
        return local(boot.layout().clone(), options);
    }
    let several_here = layout.processes_of(layout.host_of(rank)).len() > 1;
    let (shm, network) = match options.force {
        None => (several_here, layout.hosts() > 1),
        Some(TransportKind::Tcp | TransportKind::Ofi | TransportKind::Ucx) => (false, true),
        Some(TransportKind::Shm) if layout.hosts() == 1 => (true, false),
        Some(kind) => {
            let (processes, hosts) = (layout.processes(), layout.hosts());
            let problem = format!("transport {kind} cannot join {processes} processes on {hosts} hosts; tcp can");
            return Err(TransportError::Config(problem));
        }
    };
    let selection = if network { Some(Selection::open(boot, &layout, options)?) } else { None };
    let address = selection.as_ref().map_or_else(Vec::new, Selection::publish);
    let theirs = introduce(boot, &options.digest, &address)?;
    let net = selection.map(|selection| selection.join(&theirs, options)).transpose()?;
    let fabrics = Fabrics {
        local: if layout.pes_of(rank).len() > 1 {
            Some(LocalFabric::new(layout.pes_of(rank), options.ring)?)
        } else {
            None
        },
        shm: if shm { Some(ShmFabric::open(boot, options.ring)?) } else { None },
        net,
    };
    builders(&layout, rank, &fabrics, options)
}

/// A job whose PEs reach each other through `fabric` only, near or not: for simulated networks. One builder for each PE of
/// `process`.
///
/// # Errors
/// If the system is out of something.
pub fn over(
    fabric: Arc<dyn Fabric>,
    layout: &Arc<Layout>,
    process: u32,
    options: &TransportOptions,
) -> Result<Vec<PortBuilder>, TransportError> {
    builders(layout, process, &Fabrics { net: Some(fabric), ..Fabrics::default() }, options)
}

fn tcp_config(boot: &dyn Bootstrap, layout: &Arc<Layout>, options: &TransportOptions) -> TcpConfig {
    let mut config = TcpConfig::new(layout.clone(), boot.rank(), boot.job_id(), boot.secret().clone(), options.digest);
    config.toward = boot.toward().to_vec();
    config.checksum = options.checksum;
    config.credit = usize::try_from(options.credit).unwrap_or(usize::MAX);
    config.message_max = options.frame_max();
    config.port = options.port;
    if !options.liveness {
        config.liveness = None;
    }
    config
}

/// Tells all processes what this one is, and makes sure that they are of the same kind. Their addresses, by rank.
fn introduce(boot: &mut dyn Bootstrap, digest: &[u8; 32], address: &[u8]) -> Result<Vec<Vec<u8>>, TransportError> {
    let own: Vec<u8> = [&PROTOCOL.to_le_bytes()[..], digest, address].concat();
    boot.put("transport", &own)?;
    boot.fence()?;
    let mut addresses = Vec::new();
    for (rank, theirs) in (0u32..).zip(boot.get_all("transport")?) {
        let Some((protocol, rest)) = theirs.split_first_chunk().map(|(p, rest)| (u32::from_le_bytes(*p), rest)) else {
            return Err(TransportError::Startup(format!("process {rank} says nothing of its version")));
        };
        if protocol != PROTOCOL {
            let (ours, theirs) = (PROTOCOL.to_string(), format!("{protocol} (process {rank})"));
            return Err(TransportError::Version { what: "the version of the transport", ours, theirs });
        }
        match rest.split_first_chunk::<32>() {
            Some((theirs, address)) if theirs == digest => addresses.push(address.to_vec()),
            _ => {
                let (ours, theirs) = (hex(digest), format!("{} (process {rank})", hex(&rest[..rest.len().min(32)])));
                return Err(TransportError::Version { what: "the set of entry methods", ours, theirs });
            }
        }
    }
    Ok(addresses)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One builder for each PE of `process`.
fn builders(
    layout: &Arc<Layout>,
    process: u32,
    fabrics: &Fabrics,
    options: &TransportOptions,
) -> Result<Vec<PortBuilder>, TransportError> {
    layout.pes_of(process).map(|pe| PortBuilder::new(Pe(pe), layout, fabrics, options)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::RegBuf;
    use crate::port::{PortEvent, Tag};

    #[test]
    fn a_message_and_its_payload_reach_another_thread_and_come_back() {
        let mut builders = local(Layout::one_host(2, 2), &TransportOptions::default()).unwrap();
        let other = builders.pop().unwrap();
        let echo = std::thread::spawn(move || {
            let mut port = other.open().unwrap();
            let mut events = VecDeque::new();
            while port.poll(&mut events, 16).unwrap() == 0 {
                port.park(None).unwrap();
            }
            let Some(PortEvent::Message(m)) = events.pop_front() else { panic!("a message") };
            port.send_payloads(
                m.from,
                m.tag,
                m.msg.len(),
                |to| to.iter_mut().zip(m.msg.iter()).for_each(|(a, b)| _ = a.write(*b)),
                m.payloads.into_vec(),
                false,
            );
            port.close().unwrap();
        });
        let mut port = builders.pop().unwrap().open().unwrap();
        port.send_payloads(
            Pe(1),
            Tag(7),
            3,
            |to| to.iter_mut().for_each(|b| _ = b.write(9)),
            vec![RegBuf::copy_of(b"payload")],
            false,
        );
        let mut events = VecDeque::new();
        while port.poll(&mut events, 16).unwrap() == 0 {
            port.park(None).unwrap();
        }
        let Some(PortEvent::Message(m)) = events.pop_front() else { panic!("a message") };
        assert_eq!((m.from, m.tag, &*m.msg, &*m.payloads[0]), (Pe(1), Tag(7), &[9u8; 3][..], &b"payload"[..]));
        echo.join().unwrap();
    }
}
