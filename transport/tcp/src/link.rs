//! One pair of PEs, seen from one end: the frames to say, the frames heard, and the connection of the moment.
//!
//! A link outlives its connections. Its text is the module's ([`super`]): dialing, who wins when both dial, resumption.

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

/// Longest body that travels through chunks, and is copied at both ends.
pub(super) const SMALL_MAX: usize = 8 << 10;
/// Bytes that a connection owes an acknowledgement for before one is sent for its own sake.
const ACK_EVERY: usize = 256 << 10;
/// The same when there is nothing else to do.
const ACK_IDLE: usize = 64 << 10;
/// Frames, likewise: far below the 2^31 that the low 32 bits can tell apart.
const ACK_FRAMES: u64 = 4096;
/// A connection that stood so long has done nothing wrong when it breaks.
const STEADY: Duration = Duration::from_secs(1);
/// Answers to gets are made while the outbox holds less than this, in pieces of at most `GET_PIECE`.
const GET_AHEAD: usize = 4 << 20;
const GET_PIECE: usize = 1 << 20;

/// What all links of a PE share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) me: Pe,
    pub(super) shared: Arc<Shared>,
    pub(super) format: Format,
    pub(super) slab: Slab,
    pub(super) pool: Pool,
    pub(super) windows: Windows,
    pub(super) operations: Operations,
    /// Events that were not handed out yet.
    pub(super) ready: EventQueue,
    /// Where sockets are read to, unless the bytes' last place is known.
    pub(super) scratch: Box<[u8]>,
    pub(super) epoll: OwnedFd,
    /// Links whose outbox must be looked at, or that owe an acknowledgement, at the end of this round.
    pub(super) touched: Vec<u32>,
}

impl Core {
    /// What becomes of a buffer that was acknowledged.
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
    /// Connected; the peer has not said yet what it has.
    Opening,
    /// Frames flow.
    Open,
}

/// A get of the peer's that is being answered.
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
    /// Of the current or last connection; see [`connection_rank`].
    rank: u64,
    /// Of the connection that the helper makes for us.
    dialing: Option<u64>,
    /// Highest generation that was ever tried here.
    generation: u32,
    /// Since when nothing has got through.
    broken_since: Option<Instant>,
    /// When the current or last connection was made.
    connected: Option<Instant>,
    /// Bytes of a frame that the peer had in part when it last resumed.
    peer_part: u64,
    /// How far things were when a connection was last asked for; see [`Link::progress`].
    progress: [u64; 4],
    /// The socket took no more; whether epoll tells when it does.
    pub(super) blocked: bool,
    pub(super) watches_out: bool,
    /// Something was posted since the last round: later posts wait for its end, and leave together.
    pub(super) touched: bool,
    /// In the endpoint's list of links that are read without asking epoll.
    pub(super) hot: bool,
    /// Numbered frames that arrived, and how many of them the peer knows of.
    pub(super) received: u64,
    told: u64,
    untold: usize,
    pub(super) ack_wanted: bool,
    /// A frame that has not arrived whole, if it is small; and the large one that is arriving.
    pub(super) stash: Vec<u8>,
    pub(super) body: Option<Body>,
    /// The large one that was arriving when the last connection broke.
    halted: Option<Body>,
    /// The last frame was large: the next one probably is, so little is read ahead.
    pub(super) after_large: bool,
    pub(super) serving: VecDeque<Serving>,
    pub(super) parting: Parting,
}

/// Connections of a pair are ranked by generation, and of one generation the lower PE's wins. A link only ever changes to a
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

    /// A head that carries the acknowledgement which is due anyway.
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

    /// Puts the link on the list of those that are looked at when the round ends.
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

    /// Adds an acknowledgement of its own to the outbox if one is due. True: it will be, once there is nothing else to do.
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

    /// What the peer has, in a head of its own.
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

    /// Writes what the socket takes.
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
        // A connection that was refused at once is not asked for at once again: the peer's own may be on its way.
        let not_before = if self.generation > 1 { now + super::shared::REDIAL } else { now };
        let (from, to, generation) = (core.me, self.peer, self.generation);
        core.shared.command(Command::Dial { from, to, generation, not_before, deadline });
    }

    /// What grows whenever something gets through.
    fn progress(&self) -> [u64; 4] {
        let part = self.halted.as_ref().map_or(0, Body::arrived);
        [self.received, part, self.outbox.acknowledged(), self.peer_part]
    }

    /// The helper could not make the connection that was asked for.
    pub(super) fn dial_failed(&mut self, core: &mut Core, generation: u32, why: &'static str) {
        if self.dialing == Some(connection_rank(generation, core.me, self.peer)) && !self.parting.has_heard() {
            self.lose(core, why);
        }
    }

    /// An authenticated connection: taken if it ranks above what there is.
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
            tracing::debug!(peer = self.peer.0, generation, dialed, "a connection that lost against another one");
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
        // Without checks, whatever was agreed on: it is this frame that says so.
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

    /// The peer said what it has: frames flow from the next one on.
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
            // Nobody waits for anything, so nothing can fail to get through.
            self.broken_since = None;
        }
        self.touch(core);
        Ok(())
    }

    /// Lets go of the socket. Of a large frame that was arriving the rest will come, a small one again as a whole.
    fn drop_connection(&mut self) {
        // Closing takes it out of epoll.
        self.socket = None;
        self.state = State::Down;
        self.blocked = false;
        self.watches_out = false;
        self.stash.clear();
        self.halted = self.body.take().or(self.halted.take());
    }

    /// The connection broke: tries for another one, unless the peer said goodbye.
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

    /// Before sleep: epoll shall tell when a full socket has room.
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
