//! One PE's end: posts go to links, and a round of progress looks at those links where something may have happened.
//!
//! A round handles the mail of the helper, and links with something to write. It reads up to [`HOT_MAX`] *hot* links without asking whether there is anything
//! (an empty read costs no more than asking). Now and then, or always when nothing is hot, it asks epoll about all others, so
//! a thousand idle connections cost as much as none. At the end it writes what was posted during the round.
//!
//! The first post to a link in a round is written at once, for latency. Later ones wait for the round's end and leave
//! in one system call, for throughput.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::io::Errno;

use super::frame::{ACK_NOW, ANNOUNCE, Format, FrameKind, Head, UNANSWERED};
use super::helper::Handle;
use super::link::{Core, Link, SMALL_MAX, State};
use super::operations::{Operations, Pending};
use super::outbox::Then;
use super::pool::Pool;
use super::read::{Read, SCRATCH};
use super::shared::{Mail, Shared};
use charm4rs_transport_core::event_queue::EventQueue;
use charm4rs_transport_core::loopback;
use charm4rs_transport_core::memory::exposed::Windows;
use charm4rs_transport_core::memory::{Msg, RegBuf, Slab};
use charm4rs_transport_core::{
    Caps, Doorbell, Endpoint, EndpointBuilder, Event, Imm, OpId, Pe, PostError, Posted, RemoteKey, TransportError,
    Window,
};

/// Links that are read in every round.
const HOT_MAX: usize = 2;
/// A link is no longer hot after this many rounds without data.
const HOT_MISSES: u32 = 4096;
/// While some link is hot, the others are checked every so many rounds.
const EPOLL_EVERY: u32 = 8;
/// No more than this, and one message, is queued behind a full socket. The sender must notice that the socket is full, instead of writing
/// ahead into memory that is not in cache.
const UNWRITTEN_MAX: usize = 256 << 10;
/// Bytes of posts in one round that are written together.
const BATCH: usize = 32 << 10;
/// A send of at least this size is pending until acknowledged, so that its sender can learn that the receiver has no memory for it.
const CONFIRMED: usize = 1 << 20;
/// Up to this many blocked links are retried every round; with more of them, epoll reports when they are writable.
const RETRY_MAX: usize = 4;
/// How long a PE that closes waits while no acknowledgement comes.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Becomes a [`TcpEndpoint`] on the PE's thread.
#[derive(Debug)]
pub(super) struct TcpBuilder {
    pub(super) pe: Pe,
    pub(super) caps: Caps,
    pub(super) handle: Arc<Handle>,
}

impl EndpointBuilder for TcpBuilder {
    fn build(self: Box<Self>, doorbell: &Doorbell) -> Result<Box<dyn Endpoint>, TransportError> {
        let shared = self.handle.shared.clone();
        let [a, b, c, d, ..] = charm4rs_transport_core::auth::random_bytes()?;
        let core = core(self.pe, shared.clone(), u32::from_le_bytes([a, b, c, d]))?;
        if let Some(mailbox) = shared.mailbox(self.pe) {
            mailbox.open(doorbell);
        }
        Ok(Box::new(TcpEndpoint {
            caps: self.caps,
            core,
            links: Vec::new(),
            index: HashMap::new(),
            last: None,
            hot: Vec::new(),
            round: 0,
            blocked: Vec::new(),
            owing: Vec::new(),
            epoll_events: Vec::with_capacity(64),
            _handle: self.handle,
        }))
    }
}

/// The state that the links of a PE share, initially empty. Windows' generations start after `generation`.
pub(super) fn core(me: Pe, shared: Arc<Shared>, generation: u32) -> Result<Core, TransportError> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| TransportError::system("epoll_create", e))?;
    Ok(Core {
        me,
        format: Format { checksum: shared.config.checksum, message_max: shared.config.message_max },
        shared,
        slab: Slab::new(),
        pool: Pool::new(),
        windows: Windows::new(generation),
        operations: Operations::default(),
        ready: EventQueue::default(),
        scratch: vec![0; SCRATCH].into(),
        epoll,
        touched: Vec::new(),
    })
}

/// A link that is read in every round.
#[derive(Debug)]
struct Hot {
    link: u32,
    misses: u32,
}

/// See the module's text.
pub(super) struct TcpEndpoint {
    caps: Caps,
    core: Core,
    links: Vec<Link>,
    index: HashMap<Pe, u32>,
    /// The link of the last post.
    last: Option<(Pe, u32)>,
    hot: Vec<Hot>,
    round: u32,
    /// Links whose socket is full.
    blocked: Vec<u32>,
    /// Links that owe an acknowledgement, which is sent when there is nothing else to do.
    owing: Vec<u32>,
    epoll_events: Vec<epoll::Event>,
    /// Keeps the helper running.
    _handle: Arc<Handle>,
}

impl std::fmt::Debug for TcpEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpEndpoint").field("core", &self.core).field("links", &self.links).finish_non_exhaustive()
    }
}

impl TcpEndpoint {
    fn shared(&self) -> &Shared {
        &self.core.shared
    }

    /// The link to a PE. If there was none it is made, not yet connected.
    #[inline]
    fn link_to(&mut self, peer: Pe) -> usize {
        if let Some((pe, index)) = self.last
            && pe == peer
        {
            return index as usize;
        }
        let links = &mut self.links;
        let format = self.core.format;
        let index = *self.index.entry(peer).or_insert_with(|| {
            let index = u32::try_from(links.len()).expect("PEs are counted in 32 bits");
            links.push(Link::new(peer, index, format));
            index
        });
        self.last = Some((peer, index));
        index as usize
    }

    /// The link for a post, if it can accept one now.
    #[inline]
    fn open_for_post<B>(&mut self, to: Pe, buf: B) -> Result<(usize, B), PostError<B>> {
        let index = self.link_to(to);
        let link = &self.links[index];
        if link.parting.is_gone() {
            return Err(PostError::PeerDown(to, buf));
        }
        if link.outbox.held() >= self.core.shared.config.credit || link.outbox.unwritten() >= UNWRITTEN_MAX {
            return Err(PostError::Busy(buf));
        }
        Ok((index, buf))
    }

    /// Called after a post. Writes it now if it is the first of this round, or if much is queued.
    #[inline]
    fn posted(&mut self, index: usize) {
        let link = &mut self.links[index];
        let first = !link.touched;
        link.touch(&mut self.core);
        if link.state == State::Down {
            link.dial(&mut self.core);
        } else if !link.blocked && (first || link.outbox.unwritten() >= BATCH) {
            // An error is reported again at the round's end.
            let _ = link.flush(&mut self.core);
        }
    }

    /// Posts a frame with a body; `confirmed`: the operation that is complete when the frame has been acknowledged.
    fn push(&mut self, index: usize, mut head: Head, body: RegBuf, confirmed: Option<OpId>) -> Posted {
        let outbox = &mut self.links[index].outbox;
        let posted = if let Some(op) = confirmed {
            head.flags |= ACK_NOW;
            outbox.push_large(head, body, Then::Sent(op));
            Posted::Pending
        } else {
            if body.len() <= SMALL_MAX {
                outbox
                    .push(head, body.len(), |to| to.iter_mut().zip(&*body).for_each(|(to, from)| _ = to.write(*from)));
            } else {
                outbox.push_large(head, body, Then::Drop);
            }
            Posted::Done
        };
        self.posted(index);
        posted
    }

    /// The end of a round, or the start of the next one: writes what was posted, and acknowledges.
    fn flush_touched(&mut self, idle: bool) -> Result<(), TransportError> {
        let mut at = 0;
        while let Some(&index) = self.core.touched.get(at) {
            at += 1;
            self.look_after(index, idle)?;
        }
        self.core.touched.clear();
        Ok(())
    }

    fn look_after(&mut self, index: u32, idle: bool) -> Result<(), TransportError> {
        let link = &mut self.links[index as usize];
        link.touched = false;
        let was_blocked = link.blocked;
        if link.acknowledge(&self.core, idle) && !self.owing.contains(&index) {
            self.owing.push(index);
        }
        if link.outbox.has_unwritten() || !link.serving.is_empty() {
            link.flush(&mut self.core)?;
        }
        if link.blocked && (!was_blocked || !self.blocked.contains(&index)) {
            self.blocked.push(index);
        }
        Ok(())
    }

    fn retry_blocked(&mut self) -> Result<(), TransportError> {
        let ask_epoll = self.blocked.len() > RETRY_MAX;
        let mut blocked = std::mem::take(&mut self.blocked);
        let mut outcome = Ok(());
        blocked.retain(|&index| {
            let link = &mut self.links[index as usize];
            if outcome.is_ok() && link.blocked && !(ask_epoll && link.watches_out) {
                outcome = link.flush(&mut self.core);
                if outcome.is_ok() && link.blocked && ask_epoll {
                    outcome = link.watch_out(&self.core, true);
                }
            }
            if !link.blocked && outcome.is_ok() {
                outcome = link.watch_out(&self.core, false);
            }
            link.blocked
        });
        self.blocked = blocked;
        outcome
    }

    fn read(&mut self, index: u32) -> Result<Read, TransportError> {
        self.links[index as usize].read(&mut self.core)
    }

    fn read_hot(&mut self, max: usize) -> Result<(), TransportError> {
        let mut at = 0;
        while at < self.hot.len() && self.core.ready.len() < max {
            let index = self.hot[at].link;
            let something = self.read(index)? == Read::Some;
            let hot = &mut self.hot[at];
            hot.misses = if something { 0 } else { hot.misses + 1 };
            if hot.misses > HOT_MISSES || self.links[index as usize].socket.is_none() {
                self.links[index as usize].hot = false;
                self.hot.swap_remove(at);
            } else {
                at += 1;
            }
        }
        Ok(())
    }

    /// Asks epoll about all links.
    fn read_ready(&mut self, max: usize) -> Result<(), TransportError> {
        let mut events = std::mem::take(&mut self.epoll_events);
        events.clear();
        let polled = epoll::wait(&self.core.epoll, rustix::buffer::spare_capacity(&mut events), Some(&NOW));
        let mut outcome = match polled {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(TransportError::system("epoll_wait", e)),
        };
        for event in &events {
            if outcome.is_err() || self.core.ready.len() >= max {
                break;
            }
            let token = event.data.u64();
            let index = u32::try_from(token).expect("tokens are indices of links");
            outcome = self.on_event(index, event.flags);
        }
        self.epoll_events = events;
        outcome
    }

    fn on_event(&mut self, index: u32, flags: epoll::EventFlags) -> Result<(), TransportError> {
        let link = &mut self.links[index as usize];
        if flags.contains(epoll::EventFlags::OUT) {
            link.flush(&mut self.core)?;
            if !link.blocked {
                link.watch_out(&self.core, false)?;
            }
        }
        if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR)
            && !link.hot
            && self.read(index)? == Read::Some
            && self.links[index as usize].socket.is_some()
        {
            self.heat(index);
        }
        Ok(())
    }

    /// Makes a link hot, in place of the one that had no data for the longest time.
    fn heat(&mut self, link: u32) {
        let hot = Hot { link, misses: 0 };
        if self.hot.len() < HOT_MAX {
            self.hot.push(hot);
        } else if let Some(coldest) = self.hot.iter_mut().max_by_key(|hot| hot.misses)
            && coldest.misses > EPOLL_EVERY
        {
            self.links[coldest.link as usize].hot = false;
            *coldest = hot;
        } else {
            return;
        }
        self.links[link as usize].hot = true;
    }

    #[cold]
    fn take_mail(&mut self) -> Result<(), TransportError> {
        let mail = self.core.shared.mailbox(self.core.me).map(super::shared::Mailbox::take).unwrap_or_default();
        for item in mail {
            match item {
                Mail::Connected { peer, generation, dialed, socket } => {
                    let index = self.link_to(peer);
                    self.links[index].adopt(&mut self.core, socket, generation, dialed)?;
                }
                Mail::DialFailed { peer, generation, why } => {
                    let index = self.link_to(peer);
                    self.links[index].dial_failed(&mut self.core, generation, why);
                }
                Mail::Lost { process, why } => {
                    for pe in self.shared().config.layout.pes_of(process) {
                        let index = self.link_to(Pe(pe));
                        self.links[index].lose(&mut self.core, why);
                    }
                }
                Mail::Fatal(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Checks everything once.
    fn round(&mut self, max: usize) -> Result<(), TransportError> {
        if self.core.shared.mailbox(self.core.me).is_some_and(super::shared::Mailbox::has_mail) {
            self.take_mail()?;
        }
        self.flush_touched(false)?;
        if !self.blocked.is_empty() {
            self.retry_blocked()?;
        }
        if self.core.ready.len() < max {
            let before = self.core.ready.len();
            self.read_hot(max)?;
            self.round = self.round.wrapping_add(1);
            if self.hot.is_empty() || (self.hot.len() < self.links.len() && self.round.is_multiple_of(EPOLL_EVERY)) {
                self.read_ready(max)?;
            }
            if self.core.ready.len() == before && !self.owing.is_empty() {
                for index in std::mem::take(&mut self.owing) {
                    self.look_after(index, true)?;
                }
            }
        }
        self.flush_touched(false)
    }

    /// Delivers a message of a PE to itself.
    fn loop_back(&mut self, imm: Imm, buf: RegBuf) {
        self.core.ready.push(Event::Recv { from: self.core.me, imm, msg: Msg::from(buf) });
    }

    /// Whether everything was sent and acknowledged, except for peers that no longer listen.
    fn is_drained(&self) -> bool {
        self.links.iter().all(|link| link.parting.is_gone() || link.outbox.is_acknowledged())
    }

    fn unacknowledged(&self) -> usize {
        self.links.iter().filter(|link| !link.parting.is_gone()).map(|link| link.outbox.held()).sum()
    }

    fn drain(&mut self) -> Result<(), TransportError> {
        let mut left = usize::MAX;
        let mut since = Instant::now();
        while !self.is_drained() {
            self.round(usize::MAX)?;
            self.core.ready.clear();
            let now = self.unacknowledged();
            if now < left {
                (left, since) = (now, Instant::now());
            } else if since.elapsed() > CLOSE_PATIENCE {
                let pe = self.links.iter().find(|link| !link.parting.is_gone() && !link.outbox.is_acknowledged());
                let pe = pe.map_or(self.core.me, |link| link.peer);
                return Err(TransportError::PeerDown { pe, why: "it does not accept what was sent to it" });
            }
            if !self.is_drained() {
                // The other end may need this core.
                std::thread::yield_now();
            }
        }
        Ok(())
    }
}

const NOW: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };

impl Endpoint for TcpEndpoint {
    fn pe(&self) -> Pe {
        self.core.me
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn alloc(&mut self, len: usize) -> Option<RegBuf> {
        self.core.pool.take(len)
    }

    #[inline]
    fn inject(
        &mut self,
        to: Pe,
        imm: Imm,
        len: usize,
        fill: &mut dyn FnMut(&mut [MaybeUninit<u8>]),
    ) -> Result<(), PostError<()>> {
        if len > SMALL_MAX {
            return Err(PostError::TooLarge { max: SMALL_MAX, buf: () });
        }
        if to == self.core.me {
            let msg = Msg::fill(&self.core.slab, len, fill);
            self.core.ready.push(Event::Recv { from: to, imm, msg });
            return Ok(());
        }
        let (index, ()) = self.open_for_post(to, ())?;
        let link = &mut self.links[index];
        let mut head = link.head(FrameKind::Data, len);
        head.imm = imm.0;
        link.outbox.push(head, len, fill);
        self.posted(index);
        Ok(())
    }

    fn send(&mut self, to: Pe, imm: Imm, buf: RegBuf, op: OpId) -> Result<Posted, PostError<RegBuf>> {
        if buf.len() > self.caps.send_max {
            return Err(PostError::TooLarge { max: self.caps.send_max, buf });
        }
        if to == self.core.me {
            self.loop_back(imm, buf);
            return Ok(Posted::Done);
        }
        let (index, buf) = self.open_for_post(to, buf)?;
        let mut head = self.links[index].head(FrameKind::Data, buf.len());
        head.imm = imm.0;
        let confirmed = buf.len() >= CONFIRMED;
        Ok(self.push(index, head, buf, confirmed.then_some(op)))
    }

    fn expose(&mut self, buf: RegBuf) -> Result<Window, (TransportError, RegBuf)> {
        let (id, key) = self.core.windows.add(&buf, false);
        Ok(Window::new(id, key, buf))
    }

    fn expose_for_long(&mut self, buf: RegBuf) -> Result<Window, (TransportError, RegBuf)> {
        let (id, key) = self.core.windows.add(&buf, true);
        Ok(Window::new(id, key, buf))
    }

    fn unexpose(&mut self, window: Window) -> RegBuf {
        self.core.windows.remove(window.id);
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
        if src.len() > self.caps.put_max {
            return Err(PostError::TooLarge { max: self.caps.put_max, buf: src });
        }
        let Some(window) = Windows::number(dst, offset, src.len()) else { return Err(PostError::BadKey(src)) };
        if to == self.core.me {
            let memory = self.core.windows.memory(window, offset, src.len() as u64);
            return loopback::put(memory, src, to, imm, op, &mut self.core.ready);
        }
        let (index, src) = self.open_for_post(to, src)?;
        let link = &mut self.links[index];
        let mut head = link.head(FrameKind::Put, src.len());
        head.words = [window, offset, UNANSWERED, 0];
        if let Some(imm) = imm {
            (head.imm, head.flags) = (imm.0, ANNOUNCE);
        }
        if Windows::lasts(window) {
            // A put that is not announced is complete when it has arrived.
            let confirmed = imm.is_none() || src.len() >= CONFIRMED;
            return Ok(self.push(index, head, src, confirmed.then_some(op)));
        }
        let operation = self.core.operations.add(Pending { op, peer: to, buf: None, received: 0, is_get: false });
        head.words[2] = operation;
        link.outbox.push_large(head, src, Then::Keep(operation));
        self.posted(index);
        Ok(Posted::Pending)
    }

    fn get(
        &mut self,
        from: Pe,
        src: &RemoteKey,
        offset: u64,
        dst: RegBuf,
        op: OpId,
    ) -> Result<Posted, PostError<RegBuf>> {
        if dst.len() > self.caps.put_max {
            return Err(PostError::TooLarge { max: self.caps.put_max, buf: dst });
        }
        let Some(window) = Windows::number(src, offset, dst.len()) else { return Err(PostError::BadKey(dst)) };
        if from == self.core.me {
            let memory = self.core.windows.memory(window, offset, dst.len() as u64);
            return loopback::get(memory, dst, op, &mut self.core.ready);
        }
        let (index, dst) = self.open_for_post(from, dst)?;
        let len = dst.len() as u64;
        let operation = self.core.operations.add(Pending { op, peer: from, buf: Some(dst), received: 0, is_get: true });
        let link = &mut self.links[index];
        let mut head = link.head(FrameKind::Get, 0);
        head.words = [window, offset, operation, len];
        link.outbox.push_head(head);
        self.posted(index);
        Ok(Posted::Pending)
    }

    fn progress(&mut self, out: &mut Vec<Event>, max: usize) -> Result<usize, TransportError> {
        self.round(max)?;
        Ok(self.core.ready.give(out, max))
    }

    fn arm(&mut self) -> bool {
        let flushed = self.flush_touched(true).is_ok();
        let owing = std::mem::take(&mut self.owing);
        let acknowledged = owing.into_iter().all(|index| self.look_after(index, true).is_ok());
        let blocked = self.blocked.clone();
        let watched = blocked.into_iter().all(|index| self.links[index as usize].watch_out(&self.core, true).is_ok());
        // An error comes out of the next round. Any other event either makes the epoll descriptor readable (it is
        // level-triggered, so old data counts too) or is mail, which rings the doorbell.
        let mail = self.core.shared.mailbox(self.core.me).is_some_and(super::shared::Mailbox::has_mail);
        flushed && acknowledged && watched && !mail && self.core.ready.is_empty()
    }

    fn has_closed(&mut self, peer: Pe) -> bool {
        let at = self.link_to(peer);
        self.links[at].parting.is_gone()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.core.epoll.as_fd())
    }

    fn close(mut self: Box<Self>) -> Result<(), TransportError> {
        for index in 0..self.links.len() {
            let link = &mut self.links[index];
            // A link that carried no data, in either direction, needs no goodbye.
            if !link.parting.is_gone() && (link.state != State::Down || link.outbox.held() > 0) {
                let mut head = link.head(FrameKind::Bye, 0);
                head.flags = ACK_NOW;
                link.parting.say();
                link.outbox.push_head(head);
                link.touch(&mut self.core);
            }
        }
        self.drain()
    }
}

impl Drop for TcpEndpoint {
    fn drop(&mut self) {
        self.core.shared.mailbox(self.core.me).into_iter().for_each(super::shared::Mailbox::close);
    }
}
