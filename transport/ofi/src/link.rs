//! The state that one PE keeps of another one: what was sent and has arrived, what waits for capacity, and whether they still communicate. Data only: the
//! endpoint acts on it.

use std::collections::VecDeque;

use super::slots::Rma;
use super::wire::{Header, PacketKind, Question};
use charm4rs_transport_core::in_order::{InOrder, OutOfOrder};
use charm4rs_transport_core::memory::Slab;
use charm4rs_transport_core::parting::Parting;
use charm4rs_transport_core::{Imm, Msg, Pe, TransportError};

/// Most entries of the list of a peer's windows that are known to be used already.
const SPENT_MAX: usize = 1024;

/// A decoded message.
#[derive(Debug)]
pub(super) enum Frame {
    Data(Imm, Msg),
    Announce(Imm),
    Fill(Imm, Msg),
    Ask(Question),
    Answer(bool),
    Bye,
    ByeAck,
}

impl Frame {
    /// Decodes a message. Its body is copied into the PE's memory.
    pub(super) fn new(header: &Header, body: &[u8], slab: &Slab) -> Result<Self, TransportError> {
        Ok(match header.kind {
            PacketKind::Data | PacketKind::Fill => {
                let msg = Msg::fill(slab, body.len(), |to| charm4rs_transport_core::memory::write_bytes(to, body));
                if header.kind == PacketKind::Data {
                    Self::Data(Imm(header.imm), msg)
                } else {
                    Self::Fill(Imm(header.imm), msg)
                }
            }
            PacketKind::Announce => Self::Announce(Imm(header.imm)),
            PacketKind::Ask => Self::Ask(Question::decode(body).ok_or(TransportError::Protocol {
                from: header.from,
                what: "a malformed question",
                detail: body.len() as u64,
            })?),
            PacketKind::Granted => Self::Answer(true),
            PacketKind::Refused => Self::Answer(false),
            PacketKind::Bye => Self::Bye,
            PacketKind::ByeAck => Self::ByeAck,
        })
    }
}

/// A message of the backend itself, to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Control {
    pub(super) kind: PacketKind,
    pub(super) imm: u32,
    pub(super) question: Option<Question>,
    /// It must wait until all puts before this number are complete.
    pub(super) after: u64,
}

impl Control {
    pub(super) fn of(kind: PacketKind) -> Self {
        Self { kind, imm: 0, question: None, after: 0 }
    }
}

/// An access that has not been posted.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) slot: usize,
    pub(super) rma: Rma,
    pub(super) there: (u64, u64),
    pub(super) imm: Option<Imm>,
    /// The peer was asked, and has not answered yet.
    pub(super) asked: bool,
    pub(super) delivered: bool,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: Pe,
    /// Its libfabric address; `None` before the first post.
    pub(super) addr: Option<u64>,
    /// Messages sent. They are numbered modulo 2^32.
    pub(super) sent: u32,
    /// Messages that arrive, in the order of their numbers.
    pub(super) in_order: InOrder<Frame>,
    /// The slot of a message that the provider did not accept yet: nothing is sent before it.
    pub(super) deferred: Option<usize>,
    pub(super) control: VecDeque<Control>,
    pub(super) waiting: VecDeque<Waiting>,
    /// Whether it is in the endpoint's list of links that have something to send.
    pub(super) listed: bool,
    /// Puts posted. Those up to `done` are complete, and those later ones that are marked.
    pub(super) puts: u64,
    pub(super) done: u64,
    marks: VecDeque<bool>,
    spent: VecDeque<u64>,
    /// Sends that are posted to libfabric.
    pub(super) flying: usize,
    pub(super) parting: Parting,
}

impl Link {
    pub(super) fn new(peer: Pe) -> Self {
        Self {
            peer,
            addr: None,
            sent: 0,
            in_order: InOrder::default(),
            deferred: None,
            control: VecDeque::new(),
            waiting: VecDeque::new(),
            listed: false,
            puts: 0,
            done: 0,
            marks: VecDeque::new(),
            spent: VecDeque::new(),
            flying: 0,
            parting: Parting::default(),
        }
    }

    /// Whether anything has been sent or received.
    pub(super) fn has_talked(&self) -> bool {
        self.sent != 0 || self.in_order.taken() != 0 || self.puts != 0
    }

    /// Whether there is something to send.
    pub(super) fn has_unsent(&self) -> bool {
        self.deferred.is_some() || !self.control.is_empty() || self.waiting.front().is_some_and(|w| !w.asked)
    }

    /// Takes an arrival. Afterwards `in_order.next()` returns the messages that are next in order.
    pub(super) fn take(&mut self, number: u32, frame: Frame) -> Result<(), TransportError> {
        let bad = |why: OutOfOrder| TransportError::Protocol {
            from: self.peer,
            what: why.describe(),
            detail: u64::from(number),
        };
        self.in_order.keep(number, frame).map_err(bad)
    }

    /// Counts a put that is posted now, and returns its number.
    pub(super) fn count_put(&mut self) -> u64 {
        self.puts += 1;
        self.marks.push_back(false);
        self.puts
    }

    /// Marks a put as complete.
    pub(super) fn mark_put(&mut self, number: u64) {
        let at = number.checked_sub(self.done + 1).and_then(|at| usize::try_from(at).ok());
        if let Some(mark) = at.and_then(|at| self.marks.get_mut(at)) {
            *mark = true;
        }
        while self.marks.front() == Some(&true) {
            self.marks.pop_front();
            self.done += 1;
        }
    }

    /// Whether the first use of a window is over.
    pub(super) fn is_spent(&self, window: u64) -> bool {
        self.spent.contains(&window)
    }

    pub(super) fn spend(&mut self, window: u64) {
        if self.spent.len() >= SPENT_MAX {
            self.spent.pop_front();
        }
        self.spent.push_back(window);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_count_as_done_up_to_the_first_that_is_not() {
        let mut link = Link::new(Pe(1));
        let numbers: Vec<u64> = (0..4).map(|_| link.count_put()).collect();
        for (put, done) in [(numbers[1], 0), (numbers[0], 2), (numbers[3], 2), (numbers[2], 4)] {
            link.mark_put(put);
            assert_eq!(link.done, done);
        }
    }
}
