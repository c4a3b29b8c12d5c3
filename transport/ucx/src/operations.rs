//! Handles arrivals, completions, failures and lost peers.

use std::sync::atomic::Ordering;

use charm4rs_ucx_sys::{UCS_OK, ucs_status_t};

use super::endpoint::UcxEndpoint;
use super::head::{Head, HeadKind, UNANSWERED};
use super::inbox::{Arrival, Turn};
use super::worker::{Began, Held, Waiting};
use charm4rs_transport_core::failure_detector::Loss;
use charm4rs_transport_core::{Event, OpId, Pe, RegBuf, TransportError};

/// An operation in flight.
#[derive(Debug)]
pub(super) struct Operation {
    /// The index of the peer in the table.
    pub(super) peer: usize,
    pub(super) len: usize,
    pub(super) what: What,
}

/// The type of an operation in flight.
#[derive(Debug)]
pub(super) enum What {
    /// A message that was written in place.
    Inject,
    /// A message of the endpoint itself.
    Control,
    /// A message; the number by which it may be refused.
    Send { op: OpId, number: u64, refused: bool },
    /// A put that waits for this answer.
    Put(u64),
    /// The answer to a get.
    Answer,
    /// Incoming: a message.
    Message(Head),
    /// Incoming: bytes for a window.
    Part(Head),
    /// Incoming: bytes of a get.
    Got { op: OpId },
    /// An operation whose result is not needed any more.
    Nothing,
}

/// A put or get that waits for an answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) op: OpId,
    pub(super) peer: usize,
    pub(super) is_get: bool,
    /// The source of a put once UCX has released it; the destination of a get.
    pub(super) buf: Option<RegBuf>,
    /// Whether a put was accepted.
    pub(super) answer: Option<bool>,
}

impl Held {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Buf(buf) => buf.len(),
            Self::Part(part) => part.len,
        }
    }

    pub(super) fn buf(self) -> Option<RegBuf> {
        if let Self::Buf(buf) = self { Some(buf) } else { None }
    }

    /// Its buffer, which must be there.
    pub(super) fn into_buf(self) -> RegBuf {
        self.buf().expect("an operation gives its buffer back")
    }
}

impl UcxEndpoint {
    /// Checks everything once.
    #[inline]
    pub(super) fn round(&mut self) -> Result<(), TransportError> {
        if self.failures.round() {
            self.hear()?;
        }
        self.worker.progress();
        if self.worker.take_news() {
            self.look()?;
        }
        self.fatal.take().map_or(Ok(()), Err)
    }

    /// Handles what has happened.
    fn look(&mut self) -> Result<(), TransportError> {
        // Completions come first, since they release what answers to arrivals need. Broken connections come last, after all that came before.
        while let Some((slot, status)) = { self.worker.done().pop() } {
            self.ended(slot, status);
        }
        while let Some(arrival) = { self.worker.inbox().arrivals.pop_front() } {
            self.arrived(arrival)?;
        }
        while let Some((index, status)) = { self.worker.broken().pop() } {
            self.fails(index as usize, status);
        }
        let strangers = std::mem::take(&mut self.worker.inbox().strangers);
        if strangers > 0 {
            self.shared.counters.strangers.fetch_add(strangers, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Handles reports of processes that are gone.
    #[cold]
    fn hear(&mut self) -> Result<(), TransportError> {
        for Loss { process, why } in self.failures.take()? {
            for pe in self.shared.config.layout.pes_of(process) {
                let index = self.peer(Pe(pe));
                self.lose(index, why);
            }
        }
        Ok(())
    }

    /// Memory for `len` bytes that arrive.
    fn room(&mut self, len: usize) -> Option<RegBuf> {
        self.worker.inbox().room(len)
    }

    fn violation(from: Pe, what: &'static str, detail: u64) -> TransportError {
        TransportError::Protocol { from, what, detail }
    }

    fn arrived(&mut self, arrival: Arrival) -> Result<(), TransportError> {
        let head = match &arrival {
            Arrival::Whole(head, _) | Arrival::Placed(head, _) | Arrival::Offered(head, ..) => *head,
        };
        let index = self.peer(head.from);
        if self.peers[index].parting.is_lost() {
            if let Arrival::Offered(_, waiting, _) = arrival {
                self.worker.refuse(&waiting);
            }
            return Ok(());
        }
        match arrival {
            Arrival::Whole(head, msg) => match head.kind {
                HeadKind::Message => {
                    if msg.len() >= self.shared.config.collected_min {
                        self.copies += 1;
                    }
                    self.turn(index, &head, Turn::Event(Event::Recv { from: head.from, imm: head.imm, msg }))
                }
                HeadKind::Bye => self.turn(index, &head, Turn::Bye),
                HeadKind::Got => {
                    let reply = self.replies.remove(&head.words[2]).filter(|reply| reply.is_get);
                    let Some(Reply { op, buf: Some(mut buf), .. }) = reply.filter(|reply| reply.peer == index) else {
                        return Err(Self::violation(head.from, "bytes that were not requested", msg.len() as u64));
                    };
                    if buf.len() != msg.len() {
                        return Err(Self::violation(
                            head.from,
                            "a length other than the requested one",
                            msg.len() as u64,
                        ));
                    }
                    buf.copy_from_slice(&msg);
                    self.worker.inbox().ready.push(Event::Got { op, buf });
                    Ok(())
                }
                _ => self.told(index, &head),
            },
            Arrival::Placed(head, placed) => self.placed(index, &head, placed),
            Arrival::Offered(head, waiting, len) => self.offered(index, head, &waiting, len),
        }
    }

    /// Handles a message that is only a head.
    fn told(&mut self, index: usize, head: &Head) -> Result<(), TransportError> {
        let number = head.words[2];
        match head.kind {
            HeadKind::ByeAck => {
                if !self.peers[index].parting.confirm() {
                    return Err(Self::violation(head.from, "the answer to a goodbye that was not sent", 0));
                }
            }
            HeadKind::Refused => {
                for operation in self.operations.iter_mut().flatten().filter(|operation| operation.peer == index) {
                    if let What::Send { number: its, refused, .. } = &mut operation.what
                        && *its == number
                    {
                        *refused = true;
                    }
                }
            }
            HeadKind::PutDone | HeadKind::PutRefused => {
                let Some(reply) = self.replies.get_mut(&number).filter(|reply| !reply.is_get && reply.peer == index)
                else {
                    return Err(Self::violation(head.from, "an answer without a put", number));
                };
                reply.answer = Some(head.kind == HeadKind::PutDone);
                self.finish_put(number);
            }
            HeadKind::GetRefused => {
                let reply = self.replies.remove(&number).filter(|reply| reply.is_get && reply.peer == index);
                let Some(Reply { op, buf, .. }) = reply else {
                    return Err(Self::violation(head.from, "an answer without a get", number));
                };
                let error = Box::new(TransportError::WindowRefused { pe: head.from });
                self.worker.inbox().ready.push(Event::Failed { op, buf, error });
            }
            HeadKind::Get => self.answer(index, head),
            kind => return Err(Self::violation(head.from, "a message without its bytes", kind as u64)),
        }
        Ok(())
    }

    /// Takes an entry of a peer's sequence.
    fn turn(&mut self, index: usize, head: &Head, turn: Turn) -> Result<(), TransportError> {
        let Some(bye) = ({ self.worker.inbox().turn(index, head.number, turn) }) else {
            return Err(Self::violation(head.from, "a message out of its sequence", head.number.into()));
        };
        if bye {
            self.control(index, HeadKind::ByeAck, 0, [0; 3]);
            self.peers[index].parting.hear();
        }
        Ok(())
    }

    /// A put's bytes are in their window, or were refused.
    fn placed(&mut self, index: usize, head: &Head, placed: bool) -> Result<(), TransportError> {
        if head.words[2] != UNANSWERED {
            let kind = if placed { HeadKind::PutDone } else { HeadKind::PutRefused };
            self.control(index, kind, 0, [0, 0, head.words[2]]);
        } else if !placed {
            return Err(Self::violation(head.from, "a put to a window that was taken back", head.words[0]));
        }
        let (inbox, from) = (&mut *self.worker.inbox(), head.from);
        let announced = (placed && head.kind == HeadKind::Put).then_some(head.imm);
        let taken = self.peers[index].puts.take(head.number, announced, |announced| {
            inbox.ready.extend(announced.map(|imm| Event::PutArrived { from, imm }));
        });
        taken.map_err(|_| Self::violation(from, "a put out of its sequence", head.number.into()))
    }

    /// Handles bytes that wait at their sender.
    fn offered(&mut self, index: usize, head: Head, waiting: &Waiting, len: usize) -> Result<(), TransportError> {
        if len as u64 > self.shared.config.message_max {
            self.worker.refuse(waiting);
            return Err(Self::violation(head.from, "a message above the limit of ++message-max", len as u64));
        }
        let (held, what) = match head.kind {
            HeadKind::Message => {
                let Some(buf) = self.room(len) else {
                    self.control(index, HeadKind::Refused, 0, [0, 0, head.words[2]]);
                    self.worker.refuse(waiting);
                    let missed = Event::Missed { from: head.from, imm: head.imm, len: len as u64 };
                    return self.turn(index, &head, Turn::Event(missed));
                };
                (Held::Buf(buf), What::Message(head))
            }
            HeadKind::Put | HeadKind::QuietPut => {
                let part = self.worker.inbox().windows.enter(head.words[0], head.words[1], len);
                let Some(part) = part else {
                    let refused = self.placed(index, &head, false);
                    self.worker.refuse(waiting);
                    return refused;
                };
                (Held::Part(part), What::Part(head))
            }
            HeadKind::Got => {
                let reply = self.replies.remove(&head.words[2]).filter(|reply| reply.is_get && reply.peer == index);
                let Some(Reply { op, buf: Some(buf), .. }) =
                    reply.filter(|reply| reply.buf.as_ref().is_some_and(|b| b.len() == len))
                else {
                    return Err(Self::violation(head.from, "bytes that were not requested", len as u64));
                };
                (Held::Buf(buf), What::Got { op })
            }
            kind => return Err(Self::violation(head.from, "bytes in a message of a kind without bytes", kind as u64)),
        };
        match self.worker.collect(waiting, held) {
            Began::On(slot) => self.note(slot, Operation { peer: index, len: 0, what }),
            Began::Done(held) => self.here(index, what, held, UCS_OK),
            Began::Failed(status, held) => self.here(index, what, held, status),
        }
        Ok(())
    }

    /// An incoming operation has ended.
    fn here(&mut self, index: usize, what: What, held: Held, status: ucs_status_t) {
        if let Held::Part(part) = &held {
            self.worker.inbox().windows.leave(part);
        }
        if status != UCS_OK {
            if let What::Got { op } = what {
                let error =
                    Box::new(TransportError::PeerDown { pe: self.peers[index].pe, why: self.worker.words(status) });
                self.worker.inbox().ready.push(Event::Failed { op, buf: held.buf(), error });
            }
            return self.fails(index, status);
        }
        let sequenced = match (what, held) {
            (What::Message(head), Held::Buf(buf)) => {
                let message = Event::Recv { from: head.from, imm: head.imm, msg: buf.into() };
                self.turn(index, &head, Turn::Event(message))
            }
            (What::Part(head), _) => self.placed(index, &head, true),
            (What::Got { op }, Held::Buf(buf)) => {
                self.worker.inbox().ready.push(Event::Got { op, buf });
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = sequenced {
            self.fatal.get_or_insert(error);
        }
    }

    /// Answers a get, with a copy: the window may be taken back at any time.
    fn answer(&mut self, index: usize, head: &Head) {
        let [window, offset, number] = head.words;
        let len = head.number as usize;
        // If the range does not exist, no memory is allocated.
        let there = { self.worker.inbox().windows.enter(window, offset, len) };
        let buf = there.and_then(|part| {
            self.worker.inbox().windows.leave(&part);
            self.room(len)
        });
        let Some(mut buf) = buf else { return self.control(index, HeadKind::GetRefused, 0, [0, 0, number]) };
        if let Some(memory) = self.worker.inbox().windows.memory(window, offset, len as u64) {
            buf.copy_from_slice(memory);
        }
        let head = self.head(index, HeadKind::Got, charm4rs_transport_core::Imm(0), 0, [0, 0, number]);
        let peer = &self.peers[index];
        if peer.parting.is_lost() || peer.connection.is_none() && !self.connect(index) {
            return;
        }
        // If the peer is lost, that has been recorded.
        let _ = self.begin(index, &head, Held::Buf(buf), What::Answer);
    }

    /// UCX has finished an operation.
    fn ended(&mut self, slot: u32, status: ucs_status_t) {
        let held = self.worker.take(slot);
        let Some(Operation { peer: index, len, what }) = self.operations[slot as usize].take() else { return };
        self.peers[index].operations -= 1;
        self.peers[index].bytes -= len;
        match what {
            What::Inject | What::Control | What::Answer => {}
            What::Nothing => {
                if let Held::Part(part) = &held {
                    self.worker.inbox().windows.leave(part);
                }
                return;
            }
            What::Send { op, refused, .. } => {
                let buf = held.buf();
                let pe = self.peers[index].pe;
                let size = len as u64;
                self.worker.inbox().ready.push(if refused {
                    Event::Failed { op, buf, error: Box::new(TransportError::MessageRefused { pe, size }) }
                } else if status == UCS_OK || self.peers[index].parting.has_closed() {
                    Event::Sent { op, buf }
                } else {
                    let why = self.worker.words(status);
                    Event::Failed { op, buf, error: Box::new(TransportError::PeerDown { pe, why }) }
                });
            }
            What::Put(number) => {
                if let Some(reply) = self.replies.get_mut(&number) {
                    reply.buf = held.buf();
                    reply.answer = reply.answer.filter(|_| status == UCS_OK);
                }
                self.finish_put(number);
            }
            what @ (What::Message(_) | What::Part(_) | What::Got { .. }) => {
                return self.here(index, what, held, status);
            }
        }
        if status != UCS_OK {
            self.fails(index, status);
        }
    }

    /// A transfer between this PE and a peer failed: the peer is lost, or, if the system lacks a resource, this PE fails.
    #[cold]
    pub(super) fn fails(&mut self, index: usize, status: ucs_status_t) {
        if let Some(lack) = super::lack("a message", status) {
            self.fatal.get_or_insert(lack);
        }
        let why = self.worker.words(status);
        self.lose(index, why);
    }

    /// Reports a put, once it was answered and UCX has released its source.
    fn finish_put(&mut self, number: u64) {
        let ended = self.replies.get(&number).is_some_and(|reply| reply.answer.is_some() && reply.buf.is_some());
        let Some(Reply { op, peer, buf, answer, .. }) = ended.then(|| self.replies.remove(&number)).flatten() else {
            return;
        };
        self.worker.inbox().ready.push(if answer == Some(true) {
            Event::Sent { op, buf }
        } else {
            let error = Box::new(TransportError::WindowRefused { pe: self.peers[peer].pe });
            Event::Failed { op, buf, error }
        });
    }

    /// A peer cannot be reached any more. Reports it, unless it had said goodbye, and fails all operations that wait for it.
    pub(super) fn lose(&mut self, index: usize, why: &'static str) {
        let (pe, was) = (self.peers[index].pe, self.peers[index].parting);
        if was.is_lost() {
            return;
        }
        self.peers[index].parting.lose();
        self.shared.tell();
        self.worker.inbox().forget(index);
        if let Some(connection) = self.peers[index].connection.take() {
            self.worker.cut(&connection);
        }
        if !was.has_heard() {
            self.worker.inbox().ready.push(Event::PeerLost { pe, why });
        }
        let failed = |op, buf| Event::Failed { op, buf, error: Box::new(TransportError::PeerDown { pe, why }) };
        // Their buffers are freed when UCX has released them, which may be at the end of this endpoint.
        for operation in self.operations.iter_mut().flatten().filter(|operation| operation.peer == index) {
            match operation.what {
                What::Send { op, .. } if was.has_heard() => {
                    self.worker.inbox().ready.push(Event::Sent { op, buf: None })
                }
                What::Send { op, .. } | What::Got { op } => self.worker.inbox().ready.push(failed(op, None)),
                _ => {}
            }
            operation.what = What::Nothing;
        }
        let mut waiting: Vec<_> = self.replies.extract_if(|_, reply| reply.peer == index).collect();
        waiting.sort_unstable_by_key(|(number, _)| *number);
        self.worker.inbox().ready.extend(waiting.into_iter().map(|(_, Reply { op, buf, .. })| failed(op, buf)));
    }
}
