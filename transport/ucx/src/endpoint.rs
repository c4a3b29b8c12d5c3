//! One PE's end: posts, and how the endpoint opens and closes. [`operations`](super::operations) handles what follows a post.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::head::{Head, HeadKind, UNANSWERED};
use super::inbox::Inbox;
use super::operations::{Operation, Reply, What};
use super::peer::Peer;
use super::worker::{Began, Closed, Held, Worker};
use super::{FabricState, Protocol};
use charm4rs_transport_core::failure_detector::FailurePoll;
use charm4rs_transport_core::loopback;
use charm4rs_transport_core::memory::exposed::Windows;
use charm4rs_transport_core::memory::map::PAGE;
use charm4rs_transport_core::memory::pool::{Arena, Pool, fresh_tags};
use charm4rs_transport_core::memory::segment::{Segment, arena_bytes};
use charm4rs_transport_core::{
    Caps, Doorbell, Endpoint, EndpointBuilder, Event, Imm, Msg, OpId, Pe, PostError, Posted, RegBuf, RemoteKey,
    TransportError, Window,
};

/// The longest message that is written in place.
pub(super) const INJECT_MAX: usize = 8 << 10;
/// How long a PE that closes waits while no answer comes.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// How long an endpoint then waits until its last messages have left, while nothing happens. It gives up even if some may never leave.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);
const LOST_PATIENCE: Duration = Duration::from_millis(200);
/// How long bytes may be in flight into a window that is being taken back before the owner asks whether their sender is alive.
const WINDOW_PATIENCE: Duration = Duration::from_secs(1);

/// Becomes a [`UcxEndpoint`] on the PE's thread.
#[derive(Debug)]
pub(super) struct UcxBuilder {
    pub(super) pe: Pe,
    pub(super) caps: Caps,
    pub(super) worker: Closed,
    pub(super) pass: u64,
    pub(super) shared: Arc<FabricState>,
}

impl EndpointBuilder for UcxBuilder {
    fn build(self: Box<Self>, doorbell: &Doorbell) -> Result<Box<dyn Endpoint>, TransportError> {
        let Self { pe, caps, worker, pass, shared } = *self;
        let layout = &shared.config.layout;
        let [a, b, c, d, ..] = charm4rs_transport_core::auth::random_bytes()?;
        let pes_here = layout.pes_of_host(layout.host_of(shared.config.process));
        let segment = Arc::new(Segment::private(PAGE, arena_bytes(pes_here.end - pes_here.start))?);
        let pool = Pool::new(pe, Arc::new(Arena::new(segment, fresh_tags())));
        let inbox = Inbox::new(pass, layout.pes(), u32::from_le_bytes([a, b, c, d]), pool);
        let worker = worker.open(inbox).map_err(super::failed)?;
        let failures = shared.config.detector.as_ref().map(|detector| detector.subscribe(pe, doorbell));
        Ok(Box::new(UcxEndpoint {
            me: pe,
            caps,
            worker,
            shared,
            peers: Vec::new(),
            operations: Vec::new(),
            replies: HashMap::new(),
            next_reply: 0,
            graves: Vec::new(),
            copies: 0,
            failures: FailurePoll::new(failures),
            fatal: None,
        }))
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct UcxEndpoint {
    pub(super) me: Pe,
    pub(super) caps: Caps,
    pub(super) worker: Worker,
    pub(super) shared: Arc<FabricState>,
    pub(super) peers: Vec<Peer>,
    /// Operations in flight, by the worker's numbers.
    pub(super) operations: Vec<Option<Operation>>,
    /// Puts and gets that wait for an answer, by their numbers.
    pub(super) replies: HashMap<u64, Reply>,
    pub(super) next_reply: u64,
    /// Memory of windows that were given up while a peer may still write there.
    graves: Vec<RegBuf>,
    /// Messages of `UcxConfig::collected_min` bytes or more that arrived as a copy.
    pub(super) copies: u64,
    /// Reports processes that are gone.
    pub(super) failures: FailurePoll,
    pub(super) fatal: Option<TransportError>,
}

impl UcxEndpoint {
    /// The state of a peer.
    #[inline]
    pub(super) fn peer(&mut self, pe: Pe) -> usize {
        let index = self.worker.inbox().sender(pe);
        if index >= self.peers.len() {
            self.meet();
        }
        index
    }

    /// Adds peers that have sent something, but to which nothing was sent yet.
    fn meet(&mut self) {
        let inbox = self.worker.inbox();
        let addresses = self.shared.addresses.get().expect("wire-up has set all addresses");
        let new = &inbox.senders[self.peers.len()..];
        self.peers.extend(new.iter().map(|sender| Peer::new(sender.pe, addresses[sender.pe.0 as usize].0)));
    }

    /// Makes the connection to a peer, if there is none.
    #[cold]
    pub(super) fn connect(&mut self, index: usize) -> bool {
        let pe = self.peers[index].pe;
        let config = &self.shared.config;
        let layout = &config.layout;
        let near = layout.host_of(layout.process_of(pe)) == layout.host_of(config.process);
        let addresses = self.shared.addresses.get().expect("wire-up has set all addresses");
        let address = &addresses[pe.0 as usize].1;
        let name = u32::try_from(index).expect("PEs are counted in 32 bits");
        match self.worker.connect(address, name, config.watch_near || !near) {
            Ok(connection) => {
                self.peers[index].connection = Some(connection);
                true
            }
            Err(failure) => {
                // UCX returns the same error for both; its log may have more.
                tracing::debug!(%pe, failure.call, words = self.worker.words(failure.status), "connect");
                if let Some(lack) = super::lack(failure.call, failure.status) {
                    self.fatal.get_or_insert(lack);
                }
                self.lose(index, "it is gone, or UCX has no way to it (see UCX_TLS)");
                false
            }
        }
    }

    /// The peer for a post, if it can accept one now.
    #[inline]
    fn open_for_post<B>(&mut self, to: Pe, buf: B) -> Result<(usize, B), PostError<B>> {
        let index = self.peer(to);
        let peer = &self.peers[index];
        if peer.parting.is_lost() {
            return Err(self.gone(to, buf));
        }
        if peer.connection.is_none() && !peer.parting.is_gone() && !self.connect(index) {
            return Err(self.gone(to, buf));
        }
        if !self.peers[index].has_room(self.shared.config.credit) {
            return Err(PostError::Busy(buf));
        }
        Ok((index, buf))
    }

    /// Why a post to a lost peer fails: the peer is gone, or this endpoint ends for another reason, which the next round reports.
    #[cold]
    fn gone<B>(&self, pe: Pe, buf: B) -> PostError<B> {
        if self.fatal.is_some() { PostError::Busy(buf) } else { PostError::PeerDown(pe, buf) }
    }

    /// As [`Self::open_for_post`], but also refuses a peer that has said goodbye, since it does not answer any more.
    fn open_for_window<B>(&mut self, to: Pe, buf: B) -> Result<(usize, B), PostError<B>> {
        let (index, buf) = self.open_for_post(to, buf)?;
        if self.peers[index].parting.has_closed() { Err(PostError::PeerDown(to, buf)) } else { Ok((index, buf)) }
    }

    /// The head of a message to a peer.
    #[inline]
    pub(super) fn head(&self, index: usize, kind: HeadKind, imm: Imm, number: u32, words: [u64; 3]) -> Head {
        Head { pass: self.peers[index].pass, from: self.me, imm, number, kind, words }
    }

    /// Starts an operation. `Err`: the peer is lost, and the buffer comes back.
    #[inline]
    pub(super) fn begin(&mut self, index: usize, head: &Head, held: Held, what: What) -> Result<Began, Held> {
        let len = held.len();
        let Some(connection) = &self.peers[index].connection else { return Err(held) };
        match self.worker.send(connection, head, held, self.shared.config.protocol(len)) {
            Began::On(slot) => {
                self.note(slot, Operation { peer: index, len, what });
                Ok(Began::On(slot))
            }
            Began::Done(held) => Ok(Began::Done(held)),
            Began::Failed(status, held) => {
                self.fails(index, status);
                Err(held)
            }
        }
    }

    /// Records an operation in flight.
    pub(super) fn note(&mut self, slot: u32, operation: Operation) {
        let peer = &mut self.peers[operation.peer];
        peer.operations += 1;
        peer.bytes += operation.len;
        let slot = slot as usize;
        if self.operations.len() <= slot {
            self.operations.resize_with(slot + 1, || None);
        }
        self.operations[slot] = Some(operation);
    }

    /// Sends a message of the endpoint itself.
    pub(super) fn control(&mut self, index: usize, kind: HeadKind, number: u32, words: [u64; 3]) {
        if self.peers[index].parting.is_lost() || self.peers[index].connection.is_none() && !self.connect(index) {
            return;
        }
        let head = self.head(index, kind, Imm(0), number, words);
        // If the peer is lost, that has been recorded.
        let _ = self.begin(index, &head, Held::Nothing, What::Control);
    }

    /// Records an operation that waits for an answer, and returns its number.
    fn reply(&mut self, reply: Reply) -> u64 {
        self.next_reply += 1;
        self.replies.insert(self.next_reply, reply);
        self.next_reply
    }

    /// Whether nothing has happened, and nothing waits to be handled.
    fn is_idle(&mut self) -> bool {
        self.worker.progress() == 0 && self.worker.is_quiet()
    }

    fn say_goodbye(&mut self) {
        self.meet();
        for index in 0..self.peers.len() {
            if !self.peers[index].parting.is_gone() {
                let number = self.peers[index].next_message;
                self.peers[index].parting.say();
                self.control(index, HeadKind::Bye, number, [0; 3]);
            }
        }
    }

    /// A value that changes as long as closing makes progress.
    fn unfinished(&self) -> usize {
        self.replies.len() + self.peers.iter().map(|peer| peer.operations + usize::from(!peer.is_done())).sum::<usize>()
    }

    /// A peer that has not yet accepted what was sent to it.
    fn awaited(&self) -> Option<Pe> {
        let asked = |index| self.replies.values().any(|reply| reply.peer == index);
        let waits = |(index, peer): &(usize, &Peer)| !peer.is_done() || !peer.parting.is_gone() && asked(*index);
        self.peers.iter().enumerate().find(waits).map(|(_, peer)| peer.pe)
    }

    fn drain(&mut self) -> Result<(), TransportError> {
        let (mut left, mut since) = (usize::MAX, Instant::now());
        while let Some(pe) = self.awaited() {
            self.round()?;
            self.worker.inbox().ready.clear();
            let now = self.unfinished();
            if now != left {
                (left, since) = (now, Instant::now());
            } else if since.elapsed() > CLOSE_PATIENCE {
                return Err(TransportError::PeerDown { pe, why: "it does not accept what was sent to it" });
            }
            std::thread::yield_now();
        }
        Ok(())
    }
}

impl Endpoint for UcxEndpoint {
    fn pe(&self) -> Pe {
        self.me
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn alloc(&mut self, len: usize) -> Option<RegBuf> {
        self.worker.inbox().pool.alloc(len).inspect_err(|error| tracing::debug!(%error, len, "pool")).ok()
    }

    #[inline]
    fn inject(
        &mut self,
        to: Pe,
        imm: Imm,
        len: usize,
        fill: &mut dyn FnMut(&mut [MaybeUninit<u8>]),
    ) -> Result<(), PostError<()>> {
        if len > INJECT_MAX {
            return Err(PostError::TooLarge { max: INJECT_MAX, buf: () });
        }
        if to == self.me {
            let msg = Msg::fill(&self.worker.inbox().slab, len, fill);
            self.worker.inbox().ready.push(Event::Recv { from: to, imm, msg });
            return Ok(());
        }
        let (index, ()) = self.open_for_post(to, ())?;
        if self.peers[index].parting.has_closed() {
            return Ok(());
        }
        let head = self.head(index, HeadKind::Message, imm, self.peers[index].next_message, [0; 3]);
        // Without a connection the peer has just been lost, which is reported.
        let Some(connection) = &self.peers[index].connection else { return Ok(()) };
        let began = self.worker.inject(connection, &head, len, fill);
        // It was filled, so it counts as sent.
        self.peers[index].next_message = head.number.wrapping_add(1);
        match began {
            Ok(None) => {}
            Ok(Some(slot)) => self.note(slot, Operation { peer: index, len, what: What::Inject }),
            Err(status) => self.fails(index, status),
        }
        Ok(())
    }

    fn send(&mut self, to: Pe, imm: Imm, buf: RegBuf, op: OpId) -> Result<Posted, PostError<RegBuf>> {
        if to == self.me {
            self.worker.inbox().ready.push(Event::Recv { from: to, imm, msg: Msg::from(buf) });
            return Ok(Posted::Done);
        }
        let (index, buf) = self.open_for_post(to, buf)?;
        if self.peers[index].parting.has_closed() {
            return Ok(Posted::Done);
        }
        let mut words = [0; 3];
        if self.shared.config.protocol(buf.len()) != Protocol::Eager {
            self.next_reply += 1;
            words[2] = self.next_reply;
        }
        let head = self.head(index, HeadKind::Message, imm, self.peers[index].next_message, words);
        match self.begin(index, &head, Held::Buf(buf), What::Send { op, number: words[2], refused: false }) {
            Ok(began) => {
                self.peers[index].next_message = head.number.wrapping_add(1);
                Ok(if matches!(began, Began::On(_)) { Posted::Pending } else { Posted::Done })
            }
            Err(held) => Err(self.gone(to, held.into_buf())),
        }
    }

    fn expose(&mut self, buf: RegBuf) -> Result<Window, (TransportError, RegBuf)> {
        let (id, key) = self.worker.inbox().windows.add(&buf, false);
        Ok(Window::new(id, key, buf))
    }

    fn expose_for_long(&mut self, buf: RegBuf) -> Result<Window, (TransportError, RegBuf)> {
        let (id, key) = self.worker.inbox().windows.add(&buf, true);
        Ok(Window::new(id, key, buf))
    }

    fn unexpose(&mut self, window: Window) -> RegBuf {
        let since = Instant::now();
        while !self.worker.inbox().windows.close(window.id) {
            if let Err(error) = self.round() {
                self.fatal.get_or_insert(error);
            }
            let lost = self.peers.iter().find(|peer| peer.parting.is_lost()).map(|peer| peer.pe);
            if let Some(pe) = lost.filter(|_| since.elapsed() > WINDOW_PATIENCE) {
                // It is unknown whether this peer was inside, so the memory is never used again, and the job ends.
                self.fatal.get_or_insert(TransportError::PeerDown { pe, why: "it ended while it wrote to this PE" });
                let stand_in = RegBuf::heap(window.len());
                self.graves.push(window.into_buf());
                return stand_in;
            }
            std::thread::yield_now();
        }
        self.worker.inbox().windows.remove(window.id);
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
        let Some(window) = Windows::number(dst, offset, src.len()) else { return Err(PostError::BadKey(src)) };
        if to == self.me {
            let Inbox { windows, ready, .. } = &mut *self.worker.inbox();
            let memory = windows.memory(window, offset, src.len() as u64);
            return loopback::put(memory, src, to, imm, op, ready);
        }
        let (index, src) = self.open_for_window(to, src)?;
        // A put to a persistent window is complete when UCX has released its bytes, unless it is not announced.
        let answered = !Windows::lasts(window) || imm.is_none();
        let answer = (!answered).then_some(true);
        let number = self.reply(Reply { op, peer: index, is_get: false, buf: None, answer });
        let kind = if imm.is_some() { HeadKind::Put } else { HeadKind::QuietPut };
        let words = [window, offset, if answered { number } else { UNANSWERED }];
        let head = self.head(index, kind, imm.unwrap_or_default(), self.peers[index].next_put, words);
        match self.begin(index, &head, Held::Buf(src), What::Put(number)) {
            Ok(began) => {
                self.peers[index].next_put = head.number.wrapping_add(1);
                let Began::Done(held) = began else { return Ok(Posted::Pending) };
                if !answered {
                    self.replies.remove(&number);
                    return Ok(Posted::Done);
                }
                if let Some(reply) = self.replies.get_mut(&number) {
                    reply.buf = Some(held.into_buf());
                }
                Ok(Posted::Pending)
            }
            Err(held) => {
                self.replies.remove(&number);
                Err(self.gone(to, held.into_buf()))
            }
        }
    }

    fn get(
        &mut self,
        from: Pe,
        src: &RemoteKey,
        offset: u64,
        dst: RegBuf,
        op: OpId,
    ) -> Result<Posted, PostError<RegBuf>> {
        let Some(window) = Windows::number(src, offset, dst.len()) else { return Err(PostError::BadKey(dst)) };
        if from == self.me {
            let Inbox { windows, ready, .. } = &mut *self.worker.inbox();
            let memory = windows.memory(window, offset, dst.len() as u64);
            return loopback::get(memory, dst, op, ready);
        }
        let Ok(len) = u32::try_from(dst.len()) else {
            return Err(PostError::TooLarge { max: u32::MAX as usize, buf: dst });
        };
        let (index, dst) = self.open_for_window(from, dst)?;
        let number = self.reply(Reply { op, peer: index, is_get: true, buf: Some(dst), answer: None });
        let head = self.head(index, HeadKind::Get, Imm(0), len, [window, offset, number]);
        match self.begin(index, &head, Held::Nothing, What::Control) {
            Ok(_) => Ok(Posted::Pending),
            Err(_) => {
                let buf = self.replies.remove(&number).and_then(|reply| reply.buf);
                Err(self.gone(from, buf.expect("it was stored there, and not taken since")))
            }
        }
    }

    fn progress(&mut self, out: &mut Vec<Event>, max: usize) -> Result<usize, TransportError> {
        if self.worker.inbox().ready.len() < max {
            self.round()?;
        }
        Ok(self.worker.inbox().ready.give(out, max))
    }

    fn arm(&mut self) -> bool {
        let quiet = self.fatal.is_none() && !self.failures.has_events();
        // Sockets are watched for edges: an event that is left over from an old edge wakes no thread. A completion of a device just before it is armed
        // does not wake either. So this checks once more.
        quiet && self.is_idle() && self.worker.arm() && self.is_idle()
    }

    fn has_closed(&mut self, peer: Pe) -> bool {
        let index = self.peer(peer);
        self.peers[index].parting.is_gone()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.worker.fd())
    }

    fn copies(&self) -> u64 {
        self.copies
    }

    fn close(mut self: Box<Self>) -> Result<(), TransportError> {
        self.say_goodbye();
        self.drain()
    }
}

impl Drop for UcxEndpoint {
    /// Gives its last messages a short time to leave. UCX before 1.14 does not tolerate that a connection ends while it is being made, so an
    /// endpoint that was not closed waits, too.
    fn drop(&mut self) {
        self.worker.flush();
        let lost = self.peers.iter().any(|peer| peer.parting.is_lost());
        let patience = if lost { LOST_PATIENCE } else { FLUSH_PATIENCE };
        let mut since = Instant::now();
        while !self.worker.has_flushed() && since.elapsed() < patience {
            if self.worker.progress() > 0 && !lost {
                since = Instant::now();
            }
            std::thread::yield_now();
        }
    }
}
