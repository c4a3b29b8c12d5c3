//! A link: one end of a connection.
//!
//! A PE dials a peer when it has a request for it. On this connection the dialer sends requests (messages, puts, gets) and reads answers; the dialed PE
//! reads requests and sends answers. Two PEs that both have requests for each other use two connections, so it does not matter which PE dials first.
//!
//! *Answers have no number*: they arrive in the order of their requests, because both directions of a connection keep their order.
//!
//! *One packet waits.* If the kernel has no room for a packet, the link keeps it. A link keeps only one packet and refuses the next; for requests this
//! means `Busy`. While the dialed end keeps an answer, it reads no more requests, so its memory is bounded. The dialer always reads answers, so this wait
//! ends.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use charm4rs_transport_core::{Event, OpId, Pe, RegBuf, TransportError};
use rustix::event::epoll::{self, EventFlags};

use crate::packet::Packet;
use crate::socket::{self, Sent};

/// The role of this end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// This end sends requests.
    Dialer,
    /// A process of the job dialed this end, and has not said yet for which of its PEs.
    Unknown,
    /// This end was dialed, and reads requests.
    Dialed,
}

/// A put or get that is not answered yet.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) op: OpId,
    pub(crate) buf: RegBuf,
    pub(crate) is_get: bool,
}

/// One end of a connection; see the module's text.
#[derive(Debug)]
pub(crate) struct Link {
    /// The PE at the other end; while the role is unknown, any PE of the process that dialed.
    pub(crate) peer: Pe,
    pub(crate) role: Role,
    pub(crate) socket: OwnedFd,
    /// Puts and gets that the peer has not answered, in order.
    pub(crate) unanswered: VecDeque<Request>,
    /// The packet that waits for room; empty if there is none.
    unsent: Vec<u8>,
    /// A packet has been refused since there was last room.
    refused: bool,
    said_goodbye: bool,
    /// The events for which epoll watches.
    watched: EventFlags,
}

impl Link {
    /// A new connection, which `epoll` watches with the token `token`.
    pub(crate) fn new(
        peer: Pe,
        role: Role,
        socket: OwnedFd,
        epoll: &OwnedFd,
        token: u64,
    ) -> Result<Self, TransportError> {
        let watched = EventFlags::IN;
        epoll::add(epoll, &socket, epoll::EventData::new_u64(token), watched)
            .map_err(|e| TransportError::system("epoll_ctl", e))?;
        let unanswered = VecDeque::new();
        Ok(Self { peer, role, socket, unanswered, unsent: Vec::new(), refused: false, said_goodbye: false, watched })
    }

    /// Whether a packet waits for room.
    pub(crate) fn is_full(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Sends the packet that waits. Returns `Done` if another packet may be sent now.
    pub(crate) fn flush(&mut self) -> Sent {
        let sent = if self.is_full() { socket::send(&self.socket, &self.unsent, &[]) } else { Sent::Done };
        self.refused = sent == Sent::Full;
        if sent != Sent::Full {
            self.unsent.clear();
        }
        sent
    }

    /// Sends a packet, or refuses it.
    pub(crate) fn send(&mut self, packet: &Packet<'_>) -> Sent {
        let sent = match self.flush() {
            Sent::Done => socket::send(&self.socket, &packet.head(), packet.body()),
            other => other,
        };
        self.refused = sent == Sent::Full;
        sent
    }

    /// Sends a packet, or keeps it until there is room.
    ///
    /// # Panics
    /// If the link keeps another packet already.
    pub(crate) fn send_or_keep(&mut self, packet: &Packet<'_>) {
        assert!(!self.is_full(), "a link keeps one packet");
        if self.send(packet) == Sent::Full {
            self.unsent.extend_from_slice(&packet.head());
            self.unsent.extend_from_slice(packet.body());
        }
    }

    /// Sends a goodbye, once. Returns whether it has been sent, or the peer is gone.
    pub(crate) fn say_goodbye(&mut self) -> bool {
        self.said_goodbye = self.said_goodbye || self.send(&Packet::Goodbye) != Sent::Full;
        self.said_goodbye
    }

    /// The other end has closed its socket, so nothing more can be sent.
    pub(crate) fn hung_up(&mut self) {
        self.unsent.clear();
        self.refused = false;
    }

    /// Sets the events for which epoll watches: packets, unless an answer must be sent first, and room if a packet waits or was refused. A socket
    /// almost always has room, so without such a packet the descriptor would be ready all the time.
    pub(crate) fn watch(&mut self, epoll: &OwnedFd, token: u64) -> Result<(), TransportError> {
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, self.role == Role::Dialer || !self.is_full());
        wanted.set(EventFlags::OUT, self.refused || self.is_full());
        if wanted != self.watched {
            self.watched = wanted;
            epoll::modify(epoll, &self.socket, epoll::EventData::new_u64(token), wanted)
                .map_err(|e| TransportError::system("epoll_ctl", e))?;
        }
        Ok(())
    }

    /// The connection has ended: the requests that the peer has not answered fail.
    pub(crate) fn fail(self, why: &'static str) -> impl Iterator<Item = Event> {
        let pe = self.peer;
        self.unanswered.into_iter().map(move |Request { op, buf, .. }| {
            let error = Box::new(TransportError::PeerDown { pe, why });
            Event::Failed { op, buf: Some(buf), error }
        })
    }
}
