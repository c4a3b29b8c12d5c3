//! libfabric: one-sided access to peers' memory on verbs, Slingshot, EFA, Omni-Path, and all other networks that it has a provider for.
//!
//! The library is opened when the program runs; without it there is no such transport, and nothing else changes. Knows nothing
//! of what messages mean, nor of the launcher. Read [`wire`] for the format of messages, [`fi`] for the use of libfabric,
//! [`endpoint`] for one PE, [`rma`] for puts and gets, [`close`] for the end.
//!
//! # One path for all providers
//! Each PE has a domain of its own with an endpoint for reliable datagrams. It is opened at wire-up, so that its address can be published, and used
//! only on the PE's thread. Providers differ in what they require (`FI_MR_*`) and promise (`FI_ORDER_*`, a descriptor to wait on). This
//! backend accepts any of their answers, and requests nothing that one of them lacks. Messages are short, and numbered, since some
//! providers complete them out of order. A longer message goes by the port's rendezvous, as a put into its final
//! memory.
//!
//! # Death
//! Such endpoints do not report that a peer is gone. [`liveness`](charm4rs_transport_core::failure_detector) does, and so does a send that fails. Either ends
//! the connection of the pair permanently, since what was in flight is lost.

mod close;
mod endpoint;
mod fi;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod keys;
mod link;
mod memory;
mod provider;
mod rma;
mod slots;
mod starving;
mod wire;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub use provider::{FoundProvider, find};

use self::endpoint::{OfiEndpoint, Parts};
use self::fi::Lane;
use self::slots::{BODY, SLOTS};
use self::wire::Sealer;
use charm4rs_transport_core::auth::{self, Secret};
use charm4rs_transport_core::error::require_memory;
use charm4rs_transport_core::failure_detector::FailureDetector;
use charm4rs_transport_core::memory::pool::{Arena, Pool, fresh_tags};
use charm4rs_transport_core::memory::segment::{Segment, arena_bytes};
use charm4rs_transport_core::{Caps, Doorbell, Endpoint, EndpointBuilder, Fabric, Layout, Pe, TransportError};

/// Some providers do not notice a lack of memory, or retry without end: this much must be available (tcp's connections take 17 MB each).
const CONNECTION_BYTES: usize = 64 << 20;
const CONNECTIONS: &str = "libfabric's connections";

/// The state that all endpoints of a process share.
#[derive(Debug)]
struct FabricState {
    layout: Arc<Layout>,
    pes: u32,
    sealer: Sealer,
    /// What each process published.
    addresses: OnceLock<Vec<Vec<u8>>>,
}

impl FabricState {
    fn address_of(&self, pe: Pe) -> Option<&[u8]> {
        let process = self.layout.process_of(pe);
        let published = self.addresses.get()?.get(process as usize)?;
        let (_, addresses) = split(published)?;
        let mut addresses = addresses;
        for _ in self.layout.pes_of(process).start..pe.0 {
            addresses = split(addresses)?.1;
        }
        split(addresses).map(|(address, _)| address)
    }
}

/// Splits off bytes that are preceded by their length.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(u16::from_le_bytes(*len).into())
}

fn append(to: &mut Vec<u8>, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).expect("addresses and names are short");
    to.extend_from_slice(&len.to_le_bytes());
    to.extend_from_slice(bytes);
}

/// The process-wide half: a lane for each PE, and the addresses of all.
#[derive(Debug)]
pub struct OfiFabric {
    caps: Caps,
    shared: Arc<FabricState>,
    lanes: Mutex<HashMap<Pe, Lane>>,
    published: Vec<u8>,
    provider: String,
    detector: Option<Arc<dyn FailureDetector>>,
}

impl OfiFabric {
    /// Opens a lane for each PE of `process`, with the best provider in `found` that can be opened. `watch` reports processes that are gone.
    ///
    /// # Errors
    /// [`TransportError::Config`] with what was tried, if nothing can be opened; [`TransportError::Resource`] if memory cannot be
    /// registered.
    pub fn open(
        found: &FoundProvider,
        layout: &Arc<Layout>,
        process: u32,
        secret: &Secret,
        detector: Option<Arc<dyn FailureDetector>>,
    ) -> Result<Self, TransportError> {
        let mut tried = Vec::new();
        require_memory(CONNECTIONS, CONNECTION_BYTES)?;
        for info in &found.infos {
            let random = layout.pes_of(process).map(|pe| Ok((Pe(pe), auth::random_bytes()?)));
            let random = random.collect::<Result<Vec<_>, TransportError>>()?;
            let lanes =
                random.into_iter().map(|(pe, random)| Lane::open(info, SLOTS + 64, random).map(|lane| (pe, lane)));
            match lanes.collect::<Result<Vec<_>, _>>() {
                Ok(lanes) => {
                    // The memory that connections will take.
                    require_memory(CONNECTIONS, CONNECTION_BYTES)?;
                    return Self::over(lanes, layout, secret, detector);
                }
                // Another provider would lack the same resource.
                Err((call, error)) if error.is_lack() => return Err(memory::lack(info.library(), error, call)),
                Err((call, error)) => {
                    let why = info.library().describe(error.0);
                    tried.push(format!("{} ({}): {call}: {why}", info.provider(), info.domain_name()));
                }
            }
        }
        Err(TransportError::Config(format!("libfabric cannot be used: {}", tried.join("; "))))
    }

    fn over(
        lanes: Vec<(Pe, Lane)>,
        layout: &Arc<Layout>,
        secret: &Secret,
        detector: Option<Arc<dyn FailureDetector>>,
    ) -> Result<Self, TransportError> {
        let first = &lanes.first().expect("a process has PEs").1;
        let info = first.info();
        let provider = info.provider();
        let device = provider::is_device(&provider);
        let caps = Caps {
            name: "ofi",
            inject_max: BODY,
            send_max: BODY,
            put_max: info.ep().max_msg_size.min(1 << 40),
            ordered: true,
            handover: false,
            one_sided: true,
            wakes: first.wakes(),
            latency_ns: if device { 2_000 } else { 6_000 },
            bandwidth_mb_s: if device { 10_000 } else { 2_500 },
        };
        let mut published = Vec::new();
        append(&mut published, provider.as_bytes());
        for (_, lane) in &lanes {
            let address = lane.address().map_err(|e| slots::Slots::describe(lane, e, "fi_getname"))?;
            append(&mut published, &address);
        }
        let sealer = Sealer::new(secret);
        let shared = FabricState { layout: layout.clone(), pes: layout.pes(), sealer, addresses: OnceLock::new() };
        let lanes = Mutex::new(lanes.into_iter().collect());
        Ok(Self { caps, shared: Arc::new(shared), lanes, published, provider, detector })
    }

    /// From now on lanes refuse to register more than this many bytes at a time.
    #[cfg(any(test, feature = "faults"))]
    pub fn limit_registrations(&self, bytes: usize) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.values_mut().for_each(|lane| lane.registered_max = bytes);
    }

    /// From now on lanes have keys of more than 64 bits, by a stub between them and their provider.
    #[cfg(any(test, feature = "faults"))]
    pub fn set_raw_keys(&self) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.values_mut().for_each(fi::stub::set);
    }

    /// How many keys the stub has mapped, and how many it has unmapped.
    #[cfg(any(test, feature = "faults"))]
    pub fn raw_keys_used() -> [usize; 2] {
        [&fi::stub::MAPPED, &fi::stub::UNMAPPED].map(|count| count.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// The provider's name in libfabric.
    #[must_use]
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// The provider of this process, and the addresses of its PEs, for [`OfiFabric::set_addresses`] of the others. Opaque.
    #[must_use]
    pub fn publish(&self) -> Vec<u8> {
        self.published.clone()
    }

    /// Takes what each process published, by rank. Called once, before the first endpoint is built. Entries are decoded on first use.
    ///
    /// # Errors
    /// [`TransportError::Config`] if the processes have different providers: names the first that differs.
    pub fn set_addresses(&self, addresses: Vec<Vec<u8>>) -> Result<(), TransportError> {
        for (rank, published) in (0u32..).zip(&addresses) {
            let theirs = split(published).map_or("none".into(), |(name, _)| String::from_utf8_lossy(name));
            if theirs != self.provider {
                let ours = &self.provider;
                let text = format!("libfabric's providers differ: {ours} here, {theirs} in process {rank}");
                return Err(TransportError::Config(text));
            }
        }
        let _ = self.shared.addresses.set(addresses);
        Ok(())
    }
}

impl Fabric for OfiFabric {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn builder(&self, pe: Pe) -> Box<dyn EndpointBuilder> {
        let lane = self.lanes.lock().unwrap_or_else(PoisonError::into_inner).remove(&pe);
        let lane = lane.expect("a PE of this process, once");
        let (caps, shared, detector) = (self.caps.clone(), self.shared.clone(), self.detector.clone());
        Box::new(Builder { pe, caps, shared, lane, detector })
    }
}

struct Builder {
    pe: Pe,
    caps: Caps,
    shared: Arc<FabricState>,
    lane: Lane,
    detector: Option<Arc<dyn FailureDetector>>,
}

impl Builder {
    fn open(self, doorbell: &Doorbell) -> Result<OfiEndpoint, TransportError> {
        let Self { pe, caps, shared, lane, detector } = self;
        let host = shared.layout.host_of(shared.layout.process_of(pe));
        let pes = u32::try_from(shared.layout.pes_of_host(host).len()).expect("PEs are counted in 32 bits");
        let segment = Segment::private(1 << 16, arena_bytes(pes))?;
        let pool = Pool::new(pe, Arc::new(Arena::new(Arc::new(segment), fresh_tags())));
        let failures = detector.map(|detector| detector.subscribe(pe, doorbell));
        OfiEndpoint::new(Parts { pe, caps, shared, lane, pool, failures })
    }
}

impl EndpointBuilder for Builder {
    fn build(self: Box<Self>, doorbell: &Doorbell) -> Result<Box<dyn Endpoint>, TransportError> {
        Ok(Box::new(self.open(doorbell)?))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[test]
    fn registered_memory_does_not_grow_with_the_peers() {
        const PES: u32 = 1_024;
        let found = match find(PES, true, IpAddr::V4(Ipv4Addr::LOCALHOST)) {
            Ok(found) => found,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        let layout = Arc::new(Layout::one_host(PES, 1));
        let fabric = OfiFabric::open(&found, &layout, 0, &Secret::new([7; 32]), None).unwrap();
        // All of them are this process.
        fabric.set_addresses(vec![fabric.publish(); PES as usize]).unwrap();
        let lane = fabric.lanes.lock().unwrap().remove(&Pe(0)).unwrap();
        let (caps, shared) = (fabric.caps.clone(), fabric.shared.clone());
        let mut end =
            Builder { pe: Pe(0), caps, shared, lane, detector: None }.open(&Doorbell::new().unwrap()).unwrap();
        let alone = end.registered();
        for pe in 1..PES {
            let link = end.link_to(Pe(pe));
            assert!(end.address(link).is_some());
        }
        assert_eq!(end.registered(), alone);
        let each = alone / (PES as usize - 1);
        println!("{alone} bytes registered, {each} for each of {} peers", PES - 1);
        assert!(each < 64 << 10);
    }
}
