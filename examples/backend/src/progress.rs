//! A PE's endpoint: arrivals. Packets come from other processes and are not trusted. A packet that breaks the protocol ends the job with an error that
//! names its sender, and changes no memory.

use charm4rs_transport_core::failure_detector::Loss;
use charm4rs_transport_core::fast_path::Arrival;
use charm4rs_transport_core::memory::{Msg, write_bytes};
use charm4rs_transport_core::{Event, Pe, TransportError};
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;

use crate::endpoint::{DIALED, DIALER, Presence, UnixEndpoint};
use crate::link::{Link, Role};
use crate::packet::{Malformed, Packet};
use crate::post::{LISTENER, token};
use crate::socket::{self, Received};

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// The maximum of packets that are read from one connection before the next connection is served.
const BURST: usize = 32;

impl UnixEndpoint {
    /// Serves the connections that are ready, until there are `max` arrivals. Packets that are not read yet make the descriptor ready again.
    pub(crate) fn poll(&mut self, max: usize) -> Result<(), TransportError> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        if self.failures.round() {
            for Loss { process, why } in self.failures.take()? {
                self.job.layout.pes_of(process).for_each(|pe| self.lose(Pe(pe), why));
            }
        }
        self.undialed = false;
        let (mut ready, mut buffer) = (std::mem::take(&mut self.ready), std::mem::take(&mut self.buffer));
        let served = self.serve_ready(&mut ready, &mut buffer, max);
        (self.ready, self.buffer) = (ready, buffer);
        served
    }

    fn serve_ready(
        &mut self,
        ready: &mut Vec<epoll::Event>,
        buffer: &mut [u8],
        max: usize,
    ) -> Result<(), TransportError> {
        ready.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(ready), Some(&NOW)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(TransportError::system("epoll_wait", e)),
        }
        for event in ready.iter() {
            match usize::try_from(event.data.u64()) {
                _ if self.arrivals.len() >= max => break,
                _ if event.data.u64() == LISTENER => self.accept()?,
                Ok(index) => self.serve(index, event.flags, buffer, max)?,
                Err(_) => unreachable!("a token is an index"),
            }
        }
        Ok(())
    }

    /// Accepts connections that processes of this job dialed.
    pub(crate) fn accept(&mut self) -> Result<(), TransportError> {
        while let Some(socket) = socket::accept(&self.listener)? {
            let process = socket::peer_process(&socket);
            let of_process = self.job.addresses.iter().position(|address| Some(address.pid) == process);
            // The socket of a process outside of the job is closed without an answer.
            if let Some(pe) = of_process {
                let pe = Pe(u32::try_from(pe).expect("PEs are counted in 32 bits"));
                self.add(pe, Role::Unknown, socket)?;
            }
        }
        Ok(())
    }

    fn serve(&mut self, index: usize, flags: EventFlags, buffer: &mut [u8], max: usize) -> Result<(), TransportError> {
        // The link may have ended since `epoll_wait` returned.
        let Some(link) = &mut self.links[index] else { return Ok(()) };
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            link.hung_up();
        } else if flags.contains(EventFlags::OUT) {
            let _ = link.flush();
        }
        for _ in 0..BURST {
            let Some(link) = &mut self.links[index] else { return Ok(()) };
            if self.arrivals.len() >= max || link.role != Role::Dialer && link.is_full() {
                break;
            }
            match socket::receive(&link.socket, buffer)? {
                Received::Nothing => break,
                Received::End => {
                    self.ended(index);
                    return Ok(());
                }
                Received::Packet(len) => {
                    let from = link.peer;
                    let packet = Packet::read(&buffer[..len]);
                    let packet = packet.map_err(|Malformed { what, value }| violation(from, what, value))?;
                    self.take(index, packet)?;
                }
            }
        }
        self.links[index].as_mut().map_or(Ok(()), |link| link.watch(&self.epoll, token(index)))
    }

    /// Handles a packet.
    fn take(&mut self, index: usize, packet: Packet<'_>) -> Result<(), TransportError> {
        let link = self.links[index].as_mut().expect("the link has just been read from");
        let from = link.peer;
        match (link.role, packet) {
            (Role::Unknown, Packet::Hello(pe)) => self.greet(index, pe)?,
            (Role::Dialed, Packet::Message(imm, body)) => {
                let msg = Msg::fill(&self.slab, body.len(), |to| write_bytes(to, body));
                self.arrivals.push_back(Arrival::Message(from, imm, msg));
            }
            (Role::Dialed, Packet::Put { window, offset, imm, body }) => {
                let Some(memory) = self.windows.memory(window, offset, body.len() as u64) else {
                    link.send_or_keep(&Packet::Refused);
                    return Ok(());
                };
                memory.copy_from_slice(body);
                self.arrivals.extend(imm.map(|imm| Arrival::Put(from, imm)));
                link.send_or_keep(&Packet::Stored);
            }
            (Role::Dialed, Packet::Get { window, offset, len }) => {
                let memory = self.windows.memory(window, offset, len.into());
                link.send_or_keep(&memory.map_or(Packet::Refused, |bytes| Packet::Data(bytes)));
            }
            (Role::Dialer, Packet::Stored | Packet::Data(_) | Packet::Refused) => {
                let event = answered(link, packet)?;
                self.events.push(event);
            }
            (Role::Dialer | Role::Dialed, Packet::Goodbye) => {
                let place = self.place(from);
                self.peers[place].presence = Presence::Closed;
            }
            _ => return Err(violation(from, "a packet out of place", packet.head()[0].into())),
        }
        Ok(())
    }

    /// Handles the first packet of a connection, which tells the PE at the other end.
    fn greet(&mut self, index: usize, pe: Pe) -> Result<(), TransportError> {
        let link = self.links[index].as_mut().expect("the link has just been read from");
        let process = self.job.addresses[link.peer.index()].pid;
        let is_of_process = self.job.addresses.get(pe.index()).is_some_and(|address| address.pid == process);
        if !is_of_process || pe == self.me {
            return Err(violation(link.peer, "a process acts for a PE that is not its own", pe.0.into()));
        }
        (link.peer, link.role) = (pe, Role::Dialed);
        let place = self.place(pe);
        let peer = &mut self.peers[place];
        if peer.links[DIALED].is_some() {
            return Err(violation(pe, "a second connection", index as u64));
        }
        peer.links[DIALED] = Some(index);
        if peer.presence == Presence::Lost {
            // The peer died, and its loss was reported, before this connection was accepted.
            self.remove(index);
        }
        Ok(())
    }

    /// Handles the end of a connection, after a goodbye or because the peer died.
    fn ended(&mut self, index: usize) {
        let Some(link) = &self.links[index] else { return };
        let (pe, role) = (link.peer, link.role);
        let place = self.place(pe);
        if role != Role::Unknown && self.peers[place].presence == Presence::Open {
            return self.lose(pe, "its connection ended without a goodbye");
        }
        let failed = self.remove(index).into_iter().flat_map(|link| link.fail("it has closed"));
        self.events.extend(failed);
    }

    /// Removes a peer that died, with all its connections. A peer that has closed is not reported.
    fn lose(&mut self, pe: Pe, why: &'static str) {
        let place = self.place(pe);
        let peer = &mut self.peers[place];
        if peer.presence != Presence::Open {
            return;
        }
        peer.presence = Presence::Lost;
        for index in peer.links.into_iter().flatten() {
            let failed = self.remove(index).into_iter().flat_map(|link| link.fail(why));
            self.events.extend(failed);
        }
        self.events.push(Event::PeerLost { pe, why });
    }

    /// Removes a connection from the lists.
    fn remove(&mut self, index: usize) -> Option<Link> {
        let link = self.links[index].take()?;
        // Closing the socket is not enough if another thread has just forked: the child holds a copy until it executes its program.
        let _ = epoll::delete(&self.epoll, &link.socket);
        let place = self.place(link.peer);
        let slot = if link.role == Role::Dialer { DIALER } else { DIALED };
        let links = &mut self.peers[place].links;
        if links[slot] == Some(index) {
            links[slot] = None;
        }
        Some(link)
    }
}

/// The event for a request that was answered.
fn answered(link: &mut Link, packet: Packet<'_>) -> Result<Event, TransportError> {
    let (pe, left) = (link.peer, link.unanswered.len() as u64);
    let request = link.unanswered.pop_front().ok_or_else(|| violation(pe, "an answer without a question", left))?;
    let (op, mut buf) = (request.op, request.buf);
    Ok(match packet {
        Packet::Stored if !request.is_get => Event::Sent { op, buf: Some(buf) },
        Packet::Data(bytes) if request.is_get && bytes.len() == buf.len() => {
            buf.copy_from_slice(bytes);
            Event::Got { op, buf }
        }
        Packet::Refused => Event::Failed { op, buf: Some(buf), error: Box::new(TransportError::WindowRefused { pe }) },
        _ => return Err(violation(pe, "an answer that does not match its request", left)),
    })
}

fn violation(from: Pe, what: &'static str, detail: u64) -> TransportError {
    TransportError::Protocol { from, what, detail }
}
