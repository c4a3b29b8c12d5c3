//! The code that posts share: the connection to a peer, and the reason why a post is refused.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use charm4rs_transport_core::fast_path::Arrival;
use charm4rs_transport_core::memory::Msg;
use charm4rs_transport_core::{Imm, Pe, PostError, TransportError};

use crate::endpoint::{DIALER, Peer, Presence, UnixEndpoint};
use crate::link::{Link, Role};
use crate::packet::Packet;
use crate::socket::{self, Dialed, Sent};

/// The epoll token of the listener.
pub(crate) const LISTENER: u64 = u64::MAX;

/// The epoll token of a link.
pub(crate) fn token(index: usize) -> u64 {
    index as u64
}

/// The reason why a post is refused.
pub(crate) enum Refusal {
    Busy,
    PeerDown,
}

impl Refusal {
    pub(crate) fn with<B>(self, to: Pe, buf: B) -> PostError<B> {
        match self {
            Self::Busy => PostError::Busy(buf),
            Self::PeerDown => PostError::PeerDown(to, buf),
        }
    }
}

impl UnixEndpoint {
    /// The peer's index in the list of peers.
    pub(crate) fn place(&mut self, pe: Pe) -> usize {
        let peers = &mut self.peers;
        self.table.place(pe, || peers.push(Peer { presence: Presence::Open, links: [None; 2] }))
    }

    /// Adds a connection.
    pub(crate) fn add(&mut self, peer: Pe, role: Role, socket: OwnedFd) -> Result<usize, TransportError> {
        let free = self.links.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.links.push(None);
            self.links.len() - 1
        });
        self.links[index] = Some(Link::new(peer, role, socket, &self.epoll, token(index))?);
        Ok(index)
    }

    /// The connection for posts to a peer. Dials the peer if there is none.
    fn link_to(&mut self, to: Pe) -> Result<usize, Refusal> {
        let place = self.place(to);
        let peer = &self.peers[place];
        match peer.links[DIALER] {
            _ if peer.presence != Presence::Open => return Err(Refusal::PeerDown),
            Some(index) => return Ok(index),
            None => {}
        }
        let added = match socket::dial(&self.job.addresses[to.index()]) {
            Ok(Dialed::Connected(socket)) => self.add(to, Role::Dialer, socket),
            Ok(Dialed::Full) => {
                self.undialed = true;
                return Err(Refusal::Busy);
            }
            Ok(Dialed::Gone) => {
                self.peers[place].presence = Presence::Closed;
                return Err(Refusal::PeerDown);
            }
            Err(error) => Err(error),
        };
        match added {
            Ok(index) => {
                self.peers[place].links[DIALER] = Some(index);
                let hello = Packet::Hello(self.me);
                self.link(index).send_or_keep(&hello);
                Ok(index)
            }
            Err(error) => {
                self.broken = Some(error);
                Err(Refusal::Busy)
            }
        }
    }

    /// A link that exists.
    pub(crate) fn link(&mut self, index: usize) -> &mut Link {
        self.links[index].as_mut().expect("a peer's link exists until it ends")
    }

    pub(crate) fn watch(&mut self, index: usize) {
        let watched = self.links[index].as_mut().map_or(Ok(()), |link| link.watch(&self.epoll, token(index)));
        if let Err(error) = watched {
            self.broken = Some(error);
        }
    }

    /// The outcome of a post, from that of its packet.
    fn answer(&mut self, index: usize, sent: Sent) -> Result<usize, Refusal> {
        match sent {
            Sent::Done => Ok(index),
            Sent::Full => {
                // If this PE sleeps, epoll wakes it when there is room.
                self.watch(index);
                Err(Refusal::Busy)
            }
            // Progress determines whether the peer has closed or died.
            Sent::Gone => Err(Refusal::PeerDown),
        }
    }

    /// Sends a request, or refuses it.
    pub(crate) fn request(&mut self, to: Pe, packet: &Packet<'_>) -> Result<usize, Refusal> {
        let index = self.link_to(to)?;
        let sent = self.link(index).send(packet);
        self.answer(index, sent)
    }

    /// The link for a message that is not written yet, if the message can be sent.
    pub(crate) fn room_for(&mut self, to: Pe) -> Result<usize, Refusal> {
        let index = self.link_to(to)?;
        let sent = self.link(index).flush();
        self.answer(index, sent)
    }

    /// Sends a small message on a link that has room. `fill` has been called, so if the kernel has no room, the link keeps the message.
    pub(crate) fn send_filled(
        &mut self,
        index: usize,
        imm: Imm,
        len: usize,
        fill: impl FnOnce(&mut [MaybeUninit<u8>]),
    ) {
        self.scratch.set_len(len);
        self.scratch.fill_with(fill);
        let link = self.links[index].as_mut().expect("a peer's link exists until it ends");
        link.send_or_keep(&Packet::Message(imm, &self.scratch));
        self.watch(index);
    }

    /// Sends a message of this PE to itself.
    pub(crate) fn send_to_self(&mut self, imm: Imm, len: usize, fill: impl FnOnce(&mut [MaybeUninit<u8>])) {
        let msg = Msg::fill(&self.slab, len, fill);
        self.arrivals.push_back(Arrival::Message(self.me, imm, msg));
    }
}
