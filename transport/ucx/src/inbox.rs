//! Records what UCX delivers. Its callbacks run in the middle of progress, so they only check the head, copy what they
//! must, and leave the rest to the endpoint. Knows nothing of UCX but its descriptor of bytes that wait at their sender.

use std::collections::VecDeque;

use super::endpoint::INJECT_MAX;
use super::head::{Head, HeadKind};
use super::worker::Waiting;
use charm4rs_transport_core::event_queue::EventQueue;
use charm4rs_transport_core::in_order::InOrder;
use charm4rs_transport_core::memory::exposed::Windows;
use charm4rs_transport_core::memory::pool::Pool;
use charm4rs_transport_core::memory::{Slab, write_bytes};
use charm4rs_transport_core::peer_table::PeerTable;
use charm4rs_transport_core::{Event, Msg, Pe, RegBuf};

/// An arrival.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A message whose bytes have arrived.
    Whole(Head, Msg),
    /// A put whose bytes are in the window, or that was refused.
    Placed(Head, bool),
    /// A message whose bytes wait at their sender, and their number.
    Offered(Head, Waiting, usize),
}

/// An entry in the sequence of a peer's messages.
#[derive(Debug)]
pub(super) enum Turn {
    Event(Event),
    Bye,
}

/// The arrivals of a peer.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) pe: Pe,
    messages: InOrder<Turn>,
    /// The peer is lost: what may still arrive is discarded.
    lost: bool,
}

/// A PE's arrivals.
#[derive(Debug)]
pub(super) struct Inbox {
    pass: u64,
    pes: u32,
    pub(super) slab: Slab,
    pub(super) pool: Pool,
    pub(super) windows: Windows,
    peers: PeerTable,
    /// All peers that have sent something, or to which something was sent.
    pub(super) senders: Vec<Sender>,
    /// Events to be returned.
    pub(super) ready: EventQueue,
    /// Arrivals to be handled.
    pub(super) arrivals: VecDeque<Arrival>,
    /// Messages of strangers, which are discarded.
    pub(super) strangers: u64,
}

impl Inbox {
    /// An inbox that accepts messages with this `pass`, from PEs below `pes`.
    pub(super) fn new(pass: u64, pes: u32, generation: u32, pool: Pool) -> Self {
        let (slab, windows) = (Slab::new(), Windows::new(generation));
        Self {
            pass,
            pes,
            slab,
            pool,
            windows,
            peers: PeerTable::default(),
            senders: Vec::new(),
            ready: EventQueue::default(),
            arrivals: VecDeque::new(),
            strangers: 0,
        }
    }

    /// Memory for `len` bytes that arrive.
    pub(super) fn room(&mut self, len: usize) -> Option<RegBuf> {
        self.pool.alloc(len).ok().or_else(|| RegBuf::try_heap(len))
    }

    /// Copies a message's bytes, into memory that can be passed on if the message is long.
    fn copy(&mut self, bytes: &[u8]) -> Msg {
        if bytes.len() > INJECT_MAX
            && let Some(mut room) = self.room(bytes.len())
        {
            room.copy_from_slice(bytes);
            return room.into();
        }
        Msg::fill(&self.slab, bytes.len(), |to| write_bytes(to, bytes))
    }

    /// The index of a peer among the senders.
    #[inline]
    pub(super) fn sender(&mut self, pe: Pe) -> usize {
        self.peers.place(pe, || self.senders.push(Sender { pe, messages: InOrder::default(), lost: false }))
    }

    /// Discards what may still arrive from a sender.
    pub(super) fn forget(&mut self, sender: usize) {
        self.senders[sender].lost = true;
    }

    /// Takes an entry of a sender's sequence. Returns whether the sender's last message has become due; `None`: the entry is impossible.
    pub(super) fn turn(&mut self, sender: usize, number: u32, turn: Turn) -> Option<bool> {
        let (ready, mut bye) = (&mut self.ready, false);
        let taken = self.senders[sender].messages.take(number, turn, |turn| match turn {
            Turn::Event(event) => ready.push(event),
            Turn::Bye => bye = true,
        });
        taken.ok().map(|()| bye)
    }

    fn head(&mut self, bytes: &[u8]) -> Option<Head> {
        let head = Head::decode(bytes).filter(|head| head.pass == self.pass && head.from < Pe(self.pes));
        self.strangers += u64::from(head.is_none());
        head
    }

    /// Takes a message whose bytes are valid for the duration of this call. Returns whether an arrival must be handled.
    #[inline]
    pub(super) fn whole(&mut self, head: &[u8], bytes: &[u8]) -> bool {
        let Some(head) = self.head(head) else { return true };
        let arrival = match head.kind {
            HeadKind::Put | HeadKind::QuietPut => {
                let memory = self.windows.memory(head.words[0], head.words[1], bytes.len() as u64);
                let placed = memory.is_some();
                memory.into_iter().for_each(|memory| memory.copy_from_slice(bytes));
                Arrival::Placed(head, placed)
            }
            HeadKind::Message if bytes.len() <= INJECT_MAX && self.short(&head, bytes) => return false,
            _ => Arrival::Whole(head, self.copy(bytes)),
        };
        self.arrivals.push_back(arrival);
        true
    }

    /// A short message, if it is the next one of its sender, as almost all are.
    #[inline]
    fn short(&mut self, head: &Head, bytes: &[u8]) -> bool {
        let place = self.sender(head.from);
        let sender = &mut self.senders[place];
        if sender.lost || !sender.messages.passes(head.number) {
            return sender.lost;
        }
        let msg = self.copy(bytes);
        self.ready.push(Event::Recv { from: head.from, imm: head.imm, msg });
        true
    }

    /// Takes a message of `len` bytes that wait at their sender. `false`: it is discarded.
    pub(super) fn offered(&mut self, head: &[u8], waiting: Waiting, len: usize) -> bool {
        let Some(head) = self.head(head) else { return false };
        self.arrivals.push_back(Arrival::Offered(head, waiting, len));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::head::HEAD_MAX;
    use super::*;
    use charm4rs_transport_core::Imm;
    use charm4rs_transport_core::memory::map::{HUGE, PAGE};
    use charm4rs_transport_core::memory::pool::{Arena, fresh_tags};
    use charm4rs_transport_core::memory::segment::Segment;

    fn inbox() -> Inbox {
        let arena = Arena::new(Arc::new(Segment::private(PAGE, HUGE).unwrap()), fresh_tags());
        Inbox::new(7, 4, 0, Pool::new(Pe(0), Arc::new(arena)))
    }

    /// Delivers a message of one byte. Returns whether an arrival must be handled.
    fn arrives(inbox: &mut Inbox, pass: u64, from: u32, number: u32) -> bool {
        let head = Head { pass, from: Pe(from), imm: Imm(1), number, kind: HeadKind::Message, words: [0; 3] };
        let mut bytes = [0; HEAD_MAX];
        let len = head.encode(&mut bytes);
        inbox.whole(&bytes[..len], &[0])
    }

    #[test]
    fn the_next_message_of_a_sender_is_ready_at_once_and_others_are_arrivals() {
        let mut inbox = inbox();
        assert!(!arrives(&mut inbox, 7, 1, 0) && !arrives(&mut inbox, 7, 2, 0) && !arrives(&mut inbox, 7, 1, 1));
        assert_eq!((inbox.ready.len(), inbox.arrivals.len()), (3, 0));
        assert!(arrives(&mut inbox, 7, 1, 3), "one is missing before it");
        assert_eq!((inbox.ready.len(), inbox.arrivals.len()), (3, 1));
    }

    #[test]
    fn messages_of_lost_peers_and_strangers_are_discarded() {
        let mut inbox = inbox();
        let lost = inbox.sender(Pe(1));
        inbox.forget(lost);
        assert!(!arrives(&mut inbox, 7, 1, 0));
        assert!(arrives(&mut inbox, 8, 2, 0) && arrives(&mut inbox, 7, 4, 0), "they are arrivals");
        assert_eq!((inbox.ready.len(), inbox.arrivals.len(), inbox.strangers), (0, 0, 2));
    }
}
