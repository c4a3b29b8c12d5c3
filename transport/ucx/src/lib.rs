//! UCX: InfiniBand, RoCE, and all other networks that UCX supports, found at run time.
//!
//! It knows nothing of what messages mean, nor of the launcher. Read [`head`] for the format of messages, [`worker`] for the use
//! of UCX, [`endpoint`] for one PE, [`library`] for how UCX is found.
//!
//! # Connections
//! Each PE has a UCP worker. Its address goes to all processes through the bootstrap, with a *pass*: a random number at the
//! start of every message to that PE. UCX does not authenticate connections, so a message without the pass is discarded, and
//! counted. A PE connects to a peer when it first sends to it.
//!
//! # Messages
//! All are sent as active messages with a head of ours. Short ones carry their bytes (*eager*), and are copied out of UCX's memory as they
//! arrive. The bytes of longer ones *wait at their sender*: the receiver gets the head, finds memory for the bytes, and UCX fetches them
//! directly into that memory, by the best means between the two: a read by the network card, a copy by the kernel, or
//! pieces over a socket. They are not copied otherwise. A receiver that has no memory says so, and fetches nothing. Between the two lengths
//! ([`UcxConfig::either_min`], [`UcxConfig::collected_min`]) UCX chooses what it estimates to be faster: over sockets a copy costs less than the
//! round trips that avoid it.
//!
//! UCX keeps no order between the two kinds, so messages are numbered for each pair of PEs, and delivered by their numbers.
//!
//! # Puts and gets
//! A put is such a message, too. Its head names a window by number (`memory::exposed`). Instead of delivering it, the target checks that
//! the window is open and contains the range, and then the bytes are fetched directly into it. So a put to a window that was
//! taken back, or outside of one, fails and touches nothing, and no peer ever holds a key to this PE's memory.
//!
//! Why not `ucp_put_nbx`, which UCX has for this? It writes to any address that it is given. For a network card to refuse, each window
//! needs a key, and a refusal breaks the whole connection; over sockets UCX writes to any address unchecked. So each put would have to ask
//! first, and since UCX orders puts and messages only by a flush, it would take five trips instead of three: ask, answer, put,
//! flush, notice; against offer, read, bytes. (And over sockets its puts are several times slower than its active messages.)
//!
//! Each put is answered, so its sender learns whether it was refused. Puts to a persistent window are not answered, and none is refused. Puts are numbered as
//! messages are, in a sequence of their own: one is announced when all earlier ones of its sender have arrived. A get asks for a message that goes into its
//! waiting buffer. Its bytes are copied out of the window at the request, so that a window may be taken back at any time.
//!
//! # Back-pressure
//! UCX accepts everything that it is given. So there is a limit for what may be in flight to one peer, in bytes and in operations.
//!
//! # The end, and death
//! A PE that closes says goodbye to all peers that it has communicated with, as the last message of each sequence, and waits for an answer. Afterwards a
//! connection may break without an error. Connections between hosts are watched (UCX's error handling for peers), so a peer whose process died is reported if
//! UCX notices. Connections within a host are not, since UCX would not use shared memory then. None of this detects silence: the failure detector of the job
//! does ([`FailureDetector`]).

mod context;
mod endpoint;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod head;
mod inbox;
mod library;
mod operations;
mod peer;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use charm4rs_ucx_sys::{UCS_ERR_EXCEEDS_LIMIT, UCS_ERR_NO_MEMORY, ucs_status_t};

pub use library::FoundLibrary;

use self::context::{Context, Failure};
use self::endpoint::UcxBuilder;
use self::worker::Closed;
use charm4rs_transport_core::Notices;
use charm4rs_transport_core::error::require_memory;
use charm4rs_transport_core::failure_detector::FailureDetector;
use charm4rs_transport_core::{Caps, EndpointBuilder, Fabric, Layout, Pe, TransportError};

/// The configuration of a [`UcxFabric`]: start with [`UcxConfig::new`], then set what differs.
#[derive(Clone, Debug)]
pub struct UcxConfig {
    /// The job's shape.
    pub layout: Arc<Layout>,
    /// This process.
    pub process: u32,
    /// Bytes in flight to one peer before posts are [`Busy`](charm4rs_transport_core::PostError::Busy).
    pub credit: usize,
    /// Largest message or put that is accepted from a peer, in bytes.
    pub message_max: u64,
    /// Below this length bytes are sent at once, and copied out of UCX's memory as they arrive.
    pub either_min: usize,
    /// From this length on they wait at their sender until they are fetched. In between UCX decides, by its estimates.
    pub collected_min: usize,
    /// Whether connections within a host are watched, too, which rules out shared memory.
    pub watch_near: bool,
    /// Detects processes that are gone if UCX does not.
    pub detector: Option<Arc<dyn FailureDetector>>,
    /// Tells the user what UCX logs.
    pub notices: Notices,
    /// Settings of UCX, without their prefix. They override those of the environment.
    pub settings: Vec<(&'static str, String)>,
}

impl UcxConfig {
    /// The usual settings.
    #[must_use]
    pub fn new(layout: Arc<Layout>, process: u32) -> Self {
        Self {
            layout,
            process,
            credit: 64 << 20,
            message_max: charm4rs_transport_core::MESSAGE_MAX,
            either_min: 16 << 10,
            collected_min: 256 << 10,
            watch_near: false,
            detector: None,
            notices: Notices::default(),
            settings: Vec::new(),
        }
    }
}

/// How bytes are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    Eager,
    Either,
    Collected,
}

impl UcxConfig {
    /// How `len` bytes are sent.
    #[inline]
    pub(crate) fn protocol(&self, len: usize) -> Protocol {
        if len >= self.collected_min {
            Protocol::Collected
        } else if len >= self.either_min {
            Protocol::Either
        } else {
            Protocol::Eager
        }
    }
}

/// UCX does not check by itself whether peers are alive: the failure detector does, at a cost that does not grow with the number of
/// processes. And if UCX's check finds no such end of a connection at the peer, it cuts the connection, although the peer may be alive.
const KEEPALIVE: (&str, &str) = ("KEEPALIVE_INTERVAL", "inf");

/// Counts messages of strangers.
#[derive(Default, Debug)]
pub struct UcxCounters {
    /// Messages without the receiver's pass.
    pub strangers: AtomicU64,
}

/// The process-wide half of the UCX backend.
#[derive(Debug)]
pub struct UcxFabric {
    caps: Caps,
    published: Vec<u8>,
    /// Workers of this process's PEs, until they move to their threads.
    workers: Mutex<Vec<Option<(Closed, u64)>>>,
    shared: Arc<FabricState>,
}

/// The state that the endpoints of a process share.
#[derive(Debug)]
pub(crate) struct FabricState {
    config: UcxConfig,
    counters: UcxCounters,
    /// Each PE's pass and address.
    addresses: OnceLock<Vec<(u64, Box<[u8]>)>>,
}

impl FabricState {
    /// Tells the user what UCX has logged since the last time.
    pub(crate) fn tell(&self) {
        library::news().into_iter().for_each(|line| self.config.notices.tell(line));
    }
}

impl Drop for FabricState {
    fn drop(&mut self) {
        self.tell();
        library::speaks_for_itself();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks for UCX on this machine.
///
/// # Errors
/// [`TransportError::Config`]: there is no suitable UCX. The text says what was looked for, and where.
pub fn find() -> Result<FoundLibrary, TransportError> {
    library::library().map(|library| library.found.clone())
}

/// UCX aborts if it finds no memory for its threads and tables: this much must be available to open it, and then for its connections.
const START_BYTES: usize = 160 << 20;
const CONNECTION_BYTES: usize = 32 << 20;

/// What UCX lacked, if that is why a call failed.
fn lack(call: &str, status: ucs_status_t) -> Option<TransportError> {
    matches!(status, UCS_ERR_NO_MEMORY | UCS_ERR_EXCEEDS_LIMIT)
        .then(|| TransportError::no_memory(&format!("UCX ({call})"), CONNECTION_BYTES))
}

/// Why UCX cannot be used.
fn failed(Failure { call, status }: Failure) -> TransportError {
    lack(call, status).unwrap_or_else(|| {
        let words = library::library().map_or("", |library| library::words(&library.ucp, status));
        let said: String = library::news().iter().map(|line| format!("; {line}")).collect();
        TransportError::Config(format!("UCX cannot be used: {call}: {words}{said}"))
    })
}

impl UcxFabric {
    /// Opens UCX, and a worker for each PE of this process.
    ///
    /// # Errors
    /// [`TransportError::Config`] if there is no UCX, or it finds no way to communicate.
    pub fn open(config: UcxConfig) -> Result<Self, TransportError> {
        require_memory("UCX", START_BYTES)?;
        let ucp = &library::library()?.ucp;
        let mut settings: Vec<(&str, &str)> = config.settings.iter().map(|(name, value)| (*name, &**value)).collect();
        settings.push(KEEPALIVE);
        let context = Context::open(ucp, &settings).map_err(failed)?;
        let mut workers = Vec::new();
        let mut published = Vec::new();
        for _ in config.layout.pes_of(config.process) {
            let worker = Closed::new(&context).map_err(failed)?;
            let pass = charm4rs_transport_core::auth::random_u64()?;
            let address = worker.address();
            published.extend(pass.to_le_bytes());
            published.extend(u32::try_from(address.len()).expect("an address is short").to_le_bytes());
            published.extend(address);
            workers.push(Some((worker, pass)));
        }
        require_memory("UCX's connections", CONNECTION_BYTES)?;
        let caps = Caps {
            name: "ucx",
            inject_max: endpoint::INJECT_MAX,
            send_max: isize::MAX as usize,
            put_max: isize::MAX as usize,
            ordered: true,
            handover: true,
            one_sided: false,
            wakes: true,
            latency_ns: 2_000,
            bandwidth_mb_s: 10_000,
        };
        let shared = Arc::new(FabricState { config, counters: UcxCounters::default(), addresses: OnceLock::new() });
        shared.tell();
        Ok(Self { caps, published, workers: Mutex::new(workers), shared })
    }

    /// The addresses of this process's PEs, for [`UcxFabric::set_addresses`] of the others. Opaque, and secret.
    #[must_use]
    pub fn publish(&self) -> Vec<u8> {
        self.published.clone()
    }

    /// Takes what each process published, by rank. Called once, before the first endpoint is built.
    ///
    /// # Errors
    /// [`TransportError::Startup`] if it is not what [`UcxFabric::publish`] returns.
    pub fn set_addresses(&self, published: &[Vec<u8>]) -> Result<(), TransportError> {
        let layout = &self.shared.config.layout;
        let mut addresses = Vec::new();
        for (process, bytes) in (0u32..).zip(published) {
            let pes = layout.pes_of(process).len();
            let of_process = addresses_in(bytes).filter(|found| found.len() == pes);
            let malformed = || TransportError::Startup(format!("process {process} published no valid UCX addresses"));
            addresses.extend(of_process.ok_or_else(malformed)?);
        }
        if addresses.len() != layout.pes() as usize {
            return Err(TransportError::Startup("some processes published no UCX addresses".into()));
        }
        // A second call changes nothing.
        let _ = self.shared.addresses.set(addresses);
        Ok(())
    }

    /// Counts messages of strangers.
    #[must_use]
    pub fn counters(&self) -> &UcxCounters {
        &self.shared.counters
    }
}

/// Decodes passes and addresses of a process's PEs.
fn addresses_in(mut bytes: &[u8]) -> Option<Vec<(u64, Box<[u8]>)>> {
    let mut found = Vec::new();
    while let Some((pass, rest)) = bytes.split_first_chunk::<8>() {
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (address, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        found.push((u64::from_le_bytes(*pass), address.into()));
        bytes = rest;
    }
    bytes.is_empty().then_some(found)
}

impl Fabric for UcxFabric {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn builder(&self, pe: Pe) -> Box<dyn EndpointBuilder> {
        let config = &self.shared.config;
        let index = (pe.0 - config.layout.pes_of(config.process).start) as usize;
        let (worker, pass) = lock(&self.workers)[index].take().expect("a PE's endpoint is built once");
        Box::new(UcxBuilder { pe, caps: self.caps.clone(), worker, pass, shared: self.shared.clone() })
    }
}
