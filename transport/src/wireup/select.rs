//! Selects the backend between hosts.
//!
//! Unless the user forces one, it is the first backend for devices that every process of the job has, in the same way; otherwise TCP, which is
//! always available. (libfabric works without a device too, but then it listens without authentication, so it is used only on request.)
//! A backend of another crate ([`charm4rs_transport_core::external`]) is opened only if it is forced. In every case TCP's helper runs: it sends the
//! heartbeats for the other backends.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::TransportOptions;
use charm4rs_bootstrap::Bootstrap;
use charm4rs_ofi as ofi;
use charm4rs_ofi::OfiFabric;
use charm4rs_tcp::TcpFabric;
use charm4rs_transport_core::external::{ExternalBackend, Opening};
use charm4rs_transport_core::failure_detector::FailureDetector;
use charm4rs_transport_core::{ExternalName, Fabric, Layout, TransportError, TransportKind};

/// What processes publish about one backend: its number in [`number`], and its own bytes.
type Published = BTreeMap<u8, Vec<u8>>;

fn number(kind: TransportKind) -> u8 {
    match kind {
        TransportKind::Local => 0,
        TransportKind::Shm => 1,
        TransportKind::Tcp => 2,
        TransportKind::Ofi => 3,
        TransportKind::Ucx => 4,
        TransportKind::Sim => 5,
        TransportKind::External(_) => 6,
    }
}

/// A backend besides TCP that this process could use.
struct Candidate {
    kind: TransportKind,
    published: Vec<u8>,
    /// Joins the backend, with what all processes published, by rank.
    join: Box<Join>,
}

type Join = dyn FnOnce(Vec<Vec<u8>>) -> Result<Arc<dyn Fabric>, TransportError>;

/// The backends between hosts, before the processes have exchanged anything.
pub(super) struct Selection {
    tcp: Arc<TcpFabric>,
    candidates: Vec<Candidate>,
    forced: Option<TransportKind>,
    /// The reasons why there are no more candidates.
    why_not: Vec<String>,
    /// Whether this process tells the user.
    tells: bool,
}

impl Selection {
    /// Opens the backends that could be used.
    ///
    /// # Errors
    /// If TCP cannot be opened, or the backend that the user forces.
    pub(super) fn open(
        boot: &dyn Bootstrap,
        layout: &Arc<Layout>,
        options: &TransportOptions,
    ) -> Result<Self, TransportError> {
        let tcp = Arc::new(TcpFabric::open(super::tcp_config(boot, layout, options))?);
        let mut selection =
            Self { tcp, candidates: Vec::new(), forced: options.force, why_not: Vec::new(), tells: boot.rank() == 0 };
        if matches!(options.force, None | Some(TransportKind::Ofi)) {
            let candidate = selection.ofi(boot, layout, options);
            selection.consider(candidate)?;
        }
        if options.force == Some(TransportKind::Ucx) {
            let candidate = selection.ucx(boot, layout, options);
            selection.consider(candidate)?;
        }
        if let Some(TransportKind::External(name)) = options.force {
            let candidate = selection.external(name, boot, layout, options);
            selection.consider(candidate)?;
        }
        Ok(selection)
    }

    /// Adds a candidate, or records why there is none. If it is forced, that is an error.
    fn consider(&mut self, candidate: Result<Candidate, TransportError>) -> Result<(), TransportError> {
        match candidate {
            Ok(candidate) => self.candidates.push(candidate),
            Err(error) if self.forced.is_some() => return Err(error),
            Err(error) => self.why_not.push(error.to_string()),
        }
        Ok(())
    }

    fn ofi(
        &self,
        boot: &dyn Bootstrap,
        layout: &Arc<Layout>,
        options: &TransportOptions,
    ) -> Result<Candidate, TransportError> {
        let own = if layout.hosts() == 1 { None } else { self.tcp.address() };
        let own = own.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let forced = self.forced.is_some();
        let found = ofi::find(layout.pes(), forced, own)?;
        tracing::info!(found = found.describe(), "libfabric");
        let fabric = OfiFabric::open(&found, layout, boot.rank(), boot.secret(), Some(self.tcp.clone()))?;
        if !found.has_device() {
            let provider = fabric.provider();
            let text = format!(
                "++transport ofi uses libfabric's {provider}, which accepts connections without authentication"
            );
            if self.tells {
                options.notices.tell(text);
            }
        }
        let published = fabric.publish();
        let join = Box::new(move |addresses| {
            fabric.set_addresses(addresses)?;
            Ok(Arc::new(fabric) as Arc<dyn Fabric>)
        });
        Ok(Candidate { kind: TransportKind::Ofi, published, join })
    }

    fn ucx(
        &self,
        boot: &dyn Bootstrap,
        layout: &Arc<Layout>,
        options: &TransportOptions,
    ) -> Result<Candidate, TransportError> {
        let fabric = super::ucx::open(layout, boot.rank(), options, self.tcp.clone(), self.tells)?;
        let published = fabric.publish();
        let join = Box::new(move |addresses: Vec<Vec<u8>>| {
            fabric.set_addresses(&addresses)?;
            Ok(Arc::new(fabric) as Arc<dyn Fabric>)
        });
        Ok(Candidate { kind: TransportKind::Ucx, published, join })
    }

    /// A backend that the program registers.
    fn external(
        &self,
        name: ExternalName,
        boot: &dyn Bootstrap,
        layout: &Arc<Layout>,
        options: &TransportOptions,
    ) -> Result<Candidate, TransportError> {
        let backend = ExternalBackend::find(name.as_str())?;
        let detector: Arc<dyn FailureDetector> = self.tcp.clone();
        let job = (boot.job_id(), boot.secret());
        let mut opening = Opening::new(layout, boot.rank(), job, &options.notices, &detector);
        (opening.message_max, opening.credit) = (options.frame_max(), options.credit);
        let unjoined = (backend.open)(&opening)?;
        let published = unjoined.publish();
        let join = Box::new(move |addresses: Vec<Vec<u8>>| {
            let fabric = unjoined.join(addresses)?;
            if !fabric.caps().ordered {
                let what = "does not keep the order of messages, which the port needs";
                return Err(TransportError::Config(format!("++transport extern:{}: it {what}", name.as_str())));
            }
            Ok(fabric)
        });
        Ok(Candidate { kind: TransportKind::External(name), published, join })
    }

    /// What the other processes must know.
    pub(super) fn publish(&self) -> Vec<u8> {
        let mut published = Published::from([(number(TransportKind::Tcp), self.tcp.publish())]);
        published.extend(self.candidates.iter().map(|one| (number(one.kind), one.published.clone())));
        postcard::to_stdvec(&published).expect("bytes can be written into memory")
    }

    /// The backend that all processes use, from what they published, by rank.
    ///
    /// # Errors
    /// If the backend that the user forces is not available everywhere, or a process published invalid data.
    pub(super) fn join(
        self,
        theirs: &[Vec<u8>],
        options: &TransportOptions,
    ) -> Result<Arc<dyn Fabric>, TransportError> {
        let mut all = Vec::new();
        for (rank, bytes) in theirs.iter().enumerate() {
            let published: Published = postcard::from_bytes(bytes)
                .map_err(|_| TransportError::Startup(format!("process {rank} published no addresses")))?;
            all.push(published);
        }
        let of = |kind| -> Vec<Vec<u8>> {
            all.iter().map(|published| published.get(&number(kind)).cloned().unwrap_or_default()).collect()
        };
        self.tcp.set_addresses(of(TransportKind::Tcp));
        let mut why_not = self.why_not;
        for candidate in self.candidates {
            match (candidate.join)(of(candidate.kind)) {
                Ok(fabric) => return Ok(fabric),
                Err(error) if self.forced.is_some() => return Err(error),
                Err(error) => why_not.push(error.to_string()),
            }
        }
        if self.tells && !why_not.is_empty() {
            options.notices.tell(format!("no fabric: {}; using tcp", why_not.join("; ")));
        }
        Ok(self.tcp)
    }
}
