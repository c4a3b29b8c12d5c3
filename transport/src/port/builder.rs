//! Builds a port, which cannot be sent, from a description, which can.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::credit::Accounts;
use super::held::Waiting;
use super::inner::Inner;
use super::operations::Operations;
use super::{Ends, Port};
use crate::local::LocalFabric;
use crate::options::TransportOptions;
use crate::shm::ShmFabric;
use charm4rs_transport_core::memory::Slab;
use charm4rs_transport_core::{Doorbell, Endpoint, Fabric, Layout, Pe, TransportError, Waker};

/// The backends of a process.
#[derive(Clone, Default, Debug)]
pub(crate) struct Fabrics {
    pub(crate) local: Option<Arc<LocalFabric>>,
    pub(crate) shm: Option<Arc<ShmFabric>>,
    pub(crate) net: Option<Arc<dyn Fabric>>,
}

/// Describes a port; moves to the PE's pinned thread and becomes a [`Port`] there.
#[derive(Debug)]
pub struct PortBuilder {
    pe: Pe,
    layout: Arc<Layout>,
    doorbell: Doorbell,
    fabrics: Fabrics,
    options: TransportOptions,
}

impl PortBuilder {
    pub(crate) fn new(
        pe: Pe,
        layout: &Arc<Layout>,
        fabrics: &Fabrics,
        options: &TransportOptions,
    ) -> Result<Self, TransportError> {
        let doorbell = Doorbell::new()?;
        Ok(Self { pe, layout: layout.clone(), doorbell, fabrics: fabrics.clone(), options: options.clone() })
    }

    /// The PE that owns the port.
    #[must_use]
    pub fn pe(&self) -> Pe {
        self.pe
    }

    /// The job's shape.
    #[must_use]
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// A handle that wakes the PE, from any thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.doorbell.waker()
    }

    /// Opens the port. Must be called on the PE's own, pinned thread, so that memory is first touched there.
    ///
    /// # Errors
    /// If the system is out of a resource.
    pub fn open(self) -> Result<Port, TransportError> {
        let Self { pe, layout, doorbell, fabrics, options } = self;
        let slab = Slab::new();
        let mut local = fabrics.local.map(|fabric| fabric.open(pe, &doorbell));
        let mut shm = fabrics.shm.map(|fabric| fabric.endpoint(pe));
        local.iter_mut().for_each(|shmem| shmem.use_slab(&slab));
        shm.iter_mut().for_each(|shmem| shmem.use_slab(&slab));
        let net = fabrics.net.map(|fabric| fabric.builder(pe).build(&doorbell)).transpose()?;
        let process = layout.process_of(pe);
        if let (Some(shm), true) = (&mut shm, local.is_some()) {
            shm.refuse_from(&layout.pes_of(process));
        }
        let ends = Ends {
            process: if local.is_some() { layout.pes_of(process) } else { 0..0 },
            host: if shm.is_some() { layout.pes_of_host(layout.host_of(process)) } else { 0..0 },
            local,
            shm,
            net,
        };
        Ok(Port::assemble(pe, layout, doorbell, ends, slab, options))
    }
}

impl Port {
    /// A port over one endpoint that reaches all peers, for worlds in which one thread drives many PEs. Sends never block: messages that find
    /// no capacity wait in the backlog. `doorbell` wakes that thread.
    ///
    /// # Panics
    /// If the endpoint does not keep the order of messages, on which the port's protocols rely.
    #[must_use]
    pub fn over(net: Box<dyn Endpoint>, layout: Arc<Layout>, options: TransportOptions, doorbell: &Doorbell) -> Self {
        assert!(net.caps().ordered, "a port needs messages of a peer in order");
        let ends = Ends { process: 0..0, host: 0..0, local: None, shm: None, net: Some(net) };
        let options = TransportOptions { may_block: false, ..options };
        let pe = ends.net.as_ref().map_or(Pe(0), |net| net.pe());
        Self::assemble(pe, layout, doorbell.share(), ends, Slab::new(), options)
    }

    fn assemble(
        pe: Pe,
        layout: Arc<Layout>,
        doorbell: Doorbell,
        ends: Ends,
        slab: Slab,
        options: TransportOptions,
    ) -> Self {
        Self {
            pe,
            doorbell,
            ends,
            inner: Inner::new(pe, slab, Accounts::new(layout.pes(), options.credit), options.message_max),
            plain: options.faults.is_none(),
            layout,
            options,
            rare: VecDeque::new(),
            early: VecDeque::new(),
            backlog: BTreeMap::new(),
            held: BTreeMap::new(),
            waiting: Waiting::default(),
            puts: VecDeque::new(),
            stalled: BTreeSet::new(),
            flushes: 0,
            credits: Vec::new(),
            events: Vec::new(),
            fatal: None,
            since_net: 0,
            operations: Operations::default(),
        }
    }

    /// The state that must be empty once all messages have arrived.
    #[cfg(test)]
    pub(crate) fn leftovers(&self) -> Vec<(&'static str, usize)> {
        let counts = [
            ("early", self.early.len()),
            ("backlog", self.backlog.len()),
            ("held", self.held.len()),
            ("without a CTS", self.inner.rendezvous.sender.count()),
            ("puts", self.puts.len()),
            ("credits", self.credits.len()),
            ("offers", self.inner.rendezvous.receiver.counts()[0]),
            ("arriving", self.inner.rendezvous.receiver.counts()[1]),
            ("todo", self.inner.todo.len()),
            ("put windows", self.inner.put_windows.count()),
            ("bytes in flight", usize::try_from(self.operations.left().0).unwrap()),
            ("operations", self.operations.left().1),
            ("payloads ahead", self.inner.peers.values().map(|peer| peer.payloads.len()).sum()),
        ];
        counts.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// The credit that it owes a peer, and the credit that the peer owes it.
    #[cfg(test)]
    pub(crate) fn credit(&self, peer: Pe) -> (u64, u64) {
        (self.inner.accounts.owed(peer), self.inner.accounts.debt(peer))
    }
}
