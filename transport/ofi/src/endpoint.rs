//! One PE's end: posts, and the handling of arrivals. [`rma`](super::rma) has accesses to memory, [`close`](super::close) the end.
//!
//! A post for which the provider has no capacity keeps its slot, and is tried again in every round. Until it has left, other posts to the same
//! peer are [`Busy`](PostError::Busy).

use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;

use charm4rs_libfabric_sys::bindings as fi;

use super::FabricState;
use super::fi::{Completion, Failed, Lane, Post};
use super::link::{Control, Frame, Link};
use super::memory::{Keys, Sources, Windows};
use super::slots::{BODY, Op, Slots};
use super::starving::Starving;
use super::wire::{Header, PacketKind};
use charm4rs_transport_core::event_queue::EventQueue;
use charm4rs_transport_core::failure_detector::{FailureEvents, FailurePoll};
use charm4rs_transport_core::memory::pool::Pool;
use charm4rs_transport_core::memory::{Msg, RegBuf, Slab, write_bytes};
use charm4rs_transport_core::peer_table::PeerTable;
use charm4rs_transport_core::{
    Caps, Endpoint, Event, Imm, OpId, Pe, PostError, Posted, RemoteKey, TransportError, Window,
};

/// Completions that are taken at once.
const BATCH: usize = 32;

/// See the module's text.
pub(super) struct OfiEndpoint {
    pub(super) pe: Pe,
    pub(super) caps: Caps,
    pub(super) shared: Arc<FabricState>,
    pub(super) lane: Rc<Lane>,
    /// Accesses and messages of a peer become visible in the order in which they were posted.
    pub(super) ordered: bool,
    /// Frames of at most this length need no completion.
    pub(super) short: usize,
    pub(super) slots: Slots,
    pub(super) sources: Sources,
    pub(super) keys: Keys,
    pub(super) windows: Windows,
    pub(super) pool: Pool,
    slab: Slab,
    pub(super) links: Vec<Link>,
    peers: PeerTable,
    /// Links with something to send.
    unsent: Vec<u32>,
    /// Receive slots that could not be posted to the provider.
    idle_receivers: Vec<usize>,
    pub(super) ready: EventQueue,
    completions: Box<[Completion]>,
    /// Reports processes that are gone.
    failures: FailurePoll,
    starving: Starving,
    /// It was closed normally.
    parted: bool,
}

impl std::fmt::Debug for OfiEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OfiEndpoint").field("pe", &self.pe).field("links", &self.links).finish_non_exhaustive()
    }
}

/// The parts of an endpoint.
pub(super) struct Parts {
    pub(super) pe: Pe,
    pub(super) caps: Caps,
    pub(super) shared: Arc<FabricState>,
    pub(super) lane: Lane,
    pub(super) pool: Pool,
    pub(super) failures: Option<Box<dyn FailureEvents>>,
}

impl OfiEndpoint {
    pub(super) fn new(parts: Parts) -> Result<Self, TransportError> {
        let Parts { pe, caps, shared, lane, pool, failures } = parts;
        let order = lane.info().tx().msg_order;
        let slots = Slots::new(&lane)?;
        let mut end = Self {
            pe,
            caps,
            shared,
            ordered: order & u64::from(fi::FI_ORDER_SAW) != 0,
            short: lane.info().tx().inject_size.min(256),
            idle_receivers: slots.receivers().collect(),
            lane: Rc::new(lane),
            slots,
            sources: Sources::default(),
            keys: Keys::default(),
            windows: Windows::new()?,
            pool,
            slab: Slab::new(),
            links: Vec::new(),
            peers: PeerTable::default(),
            unsent: Vec::new(),
            ready: EventQueue::default(),
            completions: vec![Completion::default(); BATCH].into(),
            failures: FailurePoll::new(failures),
            starving: Starving::default(),
            parted: false,
        };
        end.post_receivers()?;
        Ok(end)
    }

    // ---- links -----------------------------------------------------------------------------------------------

    /// The link to a PE, which is made if there is none.
    #[inline]
    pub(super) fn link_to(&mut self, peer: Pe) -> usize {
        self.peers.place(peer, || self.links.push(Link::new(peer)))
    }

    /// The link for a post, if the peer can be reached.
    pub(super) fn open_link<B>(&mut self, to: Pe, buf: B) -> Result<(usize, B), PostError<B>> {
        let index = self.link_to(to);
        if self.links[index].parting.is_gone() { Err(PostError::PeerDown(to, buf)) } else { Ok((index, buf)) }
    }

    /// Bytes that are registered with the device, or would be if it needed registrations of local memory.
    #[cfg(test)]
    pub(super) fn registered(&self) -> usize {
        self.slots.registered() + self.sources.registered() + self.windows.registered()
    }

    /// The libfabric address of the peer of a link.
    pub(super) fn address(&mut self, index: usize) -> Option<u64> {
        let link = &mut self.links[index];
        if link.addr.is_none() {
            link.addr = self.shared.address_of(link.peer).and_then(|address| self.lane.insert(address));
        }
        link.addr
    }

    /// Adds a link to the list of those with something to send, which every round tries.
    pub(super) fn list(&mut self, index: usize) {
        let link = &mut self.links[index];
        if !link.listed {
            link.listed = true;
            self.unsent.push(u32::try_from(index).expect("links are counted in 32 bits"));
        }
    }

    /// The peer is gone for good.
    #[cold]
    pub(super) fn lose(&mut self, index: usize, why: &'static str) {
        let link = &mut self.links[index];
        if link.parting.is_lost() {
            return;
        }
        link.parting.lose();
        let (peer, expected) = (link.peer, link.parting.has_heard());
        link.control.clear();
        if let Some(slot) = link.deferred.take() {
            self.slots.free(slot);
        }
        let error = || Box::new(TransportError::PeerDown { pe: peer, why });
        for waiting in std::mem::take(&mut link.waiting) {
            self.slots.free(waiting.slot);
            let buf = Some(waiting.rma.buf);
            self.ready.push(Event::Failed { op: waiting.rma.op, buf, error: error() });
        }
        for op in self.slots.abandon(u32::try_from(index).expect("links are counted in 32 bits")) {
            self.ready.push(Event::Failed { op, buf: None, error: error() });
        }
        if !expected {
            tracing::warn!(pe = peer.0, why, "lost contact with a PE");
            self.ready.push(Event::PeerLost { pe: peer, why });
        }
    }

    // ---- messages --------------------------------------------------------------------------------------------

    /// Takes a message to send, if there is a slot for it. `fill` writes all of the `len` bytes of its body.
    #[inline]
    pub(super) fn message(
        &mut self,
        index: usize,
        kind: PacketKind,
        imm: u32,
        len: usize,
        fill: &mut dyn FnMut(&mut [MaybeUninit<u8>]),
    ) -> bool {
        if self.links[index].deferred.is_some() || !self.slots.can_send() {
            return false;
        }
        let link = &mut self.links[index];
        let header = Header { from: self.pe, imm, number: link.sent, kind };
        let Some(slot) = self.slots.write(header.encode(self.shared.sealer.token), len, fill) else { return false };
        link.sent = link.sent.wrapping_add(1);
        // The peer of a `ByeAck` may close at once: this end must know that the answer has left.
        if !self.launch(index, slot, kind == PacketKind::ByeAck) {
            self.links[index].deferred = Some(slot);
            self.list(index);
        }
        true
    }

    /// Gives a message to the provider. `noted`: with a completion when it has left. `false`: the provider has no capacity.
    fn launch(&mut self, index: usize, slot: usize, noted: bool) -> bool {
        let Some(to) = self.address(index) else {
            self.slots.free(slot);
            self.lose(index, "its address cannot be used");
            return true;
        };
        let short = if noted { 0 } else { self.short };
        let number = u32::try_from(index).expect("links are counted in 32 bits");
        match self.slots.send(&self.lane, slot, number, to, short) {
            (Post::Taken, injected) => {
                self.links[index].flying += usize::from(!injected);
                true
            }
            (Post::Again, _) => false,
            (Post::Failed(error), _) => {
                self.slots.free(slot);
                tracing::debug!(error = self.lane.describe(error), "a send failed");
                self.lose(index, "it accepts no more messages");
                true
            }
        }
    }

    /// Sends what a link has to send, as far as there is capacity.
    pub(super) fn flush(&mut self, index: usize) {
        if let Some(slot) = self.links[index].deferred.take()
            && !self.launch(index, slot, true)
        {
            self.links[index].deferred = Some(slot);
            return;
        }
        while let Some(control) = self.links[index].control.front().copied() {
            if (!self.ordered && control.after > self.links[index].done) || !self.control(index, control) {
                break;
            }
            self.links[index].control.pop_front();
        }
        self.flush_waiting(index);
    }

    fn control(&mut self, index: usize, control: Control) -> bool {
        let body = control.question.map(|question| question.encode());
        let body = body.as_ref().map_or(&[][..], |body| body);
        self.message(index, control.kind, control.imm, body.len(), &mut |to| write_bytes(to, body))
    }

    /// Sends a message of the backend itself, now or later.
    pub(super) fn say(&mut self, index: usize, control: Control) {
        self.links[index].control.push_back(control);
        self.flush(index);
        if self.links[index].has_unsent() {
            self.list(index);
        }
    }

    /// Tries to send what could not be sent before.
    pub(super) fn flush_unsent(&mut self) {
        for index in std::mem::take(&mut self.unsent) {
            let at = index as usize;
            self.links[at].listed = false;
            self.flush(at);
            if self.links[at].has_unsent() {
                self.list(at);
            }
        }
    }

    // ---- arrivals --------------------------------------------------------------------------------------------

    fn post_receivers(&mut self) -> Result<(), TransportError> {
        while let Some(slot) = self.idle_receivers.pop() {
            match self.slots.receive(&self.lane, slot) {
                Post::Taken => {}
                Post::Again => {
                    self.idle_receivers.push(slot);
                    break;
                }
                Post::Failed(error) => return Err(Slots::describe(&self.lane, error, "fi_recv")),
            }
        }
        Ok(())
    }

    fn message_arrived(&mut self, slot: usize, len: usize) -> Result<(), TransportError> {
        let bytes = self.slots.received(slot, len);
        let Some((header, body)) = Header::decode(bytes, self.shared.sealer.token) else {
            tracing::warn!(len, "a message that does not belong to this job was dropped");
            return Ok(());
        };
        if header.from.0 >= self.shared.pes || header.from == self.pe {
            let detail = u64::from(header.from.0);
            return Err(TransportError::Protocol { from: header.from, what: "an impossible sender", detail });
        }
        let from = header.from;
        let index = self.peers.place(from, || self.links.push(Link::new(from)));
        let link = &mut self.links[index];
        if link.parting.is_lost() {
            return Ok(());
        }
        // Almost all are the next message of the user.
        if header.kind == PacketKind::Data && link.in_order.passes(header.number) {
            let msg = Msg::fill(&self.slab, body.len(), |to| write_bytes(to, body));
            self.ready.push(Event::Recv { from, imm: Imm(header.imm), msg });
            return Ok(());
        }
        let frame = Frame::new(&header, body, &self.slab)?;
        self.links[index].take(header.number, frame)?;
        while let Some(frame) = self.links[index].in_order.next() {
            self.deliver(index, frame)?;
        }
        Ok(())
    }

    #[inline]
    fn deliver(&mut self, index: usize, frame: Frame) -> Result<(), TransportError> {
        let link = &mut self.links[index];
        let from = link.peer;
        match frame {
            Frame::Data(imm, msg) => self.ready.push(Event::Recv { from, imm, msg }),
            Frame::Announce(imm) => self.ready.push(Event::PutArrived { from, imm }),
            Frame::Fill(imm, msg) => {
                if !self.windows.fill(&msg) {
                    let (what, detail) = ("a put to a window that was taken back", msg.len() as u64);
                    return Err(TransportError::Protocol { from, what, detail });
                }
                self.ready.push(Event::PutArrived { from, imm });
            }
            Frame::Ask(question) => {
                let kind = if self.windows.allows(question) { PacketKind::Granted } else { PacketKind::Refused };
                self.say(index, Control::of(kind));
            }
            Frame::Answer(granted) => self.answered(index, granted)?,
            Frame::Bye => {
                link.parting.hear();
                self.say(index, Control::of(PacketKind::ByeAck));
            }
            Frame::ByeAck => {
                if !link.parting.confirm() {
                    return Err(TransportError::Protocol {
                        from,
                        what: "the answer to a goodbye that was not sent",
                        detail: 0,
                    });
                }
            }
        }
        Ok(())
    }

    /// Takes completions and notifications, until there are `max` events or nothing more happens. If a read returns fewer completions than it could, it is
    /// not repeated: another read makes a provider look at all its sockets, which would delay what has come.
    pub(super) fn round(&mut self, max: usize) -> Result<(), TransportError> {
        if self.failures.round() {
            self.hear()?;
        }
        let watched = self.starving.watches(!self.unsent.is_empty());
        let mut happened = false;
        if !self.unsent.is_empty() {
            self.flush_unsent();
        }
        if !self.idle_receivers.is_empty() {
            self.post_receivers()?;
        }
        let mut batch = std::mem::take(&mut self.completions);
        let mut outcome = Ok(());
        while self.ready.len() < max && outcome.is_ok() {
            match self.lane.completions(&mut batch) {
                Ok(done) => {
                    happened |= !done.is_empty();
                    outcome = done.iter().try_for_each(|entry| self.completed(entry));
                    if done.len() < BATCH {
                        break;
                    }
                }
                Err(failed) => outcome = self.failed(failed),
            }
        }
        self.completions = batch;
        if watched && let Some(error) = self.starving.verdict(happened) {
            return Err(super::memory::lack(self.lane.info().library(), error, "a connection"));
        }
        outcome
    }

    #[inline]
    fn completed(&mut self, entry: &Completion) -> Result<(), TransportError> {
        let Some(slot) = self.slots.at(entry.op_context.addr()) else { return Ok(()) };
        match self.slots.complete(slot) {
            Op::Recv => {
                self.message_arrived(slot, entry.len)?;
                // It is posted to the provider again in the next round, so that arrivals do not wait for that.
                self.idle_receivers.push(slot);
            }
            Op::Send { link } => {
                self.slots.free(slot);
                self.links[link as usize].flying -= 1;
            }
            Op::Rma(rma) => {
                self.slots.free(slot);
                self.access_done(rma);
            }
            Op::Abandoned { .. } => self.slots.free(slot),
            Op::Free => tracing::warn!(slot, "a completion without an operation"),
        }
        Ok(())
    }

    #[cold]
    fn failed(&mut self, failed: Failed) -> Result<(), TransportError> {
        let text = self.lane.describe(failed.error);
        tracing::debug!(error = text, flags = failed.flags, "an operation failed");
        let Some(slot) = self.slots.at(failed.context) else {
            if failed.context == 0 && failed.error.0.cast_unsigned() != fi::FI_ECANCELED {
                return Err(Slots::describe(&self.lane, failed.error, "fi_cq_read"));
            }
            return Ok(());
        };
        match self.slots.complete(slot) {
            // Longer than any message of ours, or cut: from a stranger, or from a sender that has died.
            Op::Recv => self.idle_receivers.push(slot),
            Op::Send { link } => {
                self.slots.free(slot);
                self.links[link as usize].flying -= 1;
                self.lose(link as usize, "its connection broke");
            }
            Op::Rma(rma) => {
                self.slots.free(slot);
                self.access_failed(rma, failed.error);
            }
            Op::Abandoned { .. } => self.slots.free(slot),
            Op::Free => {}
        }
        Ok(())
    }

    #[cold]
    fn hear(&mut self) -> Result<(), TransportError> {
        for loss in self.failures.take()? {
            for pe in self.shared.layout.pes_of(loss.process) {
                let index = self.link_to(Pe(pe));
                self.lose(index, loss.why);
            }
        }
        Ok(())
    }

    fn post(
        &mut self,
        to: Pe,
        imm: Imm,
        len: usize,
        fill: &mut dyn FnMut(&mut [MaybeUninit<u8>]),
    ) -> Result<(), PostError<()>> {
        if len > BODY {
            return Err(PostError::TooLarge { max: BODY, buf: () });
        }
        if to == self.pe {
            let msg = Msg::fill(&self.slab, len, fill);
            self.ready.push(Event::Recv { from: to, imm, msg });
            return Ok(());
        }
        let (index, ()) = self.open_link(to, ())?;
        if self.message(index, PacketKind::Data, imm.0, len, fill) { Ok(()) } else { Err(PostError::Busy(())) }
    }
}

impl Endpoint for OfiEndpoint {
    fn pe(&self) -> Pe {
        self.pe
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn alloc(&mut self, len: usize) -> Option<RegBuf> {
        self.pool.alloc(len).ok()
    }

    fn inject(
        &mut self,
        to: Pe,
        imm: Imm,
        len: usize,
        fill: &mut dyn FnMut(&mut [MaybeUninit<u8>]),
    ) -> Result<(), PostError<()>> {
        self.post(to, imm, len, fill)
    }

    fn send(&mut self, to: Pe, imm: Imm, buf: RegBuf, _op: OpId) -> Result<Posted, PostError<RegBuf>> {
        match self.post(to, imm, buf.len(), &mut |body| write_bytes(body, &buf)) {
            Ok(()) => Ok(Posted::Done),
            Err(PostError::TooLarge { max, .. }) => Err(PostError::TooLarge { max, buf }),
            Err(PostError::PeerDown(pe, ())) => Err(PostError::PeerDown(pe, buf)),
            Err(_) => Err(PostError::Busy(buf)),
        }
    }

    fn expose(&mut self, buf: RegBuf) -> Result<Window, (TransportError, RegBuf)> {
        self.open_window(buf, false)
    }

    fn expose_for_long(&mut self, buf: RegBuf) -> Result<Window, (TransportError, RegBuf)> {
        self.open_window(buf, true)
    }

    fn unexpose(&mut self, window: Window) -> RegBuf {
        self.windows.close(window.id.0);
        window.into_buf()
    }

    fn put(
        &mut self,
        to: Pe,
        src: RegBuf,
        dst: &RemoteKey,
        offset: u64,
        imm: Option<Imm>,
        op: OpId,
    ) -> Result<Posted, PostError<RegBuf>> {
        self.access(to, src, dst, offset, op, true, imm)
    }

    fn get(
        &mut self,
        from: Pe,
        src: &RemoteKey,
        offset: u64,
        dst: RegBuf,
        op: OpId,
    ) -> Result<Posted, PostError<RegBuf>> {
        self.access(from, dst, src, offset, op, false, None)
    }

    fn progress(&mut self, out: &mut Vec<Event>, max: usize) -> Result<usize, TransportError> {
        self.round(max)?;
        Ok(self.ready.give(out, max))
    }

    fn arm(&mut self) -> bool {
        self.flush_unsent();
        let quiet = self.ready.is_empty() && self.unsent.is_empty() && self.idle_receivers.is_empty();
        // Events of the detector ring the doorbell.
        quiet && !self.failures.has_events() && (!self.lane.wakes() || self.lane.may_wait())
    }

    fn has_closed(&mut self, peer: Pe) -> bool {
        let index = self.link_to(peer);
        self.links[index].parting.is_gone()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.lane.wait_fd()
    }

    fn close(mut self: Box<Self>) -> Result<(), TransportError> {
        self.part()?;
        self.parted = true;
        Ok(())
    }
}

impl Drop for OfiEndpoint {
    fn drop(&mut self) {
        // Peers cannot reach any memory from here on, even if the rest fails.
        self.windows.clear();
        self.links.clear();
        if self.parted {
            self.sources.clear();
            self.keys.clear();
        }
        match Rc::get_mut(&mut self.lane).filter(|_| self.parted) {
            // In this order: posted operations use their buffers until the endpoint is closed, and the domain must be closed last.
            Some(lane) => {
                lane.close();
                self.slots.close_regions();
            }
            // This process ends abnormally: peers still use the endpoint, and operations may be in flight. Providers are known to crash when such an
            // endpoint is closed (rxm over verbs), and the process ends anyway.
            None => {
                self.slots.leak();
                #[expect(clippy::mem_forget, reason = "the device may still use its buffers")]
                std::mem::forget((
                    self.lane.clone(),
                    std::mem::take(&mut self.sources),
                    std::mem::take(&mut self.keys),
                ));
            }
        }
    }
}
