//! One pair of PEs, seen from one end: the frames to send, the frames received, and the current connection.
//!
//! A link outlives its connections. The text of the crate ([`super`]) describes dialing, which connection wins when both ends dial, and resumption.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::net::{SendFlags, send};

use super::frame::{ACK_NOW, Format, FrameKind, HEAD_MAX, Head};
use super::operations::Operations;
use super::outbox::{Outbox, Then, Written};
use super::pool::Pool;
use super::read::Body;
use super::shared::{Command, Shared};
use charm4rs_transport_core::event_queue::EventQueue;
use charm4rs_transport_core::memory::exposed::Windows;
use charm4rs_transport_core::memory::{RegBuf, Slab};
use charm4rs_transport_core::parting::Parting;
use charm4rs_transport_core::{Event, Pe, TransportError};

/// Longest body that is copied into a chunk by the sender and out of the scratch buffer by the receiver.
pub(super) const SMALL_MAX: usize = 8 << 10;
/// Received bytes after which a connection sends a separate acknowledgement.
const ACK_EVERY: usize = 256 << 10;
/// The same when there is nothing else to do.
const ACK_IDLE: usize = 64 << 10;
/// The same in frames: far below the 2^31 that the low 32 bits can distinguish.
const ACK_FRAMES: u64 = 4096;
/// A connection that lasted this long does not count as failed when it breaks.
const STEADY: Duration = Duration::from_secs(1);
/// Answers to gets are made while the outbox holds less than this, in pieces of at most `GET_PIECE`.
const GET_AHEAD: usize = 4 << 20;
const GET_PIECE: usize = 1 << 20;

/// The state that all links of a PE share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) me: Pe,
    pub(super) shared: Arc<Shared>,
    pub(super) format: Format,
    pub(super) slab: Slab,
    pub(super) pool: Pool,
    pub(super) windows: Windows,
    pub(super) operations: Operations,
    /// Events that were not returned yet.
    pub(super) ready: EventQueue,
    /// The buffer for socket reads, unless the final destination of the bytes is known.
    pub(super) scratch: Box<[u8]>,
    pub(super) epoll: OwnedFd,
    /// Links whose outbox must be looked at, or that owe an acknowledgement, at the end of this round.
    pub(super) touched: Vec<u32>,
}

impl Core {
    /// Handles a buffer that was acknowledged.
    fn release(peer: Pe, operations: &mut Operations, ready: &mut EventQueue, then: Then, buf: RegBuf) {
        match then {
            Then::Drop => drop(buf),
            Then::Sent(op) => ready.push(Event::Sent { op, buf: Some(buf) }),
            Then::Refused(op) => {
                let error = Box::new(TransportError::MessageRefused { pe: peer, size: buf.len() as u64 });
                ready.push(Event::Failed { op, buf: Some(buf), error });
            }
            Then::Keep(key) => {
                if let Some(pending) = operations.get_mut(key) {
                    pending.buf = Some(buf);
                }
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// No connection.
    Down,
    /// Connected; the peer's `Resume` has not arrived yet.
    Opening,
    /// Frames flow.
    Open,
}

/// A get of the peer that is being answered.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) window: u64,
    pub(super) offset: u64,
    pub(super) operation: u64,
    pub(super) at: u64,
    pub(super) len: u64,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: Pe,
    pub(super) index: u32,
    pub(super) outbox: Outbox,
    pub(super) state: State,
    pub(super) socket: Option<OwnedFd>,
    /// The rank of the current or last connection; see [`connection_rank`].
    rank: u64,
    /// The rank of the connection that the helper is making for this link.
    dialing: Option<u64>,
    /// The highest generation that was ever tried here.
    generation: u32,
    /// Since when nothing has got through.
    broken_since: Option<Instant>,
    /// When the current or last connection was made.
    connected: Option<Instant>,
    /// Bytes of a partly received frame that the peer had when it last resumed.
    peer_part: u64,
    /// The progress when a connection was last requested; see [`Link::progress`].
    progress: [u64; 4],
    /// The socket is full; and whether epoll reports when it is writable.
    pub(super) blocked: bool,
    pub(super) watches_out: bool,
    /// Something was posted since the last round: later posts wait for the round's end, and are written together.
    pub(super) touched: bool,
    /// The link is in the endpoint's list of links that are read without asking epoll.
    pub(super) hot: bool,
    /// Numbered frames that arrived, and how many of them are acknowledged.
    pub(super) received: u64,
    told: u64,
    untold: usize,
    pub(super) ack_wanted: bool,
    /// A partly received small frame; and the large one that is arriving.
    pub(super) stash: Vec<u8>,
    pub(super) body: Option<Body>,
    /// The large frame that was arriving when the last connection broke.
    halted: Option<Body>,
    /// The last frame was large. The next one probably is too, so little is read ahead.
    pub(super) after_large: bool,
    pub(super) serving: VecDeque<Serving>,
    pub(super) parting: Parting,
}

/// The rank of a connection among those of its pair: by generation, and within a generation the lower PE's is higher. A link only ever changes to a
/// connection of higher rank, and both ends rank alike, so both end up with the same one.
pub(super) fn connection_rank(generation: u32, dialer: Pe, acceptor: Pe) -> u64 {
    u64::from(generation) * 2 + u64::from(dialer < acceptor)
}

impl Link {
    pub(super) fn new(peer: Pe, index: u32, format: Format) -> Self {
        Self {
            peer,
            index,
            outbox: Outbox::new(format),
            state: State::Down,
            socket: None,
            rank: 0,
            dialing: None,
            generation: 0,
            broken_since: None,
            connected: None,
            peer_part: 0,
            progress: [0; 4],
            blocked: false,
            watches_out: false,
            touched: false,
            hot: false,
            received: 0,
            told: 0,
            untold: 0,
            ack_wanted: false,
            stash: Vec::new(),
            body: None,
            halted: None,
            after_large: false,
            serving: VecDeque::new(),
            parting: Parting::default(),
        }
    }

    /// A head with the current acknowledgement.
    #[inline]
    pub(super) fn head(&mut self, kind: FrameKind, len: usize) -> Head {
        self.told = self.received;
        self.untold = 0;
        self.ack_wanted = false;
        let mut head = Head::new(kind, len as u64);
        let [a, b, c, d, ..] = self.received.to_le_bytes();
        head.ack = u32::from_le_bytes([a, b, c, d]);
        head
    }

    /// Adds the link to the list of those that are checked when the round ends.
    #[inline]
    pub(super) fn touch(&mut self, core: &mut Core) {
        if !self.touched {
            self.touched = true;
            core.touched.push(self.index);
        }
    }

    /// Counts a numbered frame that arrived.
    #[inline]
    pub(super) fn note_received(&mut self, core: &mut Core, bytes: usize, flags: u8) {
        self.received += 1;
        self.untold += bytes;
        let due = self.untold >= ACK_IDLE || self.received - self.told >= ACK_FRAMES;
        if flags & ACK_NOW != 0 {
            self.ack_wanted = true;
        }
        if due || self.ack_wanted {
            self.touch(core);
        }
    }

    /// Adds a separate acknowledgement to the outbox if one is due. Returns true if one will be due once there is nothing else to do.
    pub(super) fn acknowledge(&mut self, core: &Core, idle: bool) -> bool {
        let every = ACK_EVERY.min(core.shared.config.credit / 4);
        let due = self.ack_wanted || self.untold >= every || self.received - self.told >= ACK_FRAMES;
        let due_when_idle = self.untold >= ACK_IDLE.min(every);
        if self.state == State::Open && (due || (idle && due_when_idle)) {
            let head = self.head(FrameKind::Ack, 0);
            self.outbox.push_head(head);
            return false;
        }
        due_when_idle
    }

    /// Handles the acknowledgement in a head of the peer.
    pub(super) fn acknowledged(&mut self, core: &mut Core, low: u32) -> Result<(), TransportError> {
        let (peer, operations, ready) = (self.peer, &mut core.operations, &mut core.ready);
        if self.outbox.acknowledge(low, |then, buf| Core::release(peer, operations, ready, then, buf)) {
            return Ok(());
        }
        Err(self.violation("an acknowledgement of what was never sent", u64::from(low)))
    }

    pub(super) fn violation(&self, what: &'static str, detail: u64) -> TransportError {
        TransportError::Protocol { from: self.peer, what, detail }
    }

    /// Writes what the socket accepts.
    pub(super) fn flush(&mut self, core: &mut Core) -> Result<(), TransportError> {
        if self.state != State::Open {
            return Ok(());
        }
        self.serve(core);
        let Some(socket) = &self.socket else { return Ok(()) };
        match self.outbox.write(socket.as_fd()) {
            Ok(Written::All) => self.blocked = false,
            Ok(Written::Blocked) => self.blocked = true,
            Err(e) => self.broke(core, e.into())?,
        }
        Ok(())
    }

    /// Answers gets, as far as the outbox may grow.
    fn serve(&mut self, core: &mut Core) {
        while let Some(get) = self.serving.front()
            && self.outbox.held() < GET_AHEAD
        {
            let (operation, at, left) = (get.operation, get.at, get.len - get.at);
            let piece = usize::try_from(left).map_or(GET_PIECE, |left| left.min(GET_PIECE));
            let (window, offset) = (get.window, get.offset + at);
            let found = core.windows.memory(window, offset, piece as u64).and_then(|memory| {
                let mut buf = core.pool.take(piece)?;
                buf.copy_from_slice(memory);
                Some(buf)
            });
            let done = found.is_none() || left == piece as u64;
            let mut head = self.head(FrameKind::GetReply, if found.is_some() { piece } else { 0 });
            head.words = [operation, at, u64::from(found.is_none()), 0];
            match found {
                Some(buf) if piece > 0 => self.outbox.push_large(head, buf, Then::Drop),
                _ => self.outbox.push_head(head),
            }
            if done {
                self.serving.pop_front();
            } else if let Some(get) = self.serving.front_mut() {
                get.at += piece as u64;
            }
        }
    }

    // ---- connections -----------------------------------------------------------------------------------------

    /// Asks the helper for a connection.
    pub(super) fn dial(&mut self, core: &mut Core) {
        if self.dialing.is_some() || self.parting.is_lost() {
            return;
        }
        let now = Instant::now();
        let progress = self.progress();
        let steady = self.connected.is_some_and(|at| now - at >= STEADY);
        if steady || progress != std::mem::replace(&mut self.progress, progress) {
            self.broken_since = None;
        }
        let deadline = *self.broken_since.get_or_insert(now) + core.shared.config.reconnect;
        if now >= deadline {
            self.lose(core, "every connection to it breaks before anything gets through");
            return;
        }
        self.generation += 1;
        self.dialing = Some(connection_rank(self.generation, core.me, self.peer));
        // After an immediate refusal it waits before it asks again: the peer's own connection may be on its way.
        let not_before = if self.generation > 1 { now + super::shared::REDIAL } else { now };
        let (from, to, generation) = (core.me, self.peer, self.generation);
        core.shared.command(Command::Dial { from, to, generation, not_before, deadline });
    }

    /// Values that grow whenever something gets through.
    fn progress(&self) -> [u64; 4] {
        let part = self.halted.as_ref().map_or(0, Body::arrived);
        [self.received, part, self.outbox.acknowledged(), self.peer_part]
    }

    /// The helper could not make the requested connection.
    pub(super) fn dial_failed(&mut self, core: &mut Core, generation: u32, why: &'static str) {
        if self.dialing == Some(connection_rank(generation, core.me, self.peer)) && !self.parting.has_heard() {
            self.lose(core, why);
        }
    }

    /// Takes an authenticated connection if it ranks above the current ones.
    pub(super) fn adopt(
        &mut self,
        core: &mut Core,
        socket: OwnedFd,
        generation: u32,
        dialed: bool,
    ) -> Result<(), TransportError> {
        if self.parting.is_gone() {
            return Ok(());
        }
        let (dialer, acceptor) = if dialed { (core.me, self.peer) } else { (self.peer, core.me) };
        let rank = connection_rank(generation, dialer, acceptor);
        let wanted = if dialed { self.dialing == Some(rank) } else { self.dialing.is_none_or(|ours| rank > ours) };
        if !wanted || rank <= self.rank {
            tracing::debug!(peer = self.peer.0, generation, dialed, "a connection lost against one of higher rank");
            return Ok(());
        }
        tracing::debug!(peer = self.peer.0, generation, dialed, "connected");
        self.rank = rank;
        self.connected = Some(Instant::now());
        self.dialing = None;
        self.generation = self.generation.max(generation);
        self.drop_connection();
        let data = epoll::EventData::new_u64(u64::from(self.index));
        epoll::add(&core.epoll, &socket, data, epoll::EventFlags::IN)
            .map_err(|e| TransportError::system("epoll_ctl", e))?;
        let mut head = Head::new(FrameKind::Resume, 0);
        let part = self.halted.as_ref().map_or(0, |body| 1 + body.arrived());
        head.words = [self.received, u64::from(core.format.checksum), part, 0];
        let mut bytes = [0; HEAD_MAX];
        // Without checks, whatever was agreed on: this frame contains the setting.
        let len = Format { checksum: false, ..core.format }.encode(&head, 0, &mut bytes);
        self.told = self.received;
        self.state = State::Opening;
        match send(&socket, &bytes[..len], SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(n) if n == len => self.socket = Some(socket),
            _ => {
                self.socket = Some(socket);
                return self.broke(core, std::io::ErrorKind::ConnectionReset.into());
            }
        }
        Ok(())
    }

    /// The peer has sent its `Resume`: frames continue with the next one that it lacks.
    pub(super) fn resume(&mut self, core: &mut Core, words: [u64; 4]) -> Result<(), TransportError> {
        let [received, checksum, part, _] = words;
        if checksum != u64::from(core.format.checksum) {
            let name = |on: bool| (if on { "on" } else { "off" }).to_owned();
            return Err(TransportError::Version {
                what: "the setting of ++checksum",
                ours: name(core.format.checksum),
                theirs: name(checksum != 0),
            });
        }
        let (peer, operations, ready) = (self.peer, &mut core.operations, &mut core.ready);
        let part = part.checked_sub(1);
        if !self.outbox.resume(received, part, |then, buf| Core::release(peer, operations, ready, then, buf)) {
            return Err(self.violation("resumption at a frame that was never sent, or was acknowledged", received));
        }
        if self.generation > 1 {
            core.shared.counters.resumed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        self.state = State::Open;
        self.body = self.halted.take();
        self.peer_part = part.unwrap_or(0);
        if self.body.is_none() && self.outbox.is_acknowledged() {
            // Nothing is waiting, so nothing can fail to get through.
            self.broken_since = None;
        }
        self.touch(core);
        Ok(())
    }

    /// Drops the socket. The rest of a large frame that was arriving will come; a small one will come again as a whole.
    fn drop_connection(&mut self) {
        // Closing removes it from epoll.
        self.socket = None;
        self.state = State::Down;
        self.blocked = false;
        self.watches_out = false;
        self.stash.clear();
        self.halted = self.body.take().or(self.halted.take());
    }

    /// The connection broke. Requests another one, unless the peer said goodbye.
    #[cold]
    pub(super) fn broke(&mut self, core: &mut Core, error: std::io::Error) -> Result<(), TransportError> {
        tracing::debug!(peer = self.peer.0, %error, "connection broke");
        self.drop_connection();
        if self.parting.has_heard() {
            self.give_up(core, "it has closed");
        } else if !self.parting.is_lost() {
            self.dial(core);
        }
        Ok(())
    }

    /// The peer is gone for good.
    #[cold]
    pub(super) fn lose(&mut self, core: &mut Core, why: &'static str) {
        if self.parting.is_lost() {
            return;
        }
        self.parting.lose();
        self.drop_connection();
        if self.parting.has_heard() {
            return;
        }
        tracing::warn!(pe = self.peer.0, why, "lost contact with a PE");
        self.give_up(core, why);
        core.ready.push(Event::PeerLost { pe: self.peer, why });
    }

    /// Ends everything that waits for the peer.
    fn give_up(&mut self, core: &mut Core, why: &'static str) {
        let error = || Box::new(TransportError::PeerDown { pe: self.peer, why });
        let (peer, operations, ready) = (self.peer, &mut core.operations, &mut core.ready);
        self.serving.clear();
        self.halted = None;
        self.outbox.abandon(|then, buf| match then {
            Then::Sent(op) => ready.push(Event::Failed { op, buf: Some(buf), error: error() }),
            then => Core::release(peer, operations, ready, then, buf),
        });
        for pending in operations.remove_all_of(self.peer) {
            ready.push(Event::Failed { op: pending.op, buf: pending.buf, error: error() });
        }
    }

    /// Before sleep: makes epoll report when a full socket becomes writable.
    pub(super) fn watch_out(&mut self, core: &Core, on: bool) -> Result<(), TransportError> {
        let Some(socket) = &self.socket else { return Ok(()) };
        if self.watches_out == on {
            return Ok(());
        }
        let flags = if on { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
        epoll::modify(&core.epoll, socket, epoll::EventData::new_u64(u64::from(self.index)), flags)
            .map_err(|e| TransportError::system("epoll_ctl", e))?;
        self.watches_out = on;
        Ok(())
    }
}
