//! A PE's endpoint: the operations of the seam. `post` has the code that posts share; `progress` handles arrivals.

use std::collections::VecDeque;
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use charm4rs_transport_core::event_queue::EventQueue;
use charm4rs_transport_core::failure_detector::FailurePoll;
use charm4rs_transport_core::fast_path::{Arrival, FastPath};
use charm4rs_transport_core::memory::exposed::Windows;
use charm4rs_transport_core::memory::{Slab, write_bytes};
use charm4rs_transport_core::peer_table::PeerTable;
use charm4rs_transport_core::{
    Caps, Endpoint, Event, Imm, OpId, Pe, PostError, Posted, RegBuf, RemoteKey, TransportError, Window, loopback,
};
use rustix::event::epoll;
use rustix::net::{Shutdown, shutdown};

use crate::Job;
use crate::link::{Link, Request};
use crate::packet::{BODY_MAX, HEAD, Packet};
use crate::post::LISTENER;

/// The maximum of descriptors that one `epoll_wait` returns.
const READY_MAX: usize = 64;
/// The time that a closing PE waits while no peer takes a goodbye.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Whether a peer takes packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Presence {
    Open,
    /// The peer has said goodbye, or does not listen any more.
    Closed,
    /// The peer has died.
    Lost,
}

/// A peer that this endpoint communicates with.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) presence: Presence,
    /// The connection that this end dialed, and the one that the peer dialed: indices of links.
    pub(crate) links: [Option<usize>; 2],
}

/// The index in [`Peer::links`] of the connection that this end dialed.
pub(crate) const DIALER: usize = 0;
/// The index in [`Peer::links`] of the connection that the peer dialed.
pub(crate) const DIALED: usize = 1;

/// A PE's endpoint; see the module's text.
pub struct UnixEndpoint {
    pub(crate) me: Pe,
    pub(crate) caps: Caps,
    pub(crate) job: Arc<Job>,
    pub(crate) listener: OwnedFd,
    pub(crate) epoll: OwnedFd,
    pub(crate) failures: FailurePoll,
    pub(crate) table: PeerTable,
    pub(crate) peers: Vec<Peer>,
    pub(crate) links: Vec<Option<Link>>,
    pub(crate) windows: Windows,
    /// The memory for short messages that arrive.
    pub(crate) slab: Slab,
    /// The buffer that `fill` writes.
    pub(crate) scratch: RegBuf,
    /// The buffer for received packets.
    pub(crate) buffer: Vec<u8>,
    pub(crate) ready: Vec<epoll::Event>,
    pub(crate) arrivals: VecDeque<Arrival>,
    /// All events except arrivals.
    pub(crate) events: EventQueue,
    /// An error of a post; the next progress reports it.
    pub(crate) broken: Option<TransportError>,
    /// A connection was refused for lack of room. No descriptor becomes ready when there is room again.
    pub(crate) undialed: bool,
}

impl fmt::Debug for UnixEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnixEndpoint").field("me", &self.me).field("links", &self.links).finish_non_exhaustive()
    }
}

impl UnixEndpoint {
    pub(crate) fn new(
        me: Pe,
        caps: Caps,
        job: Arc<Job>,
        listener: OwnedFd,
        failures: FailurePoll,
    ) -> Result<Self, TransportError> {
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| TransportError::system("epoll_create", e))?;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)
            .map_err(|e| TransportError::system("epoll_ctl", e))?;
        // Windows are numbered from a random start, so that a wrong number rarely matches a window.
        let first_window = job.addresses[me.index()].random();
        Ok(Self {
            me,
            scratch: RegBuf::heap(caps.inject_max),
            caps,
            job,
            listener,
            epoll,
            failures,
            table: PeerTable::default(),
            peers: Vec::new(),
            links: Vec::new(),
            windows: Windows::new(first_window),
            slab: Slab::new(),
            // One byte more than the longest packet, so that a longer one is detected.
            buffer: vec![0; HEAD + BODY_MAX + 1],
            ready: Vec::with_capacity(READY_MAX),
            arrivals: VecDeque::new(),
            events: EventQueue::default(),
            broken: None,
            undialed: false,
        })
    }

    /// The number of the window in a key, if the key allows access to `len` bytes at `offset`.
    fn window(&self, key: &RemoteKey, offset: u64, buf: RegBuf) -> Result<(u64, RegBuf), PostError<RegBuf>> {
        if buf.len() > self.caps.put_max {
            return Err(PostError::TooLarge { max: self.caps.put_max, buf });
        }
        match Windows::number(key, offset, buf.len()) {
            Some(window) => Ok((window, buf)),
            None => Err(PostError::BadKey(buf)),
        }
    }

    /// Sends a goodbye on each connection that has not sent it yet. Returns a peer whose connection has no room for it.
    fn say_goodbye(&mut self) -> Option<Pe> {
        let mut silent = None;
        for link in self.links.iter_mut().flatten() {
            if !link.say_goodbye() {
                silent = Some(link.peer);
            }
        }
        silent
    }
}

impl Endpoint for UnixEndpoint {
    fn pe(&self) -> Pe {
        self.me
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn alloc(&mut self, len: usize) -> Option<RegBuf> {
        RegBuf::try_heap(len)
    }

    fn inject(
        &mut self,
        to: Pe,
        imm: Imm,
        len: usize,
        fill: &mut dyn FnMut(&mut [MaybeUninit<u8>]),
    ) -> Result<(), PostError<()>> {
        if len > self.caps.inject_max {
            return Err(PostError::TooLarge { max: self.caps.inject_max, buf: () });
        }
        if to == self.me {
            self.send_to_self(imm, len, fill);
        } else {
            let index = self.room_for(to).map_err(|refusal| refusal.with(to, ()))?;
            self.send_filled(index, imm, len, fill);
        }
        Ok(())
    }

    fn send(&mut self, to: Pe, imm: Imm, buf: RegBuf, _op: OpId) -> Result<Posted, PostError<RegBuf>> {
        if buf.len() > self.caps.send_max {
            return Err(PostError::TooLarge { max: self.caps.send_max, buf });
        }
        if to == self.me {
            self.send_to_self(imm, buf.len(), |to| write_bytes(to, &buf));
        } else if let Err(refusal) = self.request(to, &Packet::Message(imm, &buf)) {
            return Err(refusal.with(to, buf));
        }
        // The kernel has copied the buffer, so it is dropped here.
        Ok(Posted::Done)
    }

    fn expose(&mut self, buf: RegBuf) -> Result<Window, (TransportError, RegBuf)> {
        let (id, key) = self.windows.add(&buf, false);
        Ok(Window::new(id, key, buf))
    }

    fn unexpose(&mut self, window: Window) -> RegBuf {
        self.windows.remove(window.id);
        window.into_buf()
    }

    fn put(
        &mut self,
        to: Pe,
        src: RegBuf,
        dst: &RemoteKey,
        offset: u64,
        imm: Option<Imm>,
        op: OpId,
    ) -> Result<Posted, PostError<RegBuf>> {
        let (window, src) = self.window(dst, offset, src)?;
        if to == self.me {
            let memory = self.windows.memory(window, offset, src.len() as u64);
            let posted = loopback::put(memory, src, to, None, op, &mut self.events)?;
            self.arrivals.extend(imm.map(|imm| Arrival::Put(to, imm)));
            return Ok(posted);
        }
        match self.request(to, &Packet::Put { window, offset, imm, body: &src }) {
            Ok(index) => {
                self.link(index).unanswered.push_back(Request { op, buf: src, is_get: false });
                Ok(Posted::Pending)
            }
            Err(refusal) => Err(refusal.with(to, src)),
        }
    }

    fn get(
        &mut self,
        from: Pe,
        src: &RemoteKey,
        offset: u64,
        dst: RegBuf,
        op: OpId,
    ) -> Result<Posted, PostError<RegBuf>> {
        let (window, dst) = self.window(src, offset, dst)?;
        if from == self.me {
            let memory = self.windows.memory(window, offset, dst.len() as u64);
            return loopback::get(memory, dst, op, &mut self.events);
        }
        let len = u32::try_from(dst.len()).expect("a get is no longer than a packet");
        match self.request(from, &Packet::Get { window, offset, len }) {
            Ok(index) => {
                self.link(index).unanswered.push_back(Request { op, buf: dst, is_get: true });
                Ok(Posted::Pending)
            }
            Err(refusal) => Err(refusal.with(from, dst)),
        }
    }

    fn progress(&mut self, out: &mut Vec<Event>, max: usize) -> Result<usize, TransportError> {
        let received = self.receive(max, |arrival| {
            out.push(match arrival {
                Arrival::Message(from, imm, msg) => Event::Recv { from, imm, msg },
                Arrival::Put(from, imm) => Event::PutArrived { from, imm },
            });
        })?;
        Ok(received + self.tend(out, max - received)?)
    }

    fn arm(&mut self) -> bool {
        self.may_sleep()
    }

    fn has_closed(&mut self, peer: Pe) -> bool {
        let place = self.place(peer);
        self.peers[place].presence != Presence::Open
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }

    fn close(mut self: Box<Self>) -> Result<(), TransportError> {
        // From now on, connections are refused. Waiting connections get a goodbye like all others; without it, their dialers would consider this PE dead.
        shutdown(&self.listener, Shutdown::Read).map_err(|e| TransportError::system("shutdown", e))?;
        self.accept()?;
        epoll::delete(&self.epoll, &self.listener).map_err(|e| TransportError::system("epoll_ctl", e))?;
        let mut last = None;
        while let Some(pe) = self.say_goodbye() {
            let (silent, since) = *last.get_or_insert((pe, Instant::now()));
            if silent != pe {
                last = None;
            } else if since.elapsed() > CLOSE_PATIENCE {
                return Err(TransportError::PeerDown { pe, why: "it does not accept what was sent to it" });
            }
            // Peers that are closing too may wait until this PE takes their packets.
            self.poll(usize::MAX)?;
            self.arrivals.clear();
            self.events.clear();
            std::thread::yield_now();
        }
        // The sent packets are in the sockets of their receivers, and stay there when this end is closed.
        Ok(())
    }
}
