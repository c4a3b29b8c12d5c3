//! An example of a third-party backend: charm4rs over UNIX sockets, between the processes of one host.
//!
//! The crate depends only on `charm4rs-transport-core` of charm4rs, and registers itself as `extern:unix`. Its purpose is to be read: the book's
//! chapter "Writing a backend" walks through it. (The backend `shm` is faster between processes of a host.)
//!
//! # The protocol
//! Each PE listens on its own socket, at an abstract address (which has no file). `link` describes how two PEs use a connection, `packet` the packets on
//! it.
//!
//! *Identity of the peer.* The kernel tells each end of a connection the user and the process of the other end. A PE accepts only connections from
//! processes of its job, and a process can only act for its own PEs.
//!
//! *Puts and gets* are packets that the owner of the window executes and answers while it makes progress. So a put into a window that was taken back
//! fails at its origin and changes nothing.
//!
//! *The end.* A PE that closes first sends a goodbye on each of its connections. If a connection ends without a goodbye, the peer has died and is lost.
//! The kernel closes the sockets of a process that is killed. It does not report a process that is stopped; the failure detector of charm4rs does.

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

/// The backend in a process whose PEs listen, before it knows the other processes.
#[derive(Debug)]
pub struct Listening {
    layout: Arc<Layout>,
    process: u32,
    detector: Option<Arc<dyn FailureDetector>>,
    sockets: Vec<(OwnedFd, Address)>,
}

impl Listening {
    /// Listens for each PE of a process. `detector` reports processes that have failed while their connections stay open.
    ///
    /// # Errors
    /// If the system lacks a resource.
    pub fn open(
        layout: &Arc<Layout>,
        process: u32,
        detector: Option<Arc<dyn FailureDetector>>,
    ) -> Result<Self, TransportError> {
        let sockets = layout.pes_of(process).map(|_| socket::listener()).collect::<Result<_, _>>()?;
        Ok(Self { layout: layout.clone(), process, detector, sockets })
    }

    /// The addresses of this process, for the other processes.
    #[must_use]
    pub fn publish(&self) -> Vec<u8> {
        self.sockets.iter().flat_map(|(_, address)| address.bytes()).collect()
    }

    /// Takes the addresses of all processes.
    ///
    /// # Errors
    /// If the bytes are not addresses.
    pub fn join(self, published: &[Vec<u8>]) -> Result<UnixFabric, TransportError> {
        let mut addresses = Vec::new();
        for (process, bytes) in (0..self.layout.processes()).zip(published) {
            let pes = self.layout.pes_of(process);
            addresses.extend(socket::read_addresses(bytes, pes.len(), Pe(pes.start))?);
        }
        let caps = Caps {
            name: "extern:unix",
            inject_max: 8 << 10,
            send_max: BODY_MAX, // one packet; the port sends longer messages by rendezvous, as puts
            put_max: BODY_MAX,
            ordered: true,
            handover: false,  // the kernel copies each packet, twice
            one_sided: false, // the target's processor executes puts
            wakes: true,      // through the endpoint's `wait_fd`
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

/// The data that all endpoints share.
#[derive(Debug)]
struct Job {
    layout: Arc<Layout>,
    /// The addresses of all PEs, by PE.
    addresses: Vec<Address>,
}

/// The process-wide part of the backend.
#[derive(Debug)]
pub struct UnixFabric {
    caps: Caps,
    job: Arc<Job>,
    process: u32,
    detector: Option<Arc<dyn FailureDetector>>,
    /// The listeners of this process's PEs, until their builders take them.
    listeners: Mutex<Vec<Option<OwnedFd>>>,
}

impl UnixFabric {
    /// The builder of a PE's endpoint, which can be sent to the PE's thread.
    ///
    /// # Panics
    /// If the PE is not in this process, or its builder was taken before.
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

/// The builder that moves to a PE's thread, and becomes the endpoint there.
#[derive(Debug)]
pub struct UnixBuilder {
    pe: Pe,
    caps: Caps,
    job: Arc<Job>,
    detector: Option<Arc<dyn FailureDetector>>,
    listener: OwnedFd,
}

impl UnixBuilder {
    /// Opens the endpoint. Only the failure detector rings the doorbell: all other events make descriptors ready.
    ///
    /// # Errors
    /// If the system lacks a resource.
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
