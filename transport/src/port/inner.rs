//! What a port knows besides its endpoints: peers, payloads that wait for their message, put windows, offers, what has to be
//! answered. It takes arrivals apart, and never sends: what it wants sent it notes down, so that arrivals may be taken
//! in the middle of a send.

use std::collections::{HashMap, VecDeque};

use super::credit::{Accounts, Charge};
use super::frame::{self, Cts, Eager, Probe, Rts};
use super::put_window::PutWindows;
use super::{Counters, Incoming, Offer, OfferId, PortEvent, Tag};
use crate::shmem::Arrival;
use charm4rs_transport_core::memory::{Payloads, Slab, write_bytes};
use charm4rs_transport_core::{Imm, Layout, Msg, Pe, Reach, RegBuf, TransportError, Window};

/// Whether an immediate is of a frame of the port's own, which carries nothing of the user's.
fn is_own(imm: Imm) -> bool {
    let tag = frame::tag(imm);
    tag >= frame::FIRST && !matches!(tag, frame::EAGER | frame::PAYLOAD | frame::HANDED)
}

/// What a peer has sent ahead of a message.
#[derive(Debug, Default)]
pub(super) struct PeerState {
    /// Its payloads.
    pub(super) payloads: Vec<RegBuf>,
    /// How many of them found no memory; in their place stand empty ones.
    missed: usize,
    /// The bytes of those.
    missed_bytes: u64,
}

impl PeerState {
    /// Forgets it. The bytes of all payloads, also of those that found no memory.
    fn forget(&mut self) -> u64 {
        let Self { payloads, missed_bytes, .. } = std::mem::take(self);
        payloads.iter().fold(missed_bytes, |sum, payload| sum.saturating_add(payload.len() as u64))
    }
}

/// A message whose payloads are on their way into destinations.
#[derive(Debug)]
pub(super) struct Arriving {
    pub(super) from: Pe,
    pub(super) tag: Tag,
    pub(super) head: Option<Msg>,
    pub(super) parts: Vec<Part>,
    pub(super) missing: usize,
    /// Whether there was no memory for some of them.
    pub(super) missed: bool,
    /// Bytes of the whole message.
    pub(super) bytes: u64,
}

/// A payload on its way.
#[derive(Debug)]
pub(super) enum Part {
    /// It is put.
    Window(Window),
    /// It will be handed over; the user's destination, if any, gets a copy.
    Hand(Option<RegBuf>),
    /// It was handed over.
    Here(RegBuf),
}

/// An offer that its user has not answered yet.
#[derive(Debug)]
pub(super) struct Offered {
    pub(super) from: Pe,
    pub(super) tag: Tag,
    pub(super) head: Msg,
    pub(super) sizes: Vec<u64>,
    pub(super) head_follows: bool,
    /// The sender's name for it, or, from this PE itself, the payloads.
    pub(super) source: Source,
}

/// Where an offer's payloads are.
#[derive(Debug)]
pub(super) enum Source {
    There(u64),
    Here(Vec<RegBuf>),
}

/// What arrivals want done.
#[derive(Debug)]
pub(super) enum Todo {
    /// Give credit back.
    Credit(Pe),
    /// Pass a probe on, if this PE waits for credit.
    Probe(Probe),
    /// Answer an offer that its sender does not leave to the user: pooled memory.
    Cts(u64),
    /// Send what was accepted.
    Send(Pe, Cts),
    /// All payloads of the message in this slot are here.
    Finish(usize),
    /// Write a part of a peer's put.
    Write(Pe, Msg),
    /// The peer refused a message of ours.
    Refused(u64),
    /// Give up a message of the peer's some of whose payloads found no memory; its size.
    Bounce(Pe, Tag, Option<Msg>, u64),
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) pe: Pe,
    pub(super) slab: Slab,
    pub(super) counters: Counters,
    pub(super) peers: HashMap<Pe, PeerState>,
    pub(super) arriving: Vec<Option<Arriving>>,
    pub(super) free_slots: Vec<usize>,
    pub(super) offers: HashMap<u64, Offered>,
    pub(super) next_offer: u64,
    /// How many payloads each of this PE's own requests has.
    pub(super) asked: HashMap<u64, usize>,
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
            arriving: Vec::new(),
            free_slots: Vec::new(),
            offers: HashMap::new(),
            next_offer: 0,
            asked: HashMap::new(),
            todo: VecDeque::new(),
            put_windows: PutWindows::default(),
            accounts,
            message_max,
        }
    }

    /// A message as it is given to the user, if an arrival is one that needs nothing else: almost all are.
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

    /// Takes any other arrival of a peer at distance `reach`.
    pub(super) fn arrive(
        &mut self,
        reach: Reach,
        arrival: Arrival,
        out: &mut VecDeque<PortEvent>,
    ) -> Result<(), TransportError> {
        let (Arrival::Message(from, imm, _) | Arrival::Put(from, imm)) = &arrival;
        let (from, imm) = (*from, *imm);
        if from == self.pe {
            // What a PE says to itself passes no backend; and no backend reaches it, to answer.
            return Err(TransportError::Protocol { from, what: "a frame from this PE itself", detail: imm.0.into() });
        }
        if let Arrival::Message(from, imm, msg) = arrival {
            return self.rare(reach, from, imm, msg, out);
        }
        match frame::tag(imm) {
            frame::FIN => return self.landed(from, frame::arg(imm), None),
            frame::PUT => {
                if let Some((tag, notice)) = self.notice(frame::arg(imm)) {
                    self.message(reach, (from, tag, Charge::NONE), notice, Vec::new(), out);
                    return Ok(());
                }
            }
            _ => {}
        }
        Err(TransportError::Protocol { from, what: "a put for nobody", detail: imm.0.into() })
    }

    fn message(
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
                        self.todo.push_back(Todo::Bounce(from, tag, Some(msg), bytes));
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
            frame::HANDED => return self.landed(from, frame::arg(imm), Some(msg.into_buf())),
            frame::MISSED => match frame::Missed::decode(&msg) {
                // Whose own frame finds no memory fails, and sends no notice.
                Some(missed) if is_own(missed.imm) => return bad("a notice of no message", msg.len()),
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
                _ => return bad("credit for nothing", msg.len()),
            },
            frame::PROBE => match Probe::decode(&msg) {
                Some(probe) => self.todo.push_back(Todo::Probe(probe)),
                None => return bad("a malformed probe", msg.len()),
            },
            frame::RTS => match Rts::decode(&msg) {
                Some(rts) => {
                    let bytes = rts.sizes.iter().fold(rts.head.len() as u64, |sum, size| sum.saturating_add(*size));
                    if bytes > self.message_max {
                        let what = "a message above the limit of ++message-max";
                        return Err(TransportError::Protocol { from, what, detail: bytes });
                    }
                    self.on_rts(from, rts, out);
                }
                None => return bad("a malformed request", msg.len()),
            },
            frame::CTS => match Cts::decode(&msg, |id| self.asked.remove(&id)) {
                Some(cts) => self.todo.push_back(Todo::Send(from, cts)),
                None => return bad("a malformed answer", msg.len()),
            },
            frame::REFUSE => match frame::decode_word(&msg) {
                Some(id) if self.asked.remove(&id).is_some() => self.todo.push_back(Todo::Refused(id)),
                _ => return bad("a refusal of nothing", msg.len()),
            },
            frame::WRITE => self.todo.push_back(Todo::Write(from, msg)),
            tag => return bad("an unknown frame", tag.into()),
        }
        Ok(())
    }

    /// A message or payload of a peer found no memory, here or there.
    pub(super) fn missed(&mut self, from: Pe, imm: Imm, len: u64) -> Result<(), TransportError> {
        let peer = self.peers.entry(from).or_default();
        match frame::tag(imm) {
            // Its sender knows, and has what it needs to say so. What came ahead of it belongs to nothing.
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
                let slot = frame::arg(imm);
                match self.arriving.get_mut(slot) {
                    Some(Some(arriving)) if arriving.from == from => arriving.missed = true,
                    _ => {
                        return Err(TransportError::Protocol {
                            from,
                            what: "a payload for nobody",
                            detail: slot as u64,
                        });
                    }
                }
                return self.landed(from, slot, Some(RegBuf::heap(0)));
            }
            _ => return Err(TransportError::MessageRefused { pe: self.pe, size: len }),
        }
        Ok(())
    }

    /// A message of this PE's came back, for it found no memory there, or here. A payload's message will be told of by the
    /// receiver.
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

    /// A message of a peer's is over, without having been in the queue of this PE.
    pub(super) fn owe(&mut self, to: Pe, cost: u64) {
        if self.accounts.take(to, cost) {
            self.todo.push_back(Todo::Credit(to));
        }
    }

    fn on_rts(&mut self, from: Pe, rts: Rts<'_>, out: &mut VecDeque<PortEvent>) {
        let head = Msg::fill(&self.slab, rts.head.len(), |to| write_bytes(to, rts.head));
        let offered = Offered {
            from,
            tag: Tag(rts.tag),
            head,
            sizes: rts.sizes,
            head_follows: rts.head_follows,
            source: Source::There(rts.id),
        };
        let user_chooses = rts.offer && !rts.head_follows;
        let id = self.offer(offered, user_chooses, out);
        if !user_chooses {
            self.todo.push_back(Todo::Cts(id));
        }
    }

    /// Notes an offer down, and tells the user if the user shall choose.
    pub(super) fn offer(&mut self, offered: Offered, tell: bool, out: &mut VecDeque<PortEvent>) -> u64 {
        let id = self.next_offer;
        self.next_offer += 1;
        if tell {
            let head = Msg::fill(&self.slab, offered.head.len(), |to| write_bytes(to, &offered.head));
            let (from, tag, sizes) = (offered.from, offered.tag, offered.sizes.clone());
            out.push_back(PortEvent::Offer(Box::new(Offer { id: OfferId(id), from, tag, head, sizes })));
        }
        self.offers.insert(id, offered);
        id
    }

    /// A place in the table of arriving messages.
    pub(super) fn slot(&mut self, arriving: Arriving) -> usize {
        match self.free_slots.pop() {
            Some(slot) => {
                self.arriving[slot] = Some(arriving);
                slot
            }
            None => {
                self.arriving.push(Some(arriving));
                self.arriving.len() - 1
            }
        }
    }

    /// One payload of the message in `slot` is here: put, or handed over.
    fn landed(&mut self, from: Pe, slot: usize, handed: Option<RegBuf>) -> Result<(), TransportError> {
        let bad = Err(TransportError::Protocol { from, what: "a payload for nobody", detail: slot as u64 });
        let Some(Some(arriving)) = self.arriving.get_mut(slot) else { return bad };
        if arriving.from != from || arriving.missing == 0 {
            return bad;
        }
        let Some(handed) = handed else {
            // One that was put. All that are missing may be to be handed over.
            if arriving.parts.iter().filter(|part| matches!(part, Part::Hand(_))).count() >= arriving.missing {
                return bad;
            }
            return self.here(slot);
        };
        // Payloads are handed over in order.
        let Some(part) = arriving.parts.iter_mut().find(|part| matches!(part, Part::Hand(_))) else { return bad };
        let Part::Hand(destination) = std::mem::replace(part, Part::Hand(None)) else { return bad };
        *part = Part::Here(match destination {
            Some(mut destination) if destination.len() == handed.len() => {
                destination.copy_from_slice(&handed);
                self.counters.copies += 1;
                destination
            }
            _ => handed,
        });
        self.here(slot)
    }

    /// One payload more is here of the message in `slot`, which lacks one.
    fn here(&mut self, slot: usize) -> Result<(), TransportError> {
        if let Some(Some(arriving)) = self.arriving.get_mut(slot) {
            arriving.missing -= 1;
            if arriving.missing == 0 {
                self.todo.push_back(Todo::Finish(slot));
            }
        }
        Ok(())
    }

    /// Hands a complete message to the user.
    pub(super) fn finish(
        &mut self,
        layout: &Layout,
        arrived: Arriving,
        bufs: Vec<RegBuf>,
        out: &mut VecDeque<PortEvent>,
    ) {
        let mut payloads = bufs;
        let msg = match arrived.head {
            Some(head) => head,
            None => payloads.remove(0).into(),
        };
        let reach = layout.reach(self.pe, arrived.from);
        self.message(reach, (arrived.from, arrived.tag, arrived.tag.charge()), msg, payloads, out);
    }
}

/// The weight that an immediate's argument states.
fn weight(arg: usize) -> Charge {
    Charge::of_units(u16::try_from(arg & usize::from(u16::MAX)).expect("16 bits"))
}
