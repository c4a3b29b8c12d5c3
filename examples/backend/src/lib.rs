//! A backend of an outsider: charm4rs over UNIX sockets, between the processes of one host.
//!
//! It is a crate like any other one would write: it needs nothing of charm4rs but `charm4rs-transport-core`, and registers itself as `extern:unix`. It is
//! written to be read, and the book's chapter "Writing a backend" walks through it. (The backend `shm` is faster between processes of a host.)
//!
//! # The protocol
//! Each PE listens on a socket of its own, at an abstract address (which has no file). `link` says how two PEs use a connection, `packet` what they send on it.
//!
//! *Who is at the other end.* The kernel tells each end of a connection the user and the process of the other end. A PE accepts connections from the
//! processes of its job only, and a process can speak only for its own PEs.
//!
//! *Puts and gets* are packets that the owner of the window executes while it makes progress, and answers. So a put into a window that was taken back fails
//! at its origin and touches nothing.
//!
//! *The end.* A PE that closes says goodbye on each of its connections first. The end of a connection without a goodbye is a death: the peer is
//! lost. The kernel closes the sockets of a process that is killed. It says nothing of one that is stopped; the failure detector of charm4rs does.

#![forbid(unsafe_code)]

mod endpoint;
mod fast;
mod link;
mod packet;
mod post;
mod progress;
mod socket;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use charm4rs_transport_core::external::{Opening, UnjoinedFabric};
use charm4rs_transport_core::failure_detector::{FailureDetector, FailurePoll};
use charm4rs_transport_core::{Caps, Doorbell, Endpoint, EndpointBuilder, Fabric, Layout, Pe, TransportError};

pub use endpoint::UnixEndpoint;
use packet::BODY_MAX;
use socket::Address;

charm4rs_transport_core::register_backend!("unix", open);

fn open(opening: &Opening<'_>) -> Result<Box<dyn UnjoinedFabric>, TransportError> {
    if opening.layout.hosts() > 1 {
        let problem =
            format!("++transport extern:unix: sockets of this host do not reach {} hosts", opening.layout.hosts());
        return Err(TransportError::Config(problem));
    }
    Ok(Box::new(Listening::open(opening.layout, opening.process, Some(opening.detector.clone()))?))
}

/// A process whose PEs listen, and which does not know the other processes yet.
#[derive(Debug)]
pub struct Listening {
    layout: Arc<Layout>,
    process: u32,
    detector: Option<Arc<dyn FailureDetector>>,
    sockets: Vec<(OwnedFd, Address)>,
}

impl Listening {
    /// Listens for each PE of a process. `detector` notices processes that have failed without an end of their connections.
    ///
    /// # Errors
    /// If the system is out of something.
    pub fn open(
        layout: &Arc<Layout>,
        process: u32,
        detector: Option<Arc<dyn FailureDetector>>,
    ) -> Result<Self, TransportError> {
        let sockets = layout.pes_of(process).map(|_| socket::listener()).collect::<Result<_, _>>()?;
        Ok(Self { layout: layout.clone(), process, detector, sockets })
    }

    /// The addresses of this process, for the others.
    #[must_use]
    pub fn publish(&self) -> Vec<u8> {
        self.sockets.iter().flat_map(|(_, address)| address.bytes()).collect()
    }

    /// Takes the addresses of all processes.
    ///
    /// # Errors
    /// If they are none.
    pub fn join(self, published: &[Vec<u8>]) -> Result<UnixFabric, TransportError> {
        let mut addresses = Vec::new();
        for (process, bytes) in (0..self.layout.processes()).zip(published) {
            let pes = self.layout.pes_of(process);
            addresses.extend(socket::read_addresses(bytes, pes.len(), Pe(pes.start))?);
        }
        let caps = Caps {
            name: "extern:unix",
            inject_max: 8 << 10,
            send_max: BODY_MAX, // one packet; a longer message goes by the port's rendezvous, as puts
            put_max: BODY_MAX,
            ordered: true,
            handover: false,  // the kernel copies each packet, twice
            one_sided: false, // the target's processor executes puts
            wakes: true,      // by the endpoint's `wait_fd`
            latency_ns: 5_000,
            bandwidth_mb_s: 2_000,
        };
        let listeners = self.sockets.into_iter().map(|(socket, _)| Some(socket)).collect();
        let job = Job { layout: self.layout, addresses };
        Ok(UnixFabric {
            caps,
            job: Arc::new(job),
            process: self.process,
            detector: self.detector,
            listeners: Mutex::new(listeners),
        })
    }
}

impl UnjoinedFabric for Listening {
    fn publish(&self) -> Vec<u8> {
        Self::publish(self)
    }

    fn join(self: Box<Self>, addresses: Vec<Vec<u8>>) -> Result<Arc<dyn Fabric>, TransportError> {
        Ok(Arc::new(Self::join(*self, &addresses)?))
    }
}

/// What all endpoints know.
#[derive(Debug)]
struct Job {
    layout: Arc<Layout>,
    /// PE n's, at n.
    addresses: Vec<Address>,
}

/// The process-wide half of the backend.
#[derive(Debug)]
pub struct UnixFabric {
    caps: Caps,
    job: Arc<Job>,
    process: u32,
    detector: Option<Arc<dyn FailureDetector>>,
    /// Those of this process's PEs, until their builders take them.
    listeners: Mutex<Vec<Option<OwnedFd>>>,
}

impl UnixFabric {
    /// The description of a PE's endpoint, which can be sent to the PE's thread.
    ///
    /// # Panics
    /// If the PE is not of this process, or its endpoint was asked for before.
    #[must_use]
    pub fn description(&self, pe: Pe) -> UnixBuilder {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let first = Pe(self.job.layout.pes_of(self.process).start);
        let listener = listeners[pe.index() - first.index()].take().expect("a PE has one endpoint");
        let (caps, job, detector) = (self.caps.clone(), self.job.clone(), self.detector.clone());
        UnixBuilder { pe, caps, job, detector, listener }
    }
}

impl Fabric for UnixFabric {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn builder(&self, pe: Pe) -> Box<dyn EndpointBuilder> {
        Box::new(self.description(pe))
    }
}

/// What moves to a PE's thread, and becomes its endpoint there.
#[derive(Debug)]
pub struct UnixBuilder {
    pe: Pe,
    caps: Caps,
    job: Arc<Job>,
    detector: Option<Arc<dyn FailureDetector>>,
    listener: OwnedFd,
}

impl UnixBuilder {
    /// Opens the endpoint. Only the failure detector rings the doorbell: everything else comes through descriptors.
    ///
    /// # Errors
    /// If the system is out of something.
    pub fn open(self, doorbell: &Doorbell) -> Result<UnixEndpoint, TransportError> {
        let failures = FailurePoll::new(self.detector.map(|detector| detector.subscribe(self.pe, doorbell)));
        UnixEndpoint::new(self.pe, self.caps, self.job, self.listener, failures)
    }
}

impl EndpointBuilder for UnixBuilder {
    fn build(self: Box<Self>, doorbell: &Doorbell) -> Result<Box<dyn Endpoint>, TransportError> {
        Ok(Box::new(self.open(doorbell)?))
    }
}
