//! Payloads that are put into a destination: both ends of the protocol, and the rest of what arrivals want done.

use std::collections::VecDeque;
use std::rc::Rc;

use super::frame::{self, Cts, Destination, Rts};
use super::inner::{Arriving, Part, Source, Todo};
use super::{OfferId, Port, PortEvent, Route, Tag};
use crate::shmem::Arrival;
use charm4rs_transport_core::{Event, Imm, OpId, Pe, PostError, Posted, Reach, RegBuf, RemoteKey, TransportError};

/// The operation of every put.
const PUT: u64 = 0;
/// Operations from here on are sends: this and the message's immediate.
const SEND: u64 = 1 << 32;

/// Above that, an operation on the network says its length, in KiB.
const LEN_SHIFT: u32 = 33;

fn lengthened(op: u64, route: Route, len: usize) -> OpId {
    let kib = if route == Route::Net { len as u64 >> 10 } else { 0 };
    OpId(op | kib << LEN_SHIFT)
}

/// The operation of a plain send.
pub(super) fn sending(imm: Imm, route: Route, len: usize) -> OpId {
    lengthened(SEND | u64::from(imm.0), route, len)
}

/// The length of what an operation on the network sends or puts.
pub(super) fn kib(op: OpId) -> u64 {
    op.0 >> LEN_SHIFT
}

/// The immediate of what an operation sends.
fn message_of(op: OpId) -> Option<Imm> {
    let imm = u32::try_from(op.0 & u64::from(u32::MAX)).ok()?;
    (op.0 & SEND != 0).then_some(Imm(imm))
}

/// Payloads go over the network in puts of at most this length, so that others get a turn.
const CHUNK: usize = 4 << 20;

const UNREGISTERED: &str = "the network's device cannot be given more memory (ulimit -l): payloads are copied";

/// A message of ours whose payloads wait for destinations.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) to: Pe,
    tag: Tag,
    payloads: Vec<RegBuf>,
    /// The message's first bytes.
    head: Box<[u8]>,
    /// All its bytes.
    bytes: u64,
    /// What is noted as on its way.
    waits_kib: u64,
}

/// A put that has not been posted yet.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) to: Pe,
    src: RegBuf,
    key: Rc<RemoteKey>,
    offset: u64,
    imm: Option<Imm>,
}

impl Port {
    /// Asks for destinations of `payloads`.
    pub(super) fn send_rts(&mut self, to: Pe, tag: Tag, head: RegBuf, mut payloads: Vec<RegBuf>, offer: bool) {
        let room = self.ends.to(self.pe, to).caps().send_max.saturating_sub(32 + 8 * payloads.len());
        let head_follows = head.len() > room;
        let bytes = payloads.iter().fold(head.len() as u64, |sum, payload| sum + payload.len() as u64);
        let first = head[..head.len().min(frame::Nack::HEAD_MAX)].into();
        let mut inline: &[u8] = &head;
        let kept;
        if head_follows {
            kept = head;
            payloads.insert(0, kept);
            inline = &[];
        }
        let id = self.next_rts;
        self.next_rts += 1;
        let sizes: Vec<u64> = payloads.iter().map(|p| p.len() as u64).collect();
        // What the receiver's user has to accept first does not leave however often one looks.
        let waits_kib = if offer { 0 } else { sizes.iter().sum::<u64>() >> 10 };
        self.in_flight.add(waits_kib);
        let frame = Rts { id, tag: tag.0, offer, head_follows, sizes, head: inline }.encode();
        self.inner.asked.insert(id, payloads.len());
        self.outgoing.insert(id, Outgoing { to, tag, payloads, head: first, bytes, waits_kib });
        self.send_frame(
            to,
            frame::imm(frame::RTS, 0),
            frame.len(),
            |body| charm4rs_transport_core::memory::write_bytes(body, &frame),
            true,
        );
    }

    /// Sends a message that is longer than its backend can send.
    pub(super) fn rendezvous_whole(&mut self, to: Pe, tag: Tag, message: RegBuf) {
        self.send_rts(to, tag, message, Vec::new(), false);
    }

    /// Says where an offer's payloads shall land, in order; `None`, or a destination of another length: in pooled memory. The
    /// message follows as [`PortEvent::Message`], with the destinations as its payloads.
    pub fn accept(&mut self, id: OfferId, destinations: Vec<Option<RegBuf>>) {
        self.accept_offer(id.0, destinations);
    }

    fn accept_offer(&mut self, id: u64, destinations: Vec<Option<RegBuf>>) {
        let Some(offered) = self.inner.offers.remove(&id) else { return };
        let mut destinations: VecDeque<Option<RegBuf>> = destinations.into();
        let theirs = match offered.source {
            Source::There(theirs) => theirs,
            Source::Here(mut payloads) => {
                for payload in &mut payloads {
                    if let Some(mut destination) =
                        destinations.pop_front().flatten().filter(|l| l.len() == payload.len())
                    {
                        destination.copy_from_slice(payload);
                        *payload = destination;
                    }
                }
                return self.deliver_here(offered.tag, offered.head, payloads);
            }
        };
        let from = offered.from;
        let mut parts = Vec::new();
        let mut answers = Vec::new();
        for &size in &offered.sizes {
            let destination = destinations.pop_front().flatten().filter(|l| l.len() as u64 == size);
            let Some((part, answer)) = self.destination(from, size, destination) else {
                parts.into_iter().for_each(|part| self.take_back(from, part));
                return self.control(from, frame::imm(frame::REFUSE, 0), &theirs.to_le_bytes());
            };
            parts.push(part);
            answers.push(answer);
        }
        let head = (!offered.head_follows).then_some(offered.head);
        let bytes = offered.sizes.iter().sum::<u64>().wrapping_add(head.as_ref().map_or(0, |head| head.len() as u64));
        let missing = parts.len();
        let slot = self.inner.slot(Arriving { from, tag: offered.tag, head, parts, missing, missed: false, bytes });
        let Some(slot) = u32::try_from(slot).ok().filter(|&s| s as usize <= frame::ARG_MAX) else {
            self.fatal = Some(TransportError::Resource {
                what: "destinations",
                need: "1 more".into(),
                advice: "accept fewer messages at a time",
            });
            return;
        };
        let answer = Cts { id: theirs, slot, destinations: answers }.encode();
        self.control(from, frame::imm(frame::CTS, 0), &answer);
    }

    /// Memory for a payload of `from`. `None`: there is not enough.
    fn destination(&mut self, from: Pe, size: u64, destination: Option<RegBuf>) -> Option<(Part, Destination)> {
        let len = usize::try_from(size).ok()?;
        let can_hand = self.can_hand(from, len);
        let window = match destination {
            None if can_hand => return Some((Part::Hand(None), Destination::Hand)),
            None => {
                let end = self.ends.to(self.pe, from);
                let room = match end.alloc(len) {
                    Some(room) => room,
                    None => RegBuf::try_heap(len)?,
                };
                end.expose(room)
            }
            Some(destination) => self.ends.to(self.pe, from).expose(destination),
        };
        match window {
            Ok(window) => {
                let answer = Destination::Put(window.key.clone());
                Some((Part::Window(window), answer))
            }
            Err((_, destination)) if can_hand => Some((Part::Hand(Some(destination)), Destination::Hand)),
            Err((error, _)) => {
                tracing::warn!(%error, size, "a destination cannot be exposed");
                None
            }
        }
    }

    fn take_back(&mut self, from: Pe, part: Part) {
        if let Part::Window(window) = part {
            drop(self.ends.to(self.pe, from).unexpose(window));
        }
    }

    /// Does what arrivals want done.
    pub(super) fn run_todo(&mut self) -> Result<(), TransportError> {
        while let Some(todo) = self.inner.todo.pop_front() {
            match todo {
                Todo::Credit(to) => self.credits.push(to),
                Todo::Probe(probe) => self.pass_on(probe),
                Todo::Cts(id) => self.accept_offer(id, Vec::new()),
                Todo::Write(from, msg) => self.write_here(from, &msg)?,
                Todo::Send(from, accept) => self.send_accepted(from, accept)?,
                Todo::Finish(slot) => {
                    let Some(mut arrived) = self.inner.arriving[slot].take() else { continue };
                    self.inner.free_slots.push(slot);
                    let from = arrived.from;
                    let mut bufs = Vec::new();
                    for part in std::mem::take(&mut arrived.parts) {
                        match part {
                            Part::Window(window) => bufs.push(self.ends.to(self.pe, from).unexpose(window)),
                            Part::Here(buf) => bufs.push(buf),
                            Part::Hand(_) => unreachable!("all parts are here"),
                        }
                    }
                    if arrived.missed {
                        let head = arrived.head.as_deref().or(bufs.first().map(|buf| &**buf));
                        self.inner.owe(from, arrived.tag.charge().cost(arrived.bytes));
                        self.bounce(from, arrived.tag, head, arrived.bytes);
                    } else {
                        self.inner.finish(&self.layout, arrived, bufs, &mut self.early);
                    }
                }
                Todo::Refused(id) => {
                    let Some(out) = self.outgoing.remove(&id) else { continue };
                    self.in_flight.remove(out.waits_kib);
                    let Outgoing { to, tag, head, bytes, .. } = out;
                    self.inner.accounts.refund(to, tag.charge().cost(bytes));
                    self.early.push_back(PortEvent::Refused { to, tag, head, bytes });
                }
                Todo::Bounce(to, tag, head, len) => self.bounce(to, tag, head.as_deref(), len),
            }
        }
        self.give_credit();
        self.release_held();
        Ok(())
    }

    /// Tells the sender of a message that it cannot be delivered.
    fn bounce(&mut self, to: Pe, tag: Tag, head: Option<&[u8]>, len: u64) {
        let bounced = frame::Nack { tag: tag.0, len, head: head.unwrap_or_default() }.encode();
        self.control(to, frame::imm(frame::NACK, 0), &bounced);
    }

    /// The receiver says where our payloads go.
    fn send_accepted(&mut self, from: Pe, accept: Cts) -> Result<(), TransportError> {
        let bad = |what| Err(TransportError::Protocol { from, what, detail: accept.id });
        let Some(out) = self.outgoing.remove(&accept.id) else { return bad("an answer to nothing") };
        if out.to != from {
            return bad("an answer to somebody else");
        }
        self.in_flight.remove(out.waits_kib);
        let slot = accept.slot as usize;
        for (payload, destination) in out.payloads.into_iter().zip(accept.destinations) {
            match destination {
                Destination::Hand if self.can_hand(from, payload.len()) => {
                    self.send_buf(from, frame::imm(frame::HANDED, slot), payload, false);
                }
                Destination::Put(key) if key.len == payload.len() as u64 => {
                    self.put_payload(from, payload, &key.into(), 0, frame::imm(frame::FIN, slot));
                }
                _ => return bad("a destination that does not fit"),
            }
        }
        self.flush_puts()
    }

    /// The most that one put to a peer shall have.
    pub(super) fn chunk(&mut self, to: Pe) -> usize {
        let max = self.ends.to(self.pe, to).caps().put_max;
        if self.ends.route(self.pe, to) == Route::Net { max.min(CHUNK) } else { max }
    }

    /// Queues the puts of a payload at `offset` of a window; the last one is announced.
    pub(super) fn put_payload(&mut self, to: Pe, payload: RegBuf, key: &Rc<RemoteKey>, mut offset: u64, imm: Imm) {
        let parts = payload.split(self.chunk(to));
        let last = parts.len() - 1;
        for (i, src) in parts.into_iter().enumerate() {
            let len = src.len() as u64;
            self.puts.push_back(Put { to, src, key: key.clone(), offset, imm: (i == last).then_some(imm) });
            offset += len;
        }
    }

    fn flush_puts(&mut self) -> Result<(), TransportError> {
        while let Some(put) = self.puts.pop_front() {
            let Put { to, src, key, offset, imm } = put;
            if let Some(src) = self.post_put(to, src, &key, offset, imm)? {
                self.puts.push_front(Put { to, src, key, offset, imm });
                break;
            }
        }
        Ok(())
    }

    /// Sends a put as messages, where a device cannot be given its memory, here or there: the endpoints' own is registered, so the bytes go
    /// through that. Gives back what is left if there is no room. The immediate follows with an empty put.
    #[cold]
    fn put_by_messages(
        &mut self,
        to: Pe,
        src: RegBuf,
        key: &RemoteKey,
        offset: u64,
        imm: Option<Imm>,
    ) -> Result<Option<RegBuf>, TransportError> {
        if !self.clear_for(to) {
            return Ok(Some(src));
        }
        self.options.notices.tell_once(UNREGISTERED);
        self.inner.counters.copies += 1;
        let head = frame::Write::head(key, offset).len();
        let most = self.ends.to(self.pe, to).caps().inject_max.saturating_sub(head).max(1);
        for (part, at) in src.chunks(most).zip((offset..).step_by(most)) {
            let head = frame::Write::head(key, at);
            let fill = |body: &mut [std::mem::MaybeUninit<u8>]| {
                let (front, rest) = body.split_at_mut(head.len());
                charm4rs_transport_core::memory::write_bytes(front, &head);
                charm4rs_transport_core::memory::write_bytes(rest, part);
            };
            self.send_frame(to, frame::imm(frame::WRITE, 0), head.len() + part.len(), fill, false);
        }
        match imm {
            Some(_) => self.post_put(to, RegBuf::heap(0), key, offset, imm),
            None => Ok(None),
        }
    }

    /// A part of a peer's put came as a message.
    fn write_here(&mut self, from: Pe, msg: &[u8]) -> Result<(), TransportError> {
        let bad = TransportError::Protocol { from, what: "a put that cannot be written", detail: msg.len() as u64 };
        let Some(frame::Write { key, offset, bytes }) = frame::Write::decode(msg) else { return Err(bad) };
        let written = self.ends.to(self.pe, from).put(self.pe, RegBuf::copy_of(bytes), &key, offset, None, OpId(PUT));
        written.map_or(Err(bad), |_| Ok(()))
    }

    /// Posts a put. Gives the buffer back if there is no room.
    pub(super) fn post_put(
        &mut self,
        to: Pe,
        src: RegBuf,
        key: &RemoteKey,
        offset: u64,
        imm: Option<Imm>,
    ) -> Result<Option<RegBuf>, TransportError> {
        // An empty one may be the end of one that went by messages.
        if src.is_empty() && !self.clear_for(to) {
            return Ok(Some(src));
        }
        let op = lengthened(PUT, self.ends.route(self.pe, to), src.len());
        match self.ends.to(self.pe, to).put(to, src, key, offset, imm, op) {
            Ok(posted) => {
                if posted == Posted::Pending {
                    self.in_flight.add(kib(op));
                }
                Ok(None)
            }
            Err(PostError::Busy(src)) => Ok(Some(src)),
            Err(PostError::PeerDown(pe, _)) => Err(TransportError::PeerDown { pe, why: "it takes no more puts" }),
            Err(PostError::BadKey(_)) => Err(TransportError::Protocol {
                from: to,
                what: "a destination that cannot be put into",
                detail: offset,
            }),
            Err(PostError::TooLarge { max, .. }) => unreachable!("puts are cut to {max} bytes"),
            Err(PostError::NoMemory(src)) => self.put_by_messages(to, src, key, offset, imm),
        }
    }

    /// What an endpoint of the network reports.
    pub(super) fn event(&mut self, event: Event, out: &mut VecDeque<PortEvent>) -> Result<(), TransportError> {
        match event {
            Event::Recv { from, imm, msg } => self.inner.arrive(Reach::Network, Arrival::Message(from, imm, msg), out),
            Event::PutArrived { from, imm } => self.inner.arrive(Reach::Network, Arrival::Put(from, imm), out),
            Event::Sent { op, .. } => {
                self.in_flight.remove(kib(op));
                Ok(())
            }
            Event::Got { .. } => Ok(()),
            Event::Missed { from, imm, len } => self.inner.missed(from, imm, len),
            Event::Failed { op, buf: Some(buf), error } => {
                self.in_flight.remove(kib(op));
                match (*error, message_of(op)) {
                    (TransportError::MessageRefused { pe, .. }, Some(imm)) => self.inner.came_back(pe, imm, &buf, out),
                    (error, _) => Err(error),
                }
            }
            Event::Failed { error, .. } => Err(*error),
            Event::PeerLost { pe, why } => Err(TransportError::PeerDown { pe, why }),
        }
    }

    /// Everything that is not an arrival: errors, notices, backlog, puts.
    #[cold]
    pub(super) fn settle(&mut self) -> Result<(), TransportError> {
        if let Some(error) = self.fatal.take() {
            return Err(error);
        }
        let mut events = std::mem::take(&mut self.events);
        if let Some(local) = &mut self.ends.local {
            local.tend(&mut events, usize::MAX)?;
        }
        if let Some(shm) = &mut self.ends.shm {
            shm.tend(&mut events, usize::MAX)?;
        }
        let mut early = std::mem::take(&mut self.early);
        for event in events.drain(..) {
            self.event(event, &mut early)?;
        }
        self.early = early;
        self.events = events;
        self.run_todo()?;
        self.flush_puts()?;
        if self.waits_for_room() {
            self.flush(true);
        }
        self.fatal.take().map_or(Ok(()), Err)
    }
}
