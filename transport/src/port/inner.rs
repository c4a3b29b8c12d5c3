//! The state of a port besides its endpoints: peers and their credit, payloads that came ahead of their message, put windows, and both halves of its
//! rendezvous. It demultiplexes arrivals and never sends, so it may be called in the middle of a send. Requests in arrivals are recorded as a [`Todo`].

use std::collections::{HashMap, VecDeque};

use super::credit::{Accounts, Charge};
use super::frame::{self, Eager, Probe, Rts};
use super::put_window::PutWindows;
use super::puts::Target;
use super::rendezvous::{Action, Arriving, Rendezvous};
use super::{Counters, Incoming, PortEvent, Tag};
use charm4rs_transport_core::fast_path::Arrival;
use charm4rs_transport_core::memory::{Payloads, Slab, write_bytes};
use charm4rs_transport_core::{Imm, Msg, Pe, Reach, RegBuf, TransportError};

/// Whether an immediate belongs to a frame of the port itself, which carries no data of the user.
fn is_own(imm: Imm) -> bool {
    let tag = frame::tag(imm);
    tag >= frame::FIRST && !matches!(tag, frame::EAGER | frame::PAYLOAD | frame::HANDED)
}

/// What a peer has sent ahead of a message.
#[derive(Debug, Default)]
pub(super) struct PeerState {
    /// Its payloads.
    pub(super) payloads: Vec<RegBuf>,
    /// How many of them found no memory; empty ones take their place.
    missed: usize,
    /// The bytes of those.
    missed_bytes: u64,
}

impl PeerState {
    /// Forgets it. Returns the bytes of all payloads, including those that found no memory.
    fn forget(&mut self) -> u64 {
        let Self { payloads, missed_bytes, .. } = std::mem::take(self);
        payloads.iter().fold(missed_bytes, |sum, payload| sum.saturating_add(payload.len() as u64))
    }
}

/// What arrivals ask this PE to send.
#[derive(Debug)]
pub(super) enum Todo {
    /// Credit for a peer.
    Credit(Pe),
    /// A probe to pass on, if this PE waits for credit.
    Probe(Probe),
    /// A NACK for a message whose payloads came ahead and found no memory: the message, and its size with payloads.
    Nack(Pe, Tag, Msg, u64),
    /// What a frame of a rendezvous asks for.
    Rendezvous(Action),
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) pe: Pe,
    pub(super) slab: Slab,
    pub(super) counters: Counters,
    pub(super) peers: HashMap<Pe, PeerState>,
    pub(super) rendezvous: Rendezvous,
    pub(super) todo: VecDeque<Todo>,
    pub(super) put_windows: PutWindows,
    pub(super) accounts: Accounts,
    /// Bytes of the longest message with its payloads.
    pub(super) message_max: u64,
}

impl Inner {
    pub(super) fn new(pe: Pe, slab: Slab, accounts: Accounts, message_max: u64) -> Self {
        Self {
            pe,
            slab,
            counters: Counters::default(),
            peers: HashMap::new(),
            rendezvous: Rendezvous::default(),
            todo: VecDeque::new(),
            put_windows: PutWindows::default(),
            accounts,
            message_max,
        }
    }

    /// Converts an arrival into a message for the user, if it needs nothing else, as is true for almost all.
    #[inline(always)]
    pub(super) fn plain(&mut self, reach: Reach, arrival: Arrival) -> Result<Incoming, Arrival> {
        match arrival {
            Arrival::Message(from, imm, msg) if imm.0 & 0xffff_ff00 == 0 && frame::tag(imm) < frame::FIRST => {
                self.counters.received[reach as usize].add(msg.len() as u64);
                let tag = Tag(frame::tag(imm));
                Ok(Incoming { from, tag, charge: tag.charge(), msg, payloads: Payloads::default() })
            }
            other => Err(other),
        }
    }

    /// Handles any other arrival from a peer at distance `reach`.
    pub(super) fn arrive(
        &mut self,
        reach: Reach,
        arrival: Arrival,
        out: &mut VecDeque<PortEvent>,
    ) -> Result<(), TransportError> {
        let (Arrival::Message(from, imm, _) | Arrival::Put(from, imm)) = &arrival;
        let (from, imm) = (*from, *imm);
        if from == self.pe {
            // Messages of a PE to itself pass no backend, and no backend could carry the answer.
            return Err(TransportError::Protocol { from, what: "a frame from this PE itself", detail: imm.0.into() });
        }
        if let Arrival::Message(from, imm, msg) = arrival {
            return self.rare(reach, from, imm, msg, out);
        }
        match frame::tag(imm) {
            frame::FIN => {
                let complete = self.rendezvous.receiver.on_fin(from, frame::arg(imm))?;
                self.deliver(complete);
                return Ok(());
            }
            frame::PUT => {
                if let Some((tag, notice)) = self.notice(frame::arg(imm)) {
                    self.message(reach, (from, tag, Charge::NONE), notice, Vec::new(), out);
                    return Ok(());
                }
            }
            _ => {}
        }
        Err(TransportError::Protocol { from, what: "a put to an unknown window", detail: imm.0.into() })
    }

    pub(super) fn message(
        &mut self,
        reach: Reach,
        (from, tag, charge): (Pe, Tag, Charge),
        msg: Msg,
        payloads: Vec<RegBuf>,
        out: &mut VecDeque<PortEvent>,
    ) {
        let bytes = msg.len() as u64 + payloads.iter().map(|p| p.len() as u64).sum::<u64>();
        self.counters.received[reach as usize].add(bytes);
        out.push_back(PortEvent::Message(Incoming { from, tag, charge, msg, payloads: payloads.into() }));
    }

    fn rare(
        &mut self,
        reach: Reach,
        from: Pe,
        imm: Imm,
        msg: Msg,
        out: &mut VecDeque<PortEvent>,
    ) -> Result<(), TransportError> {
        let bad = |what, detail: usize| Err(TransportError::Protocol { from, what, detail: detail as u64 });
        match frame::tag(imm) {
            tag if tag < frame::FIRST => {
                let (tag, n) = (Tag(tag), frame::arg(imm));
                let (payloads, charge) = match self.peers.get_mut(&from) {
                    _ if n == 0 => (Vec::new(), tag.charge()),
                    _ if reach == Reach::Process && n & frame::WEIGHED != 0 => (Vec::new(), weight(n)),
                    Some(peer) if peer.payloads.len() == n && peer.missed > 0 => {
                        let bytes = peer.forget().saturating_add(msg.len() as u64);
                        self.owe(from, tag.charge().cost(bytes));
                        self.todo.push_back(Todo::Nack(from, tag, msg, bytes));
                        return Ok(());
                    }
                    Some(peer) if peer.payloads.len() == n => (std::mem::take(&mut peer.payloads), tag.charge()),
                    _ => return bad("a message without its payloads", n),
                };
                self.message(reach, (from, tag, charge), msg, payloads, out);
            }
            frame::EAGER => match Eager::decode(&msg) {
                Some(Eager { tag, payloads, head }) => {
                    let payloads = payloads.into_iter().map(RegBuf::copy_of).collect();
                    let head = Msg::fill(&self.slab, head.len(), |to| write_bytes(to, head));
                    let tag = Tag(tag);
                    self.message(reach, (from, tag, tag.charge()), head, payloads, out);
                }
                None => return bad("a malformed message", msg.len()),
            },
            frame::PAYLOAD => self.peers.entry(from).or_default().payloads.push(msg.into_buf()),
            frame::HANDED => {
                let (slot, copies) = (frame::arg(imm), &mut self.counters.copies);
                let complete = self.rendezvous.receiver.on_handed(from, slot, msg.into_buf(), copies)?;
                self.deliver(complete);
            }
            frame::MISSED => match frame::Missed::decode(&msg) {
                // A sender whose own frame finds no memory fails, and sends no notice.
                Some(missed) if is_own(missed.imm) => return bad("a notice without a message", msg.len()),
                Some(missed) => return self.missed(from, missed.imm, missed.len),
                None => return bad("a malformed notice", msg.len()),
            },
            frame::NACK => match frame::Nack::decode(&msg) {
                Some(nack) => out.push_back(PortEvent::Refused {
                    to: from,
                    tag: Tag(nack.tag),
                    head: nack.head.into(),
                    bytes: nack.len,
                }),
                None => return bad("a malformed notice", msg.len()),
            },
            frame::CREDIT => match frame::decode_word(&msg) {
                Some(bytes) if self.accounts.give_back(from, bytes) => {}
                _ => return bad("credit for messages that were not sent", msg.len()),
            },
            frame::PROBE => match Probe::decode(&msg) {
                Some(probe) => self.todo.push_back(Todo::Probe(probe)),
                None => return bad("a malformed probe", msg.len()),
            },
            frame::RTS => match Rts::decode(&msg) {
                Some(rts) => return self.on_rts(from, rts, out),
                None => return bad("a malformed RTS", msg.len()),
            },
            frame::CTS => {
                let cleared = self.rendezvous.sender.on_cts(from, &msg)?;
                self.todo.push_back(Todo::Rendezvous(Action::Transfer(cleared)));
            }
            frame::REFUSE => {
                let refused = self.rendezvous.sender.on_refuse(from, &msg)?;
                self.todo.push_back(Todo::Rendezvous(Action::Refund(refused)));
            }
            frame::WRITE => {
                if !frame::Write::decode(&msg).is_some_and(|write| self.write(from, &write)) {
                    return bad("a put that cannot be written", msg.len());
                }
            }
            tag => return bad("an unknown frame", tag.into()),
        }
        Ok(())
    }

    /// A message or payload of a peer found no memory, here or there.
    pub(super) fn missed(&mut self, from: Pe, imm: Imm, len: u64) -> Result<(), TransportError> {
        let peer = self.peers.entry(from).or_default();
        match frame::tag(imm) {
            // Its sender knows, and has what it needs to report it. The payloads that came ahead of it belong to no message.
            tag if tag < frame::FIRST => {
                let bytes = peer.forget().saturating_add(len);
                self.owe(from, Tag(tag).charge().cost(bytes));
            }
            // Its sender gets all of it back, and settles it.
            frame::EAGER => {}
            frame::PAYLOAD => {
                peer.payloads.push(RegBuf::heap(0));
                peer.missed += 1;
                peer.missed_bytes = peer.missed_bytes.saturating_add(len);
            }
            frame::HANDED => {
                let complete = self.rendezvous.receiver.on_missed(from, frame::arg(imm))?;
                self.deliver(complete);
            }
            _ => return Err(TransportError::MessageRefused { pe: self.pe, size: len }),
        }
        Ok(())
    }

    /// A message of this PE came back, since there was no memory for it, there or here. The receiver will report the message of a
    /// payload.
    pub(super) fn came_back(
        &mut self,
        to: Pe,
        imm: Imm,
        message: &[u8],
        out: &mut VecDeque<PortEvent>,
    ) -> Result<(), TransportError> {
        match frame::tag(imm) {
            tag if tag < frame::FIRST => {
                let head = message[..message.len().min(frame::Nack::HEAD_MAX)].into();
                out.push_back(PortEvent::Refused { to, tag: Tag(tag), head, bytes: message.len() as u64 });
                Ok(())
            }
            frame::EAGER => {
                if let Some(Eager { tag, head, payloads }) = Eager::decode(message) {
                    let bytes = payloads.iter().map(|p| p.len() as u64).sum::<u64>() + head.len() as u64;
                    self.accounts.refund(to, Tag(tag).charge().cost(bytes));
                    let head = head[..head.len().min(frame::Nack::HEAD_MAX)].into();
                    out.push_back(PortEvent::Refused { to, tag: Tag(tag), head, bytes: message.len() as u64 });
                }
                Ok(())
            }
            frame::PAYLOAD | frame::HANDED => Ok(()),
            _ => Err(TransportError::MessageRefused { pe: to, size: message.len() as u64 }),
        }
    }

    /// A message of a peer has ended without having been in the queue of this PE.
    pub(super) fn owe(&mut self, to: Pe, cost: u64) {
        if self.accounts.take(to, cost) {
            self.todo.push_back(Todo::Credit(to));
        }
    }

    fn on_rts(&mut self, from: Pe, rts: Rts<'_>, out: &mut VecDeque<PortEvent>) -> Result<(), TransportError> {
        let bytes = rts.sizes.iter().fold(rts.head.len() as u64, |sum, size| sum.saturating_add(*size));
        if bytes > self.message_max {
            let what = "a message above the limit of ++message-max";
            return Err(TransportError::Protocol { from, what, detail: bytes });
        }
        match self.rendezvous.receiver.on_rts(from, rts, &self.slab) {
            (id, true) => self.show_offer(id, out),
            (id, false) => self.todo.push_back(Todo::Rendezvous(Action::Answer(id))),
        }
        Ok(())
    }

    /// A payload of a rendezvous has ended. If that was the last one of its message, the message is to be delivered.
    fn deliver(&mut self, complete: Option<Arriving>) {
        self.todo.extend(complete.map(Action::Deliver).map(Todo::Rendezvous));
    }

    /// Lets the user choose the destinations of an offer.
    pub(super) fn show_offer(&self, id: u64, out: &mut VecDeque<PortEvent>) {
        let offer = self.rendezvous.receiver.shown(id, &self.slab);
        out.extend(offer.map(|offer| PortEvent::Offer(Box::new(offer))));
    }

    /// Writes bytes of a put that arrived as a message. Returns whether the sender may put there.
    fn write(&mut self, from: Pe, write: &frame::Write<'_>) -> bool {
        match write.target {
            Target::Payload { slot, part } => self.rendezvous.receiver.write(from, (slot, part), write),
            Target::PutWindow(id) => self.put_windows.write(id, write),
        }
    }
}

/// The weight in an immediate's argument.
fn weight(arg: usize) -> Charge {
    Charge::of_units(u16::try_from(arg & usize::from(u16::MAX)).expect("16 bits"))
}
