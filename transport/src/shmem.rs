//! The shared-memory endpoint: the common part of `local` (threads) and `shm` (processes of a host). The two differ in how a buffer is handed over, in
//! which memory can be a window, and in how a sleeping peer is woken; a [`Lane`] implements that.

mod lane;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(crate) use lane::{Lane, Refused, Target};

use charm4rs_transport_core::doorbell::{Fences, announce, back, must_ring};
use charm4rs_transport_core::fast_path::{Arrival, FastPath};
use charm4rs_transport_core::memory::inbox::{Inbox, Outbox, Record};
use charm4rs_transport_core::memory::pool::{Arena, Pool};
use charm4rs_transport_core::memory::segment::Segment;
use charm4rs_transport_core::memory::window::{Inside, Windows};
use charm4rs_transport_core::memory::{Slab, write_bytes};
use charm4rs_transport_core::ring::{BODY_MAX, BadLength, RecordKind};
use charm4rs_transport_core::{
    Caps, Endpoint, Event, Imm, OpId, Pe, PostError, Posted, RegBuf, RemoteKey, TransportError, Window, WindowId,
};

/// Buffers up to this length are copied into the ring rather than handed over.
const COPIED_MAX: usize = 256;
const KEY: usize = 8;

/// The state of an inbox's reader: it reads, it has closed, it has ended without closing.
const CLOSED: u32 = 1;
const LOST: u32 = 2;

/// A put's notice for which there was no space yet.
#[derive(Debug)]
struct Notice {
    to: Pe,
    imm: Imm,
    op: OpId,
}

/// A PE's end; see the module's text.
#[derive(Debug)]
pub(crate) struct ShmemEndpoint<L: Lane> {
    pe: Pe,
    /// The first of the peers, which are numbered without gaps.
    first: u32,
    /// Peers that reach this PE in another way: the first of them, and how many. Records in their name are refused.
    elsewhere: (u32, u32),
    lane: L,
    caps: Caps,
    inbox: Inbox,
    outboxes: Vec<Outbox>,
    pool: Pool,
    slab: Slab,
    windows: Windows,
    notices: VecDeque<Notice>,
    ready: VecDeque<Event>,
    fences: Fences,
    armed: bool,
    fatal: Option<TransportError>,
    /// It has closed normally. (Other processes may have written to the word in the segment.)
    closed: bool,
    lost: Vec<Pe>,
    /// Messages and payloads that had to be copied.
    copies: u64,
}

impl<L: Lane> ShmemEndpoint<L> {
    /// The endpoint of `pe`, whose segment is `segments[pe - first]`.
    pub(crate) fn new(
        pe: Pe,
        first: u32,
        lane: L,
        caps: Caps,
        segments: &[Arc<Segment>],
        arena: Arc<Arena>,
        fences: Fences,
    ) -> Self {
        let own = &segments[(pe.0 - first) as usize];
        Self {
            pe,
            first,
            elsewhere: (0, 0),
            lane,
            caps,
            inbox: Inbox::new(own.clone()),
            outboxes: segments.iter().cloned().map(Outbox::new).collect(),
            pool: Pool::new(pe, arena),
            slab: Slab::new(),
            windows: Windows::new(own.clone()),
            notices: VecDeque::new(),
            ready: VecDeque::new(),
            fences,
            armed: false,
            fatal: None,
            closed: false,
            lost: Vec::new(),
            copies: 0,
        }
    }

    /// Shares the port's free lists.
    pub(crate) fn use_slab(&mut self, slab: &Slab) {
        self.slab = slab.clone();
    }

    /// Refuses records that name these PEs as their sender. A writer of the inbox writes the sender's number too, and PEs of this process
    /// are trusted more than others.
    pub(crate) fn refuse_from(&mut self, pes: &Range<u32>) {
        self.elsewhere = (pes.start, pes.end - pes.start);
    }

    /// Why there is no space at `to`.
    #[cold]
    fn no_room<B>(&mut self, to: Pe, buf: B) -> PostError<B> {
        if !self.is_lost(to) {
            return PostError::Busy(buf);
        }
        PostError::PeerDown(to, buf)
    }

    /// Whether a peer has ended without closing. Reports it once.
    fn is_lost(&mut self, to: Pe) -> bool {
        let peer = to.0.wrapping_sub(self.first) as usize;
        if self.outboxes[peer].closed() != LOST {
            return false;
        }
        if !self.lost.contains(&to) {
            self.lost.push(to);
            self.ready.push_back(Event::PeerLost { pe: to, why: "it ended without closing" });
        }
        true
    }

    /// Whether a peer has closed: messages to it are dropped.
    fn closed(&self, to: Pe) -> bool {
        self.outboxes[to.0.wrapping_sub(self.first) as usize].closed() == CLOSED
    }

    #[inline]
    fn record<F: FnOnce(&mut [MaybeUninit<u8>])>(
        &mut self,
        to: Pe,
        kind: RecordKind,
        imm: Imm,
        len: usize,
        fill: F,
    ) -> Result<(), F> {
        let peer = to.0.wrapping_sub(self.first) as usize;
        let outbox = &mut self.outboxes[peer];
        let Some(mut claim) = outbox.claim(len) else { return Err(fill) };
        fill(claim.body());
        claim.publish(self.pe, kind, imm);
        self.fences.light();
        if must_ring(&outbox.segment().header().sleep.0) {
            self.lane.ring(peer);
        }
        Ok(())
    }

    #[inline(always)]
    fn arrival(&mut self, record: &Record) -> Result<Option<Arrival>, TransportError> {
        let from = record.from;
        let (start, count) = self.elsewhere;
        if from.wrapping_sub(self.first) as usize >= self.outboxes.len() || from.wrapping_sub(start) < count {
            self.inbox.free(record);
            return Err(self.violation(from, "a record from a PE that does not send any", from.into()));
        }
        if record.kind() == RecordKind::Message as u8 {
            let msg = self.inbox.moved_out(record, &self.slab);
            return Ok(Some(Arrival::Message(Pe(from), record.imm(), msg)));
        }
        self.rare(record)
    }

    #[cold]
    fn rare(&mut self, record: &Record) -> Result<Option<Arrival>, TransportError> {
        let from = Pe(record.from);
        let arrival = match record.kind() {
            kind if kind == RecordKind::Buffer as u8 => {
                let whole = record.len() == L::HANDLE;
                // SAFETY: by its kind and length the body is a handle that `write` wrote; each record is taken once.
                match whole.then(|| unsafe { self.lane.read(self.inbox.body(record)) }).flatten() {
                    Some(buf) => Ok(Some(Arrival::Message(from, record.imm(), buf.into()))),
                    None => Err(self.violation(from.0, "an invalid description of a buffer", record.len() as u64)),
                }
            }
            kind if kind == RecordKind::Put as u8 => Ok(Some(Arrival::Put(from, record.imm()))),
            kind if kind == RecordKind::Skip as u8 => Ok(None),
            kind => Err(self.violation(from.0, "unknown kind of record", kind.into())),
        };
        self.inbox.free(record);
        arrival
    }

    #[cold]
    #[expect(clippy::unused_self, reason = "a method reads better")]
    fn violation(&self, from: u32, what: &'static str, detail: u64) -> TransportError {
        TransportError::Protocol { from: Pe(from), what, detail }
    }

    #[cold]
    fn disarm(&mut self) {
        self.armed = false;
        back(&self.inbox.segment().header().sleep.0);
        self.lane.awake();
    }

    /// Enters a peer's window and copies.
    fn copy(&mut self, peer: Pe, key: &RemoteKey, offset: u64, here: &mut [u8], put: bool) -> Result<(), Refused> {
        let index = peer.0.wrapping_sub(self.first) as usize;
        let outbox = self.outboxes.get(index).ok_or(Refused)?;
        let bytes: &[u8; KEY] = (&*key.bytes).try_into().map_err(|_| Refused)?;
        let word = u64::from_le_bytes(*bytes);
        let (slot, generation) =
            (u32::try_from(word >> 32).expect("half"), u32::try_from(word & 0xffff_ffff).expect("half"));
        let inside = Inside::enter(outbox.segment(), slot, generation).ok_or(Refused)?;
        let end = offset.checked_add(here.len() as u64).ok_or(Refused)?;
        if end > inside.place.len {
            return Err(Refused);
        }
        match self.lane.resolve(index, &inside.place).ok_or(Refused)? {
            Target::Here(at) => {
                let offset = usize::try_from(offset).map_err(|_| Refused)?;
                // SAFETY: the window is open and this peer is inside, so its memory stays valid and its owner does not access it; the
                // range was checked against its length, and `here` is a buffer of our own.
                unsafe {
                    let at = at.add(offset);
                    if put {
                        std::ptr::copy_nonoverlapping(here.as_ptr(), at.as_ptr(), here.len());
                    } else {
                        std::ptr::copy_nonoverlapping(at.as_ptr(), here.as_mut_ptr(), here.len());
                    }
                }
                Ok(())
            }
            Target::There { peer, addr } => {
                let addr = addr.checked_add(offset).ok_or(Refused)?;
                if self.lane.copy(here, peer, addr, put) { Ok(()) } else { Err(Refused) }
            }
        }
    }
}

impl<L: Lane> FastPath for ShmemEndpoint<L> {
    #[inline]
    fn try_send<F: FnOnce(&mut [MaybeUninit<u8>])>(&mut self, to: Pe, imm: Imm, len: usize, fill: F) -> Result<(), F> {
        self.record(to, RecordKind::Message, imm, len, fill)
    }

    #[inline]
    fn receive(&mut self, max: usize, mut take: impl FnMut(Arrival)) -> Result<usize, TransportError> {
        if self.armed {
            self.disarm();
        }
        let mut n = 0;
        while n < max {
            match self.inbox.take() {
                Ok(None) => break,
                Ok(Some(record)) => {
                    if let Some(arrival) = self.arrival(&record)? {
                        take(arrival);
                        n += 1;
                    }
                }
                Err((from, BadLength(len))) => return Err(self.violation(from, "impossible length of a record", len)),
            }
        }
        Ok(n)
    }

    #[inline]
    fn is_busy(&self) -> bool {
        !self.notices.is_empty() || !self.ready.is_empty() || self.fatal.is_some()
    }

    fn tend(&mut self, out: &mut Vec<Event>, max: usize) -> Result<usize, TransportError> {
        if let Some(error) = self.fatal.take() {
            return Err(error);
        }
        for _ in 0..self.notices.len() {
            let Some(notice) = self.notices.pop_front() else { break };
            match self.record(notice.to, RecordKind::Put, notice.imm, 0, |_| {}) {
                Ok(()) => self.ready.push_back(Event::Sent { op: notice.op, buf: None }),
                Err(_) if self.closed(notice.to) => self.ready.push_back(Event::Sent { op: notice.op, buf: None }),
                Err(_) if self.is_lost(notice.to) => {
                    let error = Box::new(TransportError::PeerDown { pe: notice.to, why: "it ended without closing" });
                    self.ready.push_back(Event::Failed { op: notice.op, buf: None, error });
                }
                Err(_) => self.notices.push_back(notice),
            }
        }
        let n = self.ready.len().min(max);
        out.extend(self.ready.drain(..n));
        Ok(n)
    }

    fn announce(&self) {
        announce(&self.inbox.segment().header().sleep.0);
    }

    fn fences(&self) -> Option<Fences> {
        Some(self.fences)
    }

    fn may_sleep(&mut self) -> bool {
        self.armed = true;
        !self.inbox.ready() && self.ready.is_empty() && self.notices.is_empty() && self.fatal.is_none()
    }
}

/// A peer that ended without closing.
fn gone<L: Lane>(outboxes: &[Outbox], lane: &L) -> Option<usize> {
    (0..outboxes.len()).find(|peer| outboxes[*peer].closed() == LOST || lane.has_ended(*peer))
}

impl<L: Lane> Endpoint for ShmemEndpoint<L> {
    fn pe(&self) -> Pe {
        self.pe
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn alloc(&mut self, len: usize) -> Option<RegBuf> {
        match self.pool.alloc(len) {
            Ok(buf) => Some(buf),
            Err(error) => {
                tracing::debug!(%error, len, "pool");
                None
            }
        }
    }

    fn inject(
        &mut self,
        to: Pe,
        imm: Imm,
        len: usize,
        fill: &mut dyn FnMut(&mut [MaybeUninit<u8>]),
    ) -> Result<(), PostError<()>> {
        if len > BODY_MAX {
            return Err(PostError::TooLarge { max: BODY_MAX, buf: () });
        }
        match self.try_send(to, imm, len, fill) {
            Ok(()) => Ok(()),
            Err(_) if self.closed(to) => Ok(()),
            Err(_) => Err(self.no_room(to, ())),
        }
    }

    fn send(&mut self, to: Pe, imm: Imm, buf: RegBuf, _op: OpId) -> Result<Posted, PostError<RegBuf>> {
        // A buffer in an inbox that is no longer read would be lost.
        if self.closed(to) {
            return Ok(Posted::Done);
        }
        if self.is_lost(to) {
            return Err(PostError::PeerDown(to, buf));
        }
        if buf.len() <= COPIED_MAX {
            let sent = self.record(to, RecordKind::Message, imm, buf.len(), |body| write_bytes(body, &buf)).is_ok();
            return if sent { Ok(Posted::Done) } else { Err(self.no_room(to, buf)) };
        }
        let peer = to.0.wrapping_sub(self.first) as usize;
        let mut copy = None;
        if !self.lane.can_hand(&buf) {
            if buf.len() > self.caps.send_max {
                return Err(PostError::TooLarge { max: self.caps.send_max, buf });
            }
            // Not while a record is claimed: other senders would wait for the copy.
            if !self.outboxes[peer].has_room(L::HANDLE) {
                return Err(PostError::Busy(buf));
            }
            match self.pool.alloc(buf.len()) {
                Ok(mut room) => {
                    room.copy_from_slice(&buf);
                    self.copies += 1;
                    copy = Some(room);
                }
                Err(error) => {
                    tracing::debug!(%error, len = buf.len(), "no room for a copy");
                    return Err(PostError::NoMemory(buf));
                }
            }
        }
        let outbox = &mut self.outboxes[peer];
        let Some(mut claim) = outbox.claim(L::HANDLE) else { return Err(PostError::Busy(buf)) };
        self.lane.write(copy.unwrap_or(buf), claim.body());
        claim.publish(self.pe, RecordKind::Buffer, imm);
        self.fences.light();
        if must_ring(&outbox.segment().header().sleep.0) {
            self.lane.ring(peer);
        }
        Ok(Posted::Done)
    }

    fn expose(&mut self, buf: RegBuf) -> Result<Window, (TransportError, RegBuf)> {
        let Some(place) = self.lane.place(&buf) else {
            return Err((TransportError::Config("peers cannot reach this memory".into()), buf));
        };
        let Some((index, generation)) = self.windows.open(place) else {
            let error = TransportError::Resource {
                what: "windows",
                need: "1 more".to_owned(),
                advice: "expose less memory at a time",
            };
            return Err((error, buf));
        };
        let id = u64::from(index) << 32 | u64::from(generation);
        let key = RemoteKey { len: buf.len() as u64, bytes: Box::new(id.to_le_bytes()) };
        Ok(Window::new(WindowId(id), key, buf))
    }

    fn unexpose(&mut self, window: Window) -> RegBuf {
        let index = u32::try_from(window.id.0 >> 32).expect("half of 64 bits");
        let (outboxes, lane) = (&self.outboxes, &self.lane);
        let gone = || gone(outboxes, lane);
        if !self.windows.close(index, || gone().is_some()) {
            let pe = (self.first..).nth(gone().unwrap_or(0)).map_or(self.pe, Pe);
            self.fatal.get_or_insert(TransportError::PeerDown { pe, why: "it ended while memory was exposed to it" });
            let stand_in = RegBuf::heap(window.len());
            #[expect(clippy::mem_forget, reason = "a peer may still write there")]
            std::mem::forget(window.into_buf());
            return stand_in;
        }
        window.into_buf()
    }

    fn put(
        &mut self,
        to: Pe,
        mut src: RegBuf,
        dst: &RemoteKey,
        offset: u64,
        imm: Option<Imm>,
        op: OpId,
    ) -> Result<Posted, PostError<RegBuf>> {
        if self.is_lost(to) {
            return Err(PostError::PeerDown(to, src));
        }
        if self.copy(to, dst, offset, &mut src, true).is_err() {
            // A peer that has closed takes no puts any more, as it takes no messages.
            return if self.closed(to) { Ok(Posted::Done) } else { Err(PostError::BadKey(src)) };
        }
        let Some(imm) = imm else { return Ok(Posted::Done) };
        if self.notices.is_empty() && self.record(to, RecordKind::Put, imm, 0, |_| {}).is_ok() {
            return Ok(Posted::Done);
        }
        self.notices.push_back(Notice { to, imm, op });
        Ok(Posted::Pending)
    }

    fn get(
        &mut self,
        from: Pe,
        src: &RemoteKey,
        offset: u64,
        mut dst: RegBuf,
        op: OpId,
    ) -> Result<Posted, PostError<RegBuf>> {
        if self.is_lost(from) {
            return Err(PostError::PeerDown(from, dst));
        }
        if self.copy(from, src, offset, &mut dst, false).is_err() {
            return Err(PostError::BadKey(dst));
        }
        self.ready.push_back(Event::Got { op, buf: dst });
        Ok(Posted::Pending)
    }

    fn progress(&mut self, out: &mut Vec<Event>, max: usize) -> Result<usize, TransportError> {
        let done = if self.is_busy() { self.tend(out, max)? } else { 0 };
        let arrived = self.receive(max - done, |arrival| {
            out.push(match arrival {
                Arrival::Message(from, imm, msg) => Event::Recv { from, imm, msg },
                Arrival::Put(from, imm) => Event::PutArrived { from, imm },
            });
        })?;
        Ok(done + arrived)
    }

    fn arm(&mut self) -> bool {
        self.announce();
        if self.fences.heavy() && self.may_sleep() {
            return true;
        }
        self.disarm();
        false
    }

    fn has_closed(&mut self, peer: Pe) -> bool {
        self.closed(peer)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.lane.wait_fd()
    }

    fn copies(&self) -> u64 {
        self.copies
    }

    fn close(mut self: Box<Self>) -> Result<(), TransportError> {
        let mut events = Vec::new();
        while !self.notices.is_empty() {
            self.tend(&mut events, usize::MAX)?;
            std::thread::yield_now();
        }
        self.inbox.segment().header().closed.store(CLOSED, Ordering::Release);
        self.closed = true;
        Ok(())
    }
}

impl<L: Lane> Drop for ShmemEndpoint<L> {
    fn drop(&mut self) {
        if !self.closed {
            self.inbox.segment().header().closed.store(LOST, Ordering::Release);
        }
        // The memory of windows that are still open is freed next.
        let (outboxes, lane) = (&self.outboxes, &self.lane);
        self.windows.close_all(|| gone(outboxes, lane).is_some());
        // Buffers that were handed over and never read are given back.
        while let Ok(Some(record)) = self.inbox.take() {
            let _ = self.arrival(&record);
        }
    }
}
