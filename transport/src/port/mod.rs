//! The port connects one PE to all other PEs: it selects the backend and the protocol for every message.
//!
//! The port does not interpret messages: it moves a [`Tag`] and bytes. It uses the nearest backend that reaches a peer, and implements what every backend
//! would otherwise repeat: the backlog, flow control, counters, fault injection, and payloads out of band. Messages of one sender arrive in the order in
//! which they were sent. The exception is a message by rendezvous: it arrives when its payloads have arrived.
//!
//! # Protocols
//! *Small.* The sender writes the message into the receiver's inbox. The receiver copies it into its own memory when it polls.
//!
//! *Large.* The message travels in a pooled buffer. Shared-memory backends pass the buffer to the receiver without a copy.
//!
//! *Eager.* Across a network, payloads that fit into the backend's small message are part of it: one frame is cheaper than two, and the copy of so few
//! bytes is cheaper than either.
//!
//! *Payloads ahead.* If the backend passes buffers, each payload is sent first, as a message of its own. The message that they belong to follows, and its
//! immediate has their number. Shared-memory backends keep the order.
//!
//! *Rendezvous.* Used for all other payloads, and if the receiver chooses the memory. The sender asks (RTS), the receiver exposes memory and answers (CTS), the
//! sender puts the payloads, and the last put of each announces it (FIN). `rendezvous` describes the protocol and has its two state machines.
//!
//! *Persistent windows* (`put_window`). The owner publishes the keys once. Puts then need no handshake, and the owner is notified of each.
//!
//! *Lack of memory.* A sender without memory for a buffer sends a notice in place of it; a receiver without memory produces the same notice locally. The
//! receiver then drops the message that the payload belongs to and returns its first bytes (NACK), so that the sender can report which message it was.
//! A message that is too large thus affects no other message, and the order of the others is kept.
//!
//! # Flow control
//! Every message is charged to the sender's *credit* for the peer (64 MiB). The receiver returns the credit when its user has taken the message out of its
//! queue. `credit` describes the rules, what a sender without credit does, and why it never waits indefinitely.
//!
//! A message that has waited for ten seconds is reported, once for each peer.
//!
//! # Why a send always completes
//! A sender that finds no room in a backend moves arrivals from its own inbox into its memory while it waits. So two PEs that send to each other make room
//! for each other. It does not deliver these arrivals, because their handlers could send again. A sender that must not wait puts the message into the
//! *backlog*, which later polls send.

mod builder;
mod counters;
mod credit;
#[cfg(test)]
mod credit_tests;
mod faults;
mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
#[cfg(any(test, fuzzing))]
pub mod fuzz_records;
mod held;
mod inner;
#[cfg(test)]
mod memory_tests;
mod message;
mod operations;
mod progress;
mod put_window;
mod puts;
mod rendezvous;
mod send;
#[cfg(test)]
mod sim_tests;
pub mod tags;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub(crate) use builder::Fabrics;
pub use builder::PortBuilder;
pub use counters::{Counters, Flow};
pub use credit::{Charge, Ledger};
pub use faults::{Fate, Faults};
pub use held::HeldId;
use inner::Inner;
pub use message::{Incoming, Tag};
use operations::Operations;
pub use put_window::{PutWindowAddress, PutWindowId, PutWindowMemory};
use puts::Put;
use send::Queued;

use crate::local::Local;
use crate::options::TransportOptions;
use crate::shm::Shm;
use crate::shmem::ShmemEndpoint;
use charm4rs_transport_core::doorbell::Fences;
use charm4rs_transport_core::fast_path::{Arrival, FastPath};
use charm4rs_transport_core::memory::Slab;
use charm4rs_transport_core::{Doorbell, Endpoint, Event, Layout, Msg, Pe, Reach, RegBuf, TransportError, Waker};

/// Names an offer within its port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OfferId(pub u64);

/// A message whose payloads wait at their sender until [`Port::accept`] says where they go.
#[derive(Debug)]
pub struct Offer {
    /// The id to accept.
    pub id: OfferId,
    /// The sender.
    pub from: Pe,
    /// The message's kind.
    pub tag: Tag,
    /// The message's bytes, readable now. The [`Incoming`] that follows once the payloads have arrived has them too.
    pub head: Msg,
    /// The payloads' lengths, in bytes.
    pub sizes: Vec<u64>,
}

/// What [`Port::poll`] reports.
#[derive(Debug)]
#[non_exhaustive]
pub enum PortEvent {
    /// A message arrived, with all its payloads.
    Message(Incoming),
    /// A message arrived whose payloads need destinations. (In a box, so that messages, which come by the million, are moved in few bytes.)
    Offer(Box<Offer>),
    /// A message could not be delivered: there is no memory for it, there or here, or it is longer than [`Port::message_max`]. Both PEs continue.
    Refused {
        /// The receiver.
        to: Pe,
        /// The message's kind.
        tag: Tag,
        /// The message's first bytes, at most 256; none, if even they are lost.
        head: Box<[u8]>,
        /// Its size with all payloads, in bytes.
        bytes: u64,
    },
    /// Messages that were held have left; see [`Port::is_held`].
    Room,
}

/// Receives what a port delivers. It must only store it: the port is in the middle of its poll.
pub trait Sink {
    /// Takes a message.
    fn message(&mut self, message: Incoming);

    /// Takes any event, which may be a message too.
    fn event(&mut self, event: PortEvent);
}

impl Sink for VecDeque<PortEvent> {
    #[inline]
    fn message(&mut self, message: Incoming) {
        self.push_back(PortEvent::Message(message));
    }

    #[inline]
    fn event(&mut self, event: PortEvent) {
        self.push_back(event);
    }
}

/// Gives the first `n` events to `out`, and returns how many there were.
fn pour(events: &mut VecDeque<PortEvent>, n: usize, out: &mut impl Sink) -> usize {
    events.drain(..n).for_each(|event| out.event(event));
    n
}

/// Demultiplexes arrivals.
struct Demux<'a, S> {
    inner: &'a mut Inner,
    out: &'a mut S,
    rare: &'a mut VecDeque<PortEvent>,
    failed: Option<TransportError>,
    events: usize,
}

impl<S: Sink> Demux<'_, S> {
    // Inlined into each backend's loop, so that the parts of a message go from registers directly to their destination. If they were written
    // somewhere in between, in words, and copied from there in larger pieces, the processor would wait for each word.
    #[inline(always)]
    fn take(&mut self, reach: Reach, arrival: Arrival) {
        match self.inner.plain(reach, arrival) {
            Ok(message) => {
                self.out.message(message);
                self.events += 1;
            }
            Err(arrival) => self.take_rare(reach, arrival),
        }
    }

    #[cold]
    fn take_rare(&mut self, reach: Reach, arrival: Arrival) {
        if let Err(error) = self.inner.arrive(reach, arrival, self.rare) {
            self.failed.get_or_insert(error);
        }
        let all = self.rare.len();
        self.events += pour(self.rare, all, self.out);
    }
}

/// The backends, and the peers that each of them reaches.
#[derive(Debug)]
struct Ends {
    /// PEs that `local` reaches.
    process: Range<u32>,
    /// PEs that `shm` reaches, unless `local` does.
    host: Range<u32>,
    local: Option<ShmemEndpoint<Local>>,
    shm: Option<ShmemEndpoint<Shm>>,
    net: Option<Box<dyn Endpoint>>,
}

/// Which backend reaches a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Route {
    Loopback,
    Local,
    Shm,
    Net,
}

impl Ends {
    #[inline]
    fn route(&self, own: Pe, to: Pe) -> Route {
        if to == own {
            Route::Loopback
        } else if to.0.wrapping_sub(self.process.start) < self.process.end - self.process.start {
            Route::Local
        } else if to.0.wrapping_sub(self.host.start) < self.host.end - self.host.start {
            Route::Shm
        } else {
            Route::Net
        }
    }

    /// The endpoint of a route, if it reaches any peer.
    fn at(&mut self, route: Route) -> Option<&mut dyn Endpoint> {
        match route {
            Route::Local => self.local.as_mut().map(|shmem| shmem as &mut dyn Endpoint),
            Route::Shm => self.shm.as_mut().map(|shmem| shmem as &mut dyn Endpoint),
            Route::Net => self.net.as_deref_mut().map(|net| net as &mut dyn Endpoint),
            Route::Loopback => None,
        }
    }

    /// The endpoint that reaches `to`, another PE.
    fn to(&mut self, own: Pe, to: Pe) -> &mut dyn Endpoint {
        match self.route(own, to) {
            Route::Local => self.local.as_mut().expect("it reaches a peer"),
            Route::Shm => self.shm.as_mut().expect("it reaches a peer"),
            Route::Net | Route::Loopback => &mut **self.net.as_mut().expect("wire-up gives a route to every PE"),
        }
    }
}

/// A PE's connection to all others; see the module's text. Neither `Send` nor `Sync`.
#[derive(Debug)]
pub struct Port {
    pe: Pe,
    layout: Arc<Layout>,
    options: TransportOptions,
    doorbell: Doorbell,
    ends: Ends,
    inner: Inner,
    /// Whether small messages may go directly to peers of this host: nothing is in the backlog or held, and no faults are injected.
    plain: bool,
    /// Reused for arrivals other than plain messages.
    rare: VecDeque<PortEvent>,
    /// Arrived while a send waited.
    early: VecDeque<PortEvent>,
    /// For each peer the messages that wait for capacity; never empty.
    backlog: BTreeMap<Pe, VecDeque<Queued>>,
    /// For each peer the messages that wait for credit; empty only temporarily.
    held: BTreeMap<Pe, held::Queue>,
    waiting: held::Waiting,
    /// Puts that found no capacity yet.
    puts: VecDeque<Put>,
    /// Peers that were reported as not receiving messages.
    stalled: BTreeSet<Pe>,
    /// How often the backlog was checked.
    flushes: u32,
    /// Peers to which credit is due.
    credits: Vec<Pe>,
    /// Buffer for the events of endpoints.
    events: Vec<Event>,
    fatal: Option<TransportError>,
    /// Polls since the network was last polled.
    since_net: u32,
    operations: Operations,
}

/// How many polls with arrivals from this host may pass before the network is polled.
const NET_EVERY: u32 = 8;

impl Port {
    /// The PE that owns this port.
    #[inline]
    #[must_use]
    pub fn pe(&self) -> Pe {
        self.pe
    }

    /// The job's shape.
    #[inline]
    #[must_use]
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// How close another PE is.
    #[inline]
    #[must_use]
    pub fn reach(&self, to: Pe) -> Reach {
        self.layout.reach(self.pe, to)
    }

    /// The accounts of taken messages, for a queue that takes messages while the port is in use.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        Ledger(self.inner.accounts.clone())
    }

    /// The PE's free lists, for messages to itself.
    #[inline]
    #[must_use]
    pub fn slab(&self) -> &Slab {
        &self.inner.slab
    }

    /// The endpoint that reaches `to`, another PE: the seam itself, for measurements. This port never sees what is sent and received
    /// there, so it must have nothing of its own in flight meanwhile, and the caller must wait for the events of all its posts.
    #[must_use]
    pub fn endpoint(&mut self, to: Pe) -> &mut dyn Endpoint {
        self.ends.to(self.pe, to)
    }

    /// A buffer of `len` bytes that can be sent to any PE at the lowest cost. Its bytes are initialized but arbitrary.
    #[must_use]
    pub fn alloc(&mut self, len: usize) -> RegBuf {
        let Ends { local, shm, net, .. } = &mut self.ends;
        let pooled = match (shm, local, net) {
            (Some(shm), ..) => shm.alloc(len),
            (_, Some(local), _) => local.alloc(len),
            (.., Some(net)) => net.alloc(len),
            _ => None,
        };
        pooled.unwrap_or_else(|| RegBuf::heap(len))
    }

    /// Makes progress, and appends at most `max` events to `out`. Returns how many.
    ///
    /// # Errors
    /// Only errors that end the job.
    #[inline]
    pub fn poll(&mut self, out: &mut impl Sink, max: usize) -> Result<usize, TransportError> {
        let mut n = 0;
        if !self.early.is_empty() {
            n = self.early_into(out, max);
        }
        n += self.receive_shmem(out, max - n)?;
        if self.ends.net.is_some() {
            self.since_net += 1;
            if n == 0 || self.since_net >= NET_EVERY {
                n += self.receive_net(out, max.saturating_sub(n))?;
            }
        }
        if self.has_pending() {
            self.run_pending()?;
            n += self.early_into(out, max.saturating_sub(n));
        }
        Ok(n)
    }

    /// Delivers what arrived while this PE waited for something else. Returns how much.
    #[cold]
    fn early_into(&mut self, out: &mut impl Sink, max: usize) -> usize {
        let n = self.early.len().min(max);
        pour(&mut self.early, n, out)
    }

    /// Whether there is work for [`Port::run_pending`].
    #[inline]
    fn has_pending(&self) -> bool {
        !self.plain
            || !self.inner.todo.is_empty()
            || self.waits_for_room()
            || self.fatal.is_some()
            || self.ends.local.as_ref().is_some_and(FastPath::is_busy)
            || self.ends.shm.as_ref().is_some_and(FastPath::is_busy)
    }

    /// Whether it has messages or puts that found no capacity.
    fn waits_for_room(&self) -> bool {
        !(self.backlog.is_empty() && self.held.is_empty() && self.puts.is_empty() && self.credits.is_empty())
    }

    /// Takes the arrivals in the inboxes. Returns how many were for the user.
    #[inline]
    fn receive_shmem(&mut self, out: &mut impl Sink, max: usize) -> Result<usize, TransportError> {
        let (mut left, rare) = (max, &mut self.rare);
        let mut demux = Demux { inner: &mut self.inner, out, rare, failed: None, events: 0 };
        if let Some(local) = &mut self.ends.local {
            left -= local.receive(left, |arrival| demux.take(Reach::Process, arrival))?;
        }
        if let Some(shm) = &mut self.ends.shm {
            shm.receive(left, |arrival| demux.take(Reach::Host, arrival))?;
        }
        demux.failed.map_or(Ok(demux.events), Err)
    }

    /// Takes the arrivals from the network. Returns how many were for the user.
    // Not inlined, so that it does not lengthen the loops of jobs without a network.
    #[inline(never)]
    fn receive_net(&mut self, out: &mut impl Sink, max: usize) -> Result<usize, TransportError> {
        self.since_net = 0;
        let Some(net) = &mut self.ends.net else { return Ok(0) };
        let polled = net.progress(&mut self.events, max);
        // Arrivals before an error count. Usually there are none: then nothing is moved.
        let n = if self.events.is_empty() { 0 } else { self.demux_net(out)? };
        polled.map(|_| n)
    }

    /// Demultiplexes events of the network.
    fn demux_net(&mut self, out: &mut impl Sink) -> Result<usize, TransportError> {
        let mut events = std::mem::take(&mut self.events);
        let (mut n, mut sorted) = (0, Ok(()));
        for event in events.drain(..) {
            let event = match event {
                Event::Recv { from, imm, msg } => {
                    match self.inner.plain(Reach::Network, Arrival::Message(from, imm, msg)) {
                        Ok(message) => {
                            out.message(message);
                            n += 1;
                            continue;
                        }
                        Err(Arrival::Message(from, imm, msg)) => Event::Recv { from, imm, msg },
                        Err(Arrival::Put(from, imm)) => Event::PutArrived { from, imm },
                    }
                }
                event => event,
            };
            let mut rare = std::mem::take(&mut self.rare);
            sorted = self.event(event, &mut rare);
            let all = rare.len();
            n += pour(&mut rare, all, out);
            self.rare = rare;
            if sorted.is_err() {
                break;
            }
        }
        self.events = events;
        sorted.map(|()| n)
    }

    /// Sleeps until something may have arrived, the [`Waker`] was used, or `limit` has passed.
    ///
    /// # Errors
    /// Only errors that end the job.
    pub fn park(&mut self, limit: Option<Duration>) -> Result<(), TransportError> {
        if !self.early.is_empty() || self.has_pending() && !self.waits_for_room() {
            return Ok(());
        }
        let waits = self.waits_for_room();
        // `doorbell` describes the protocol.
        let Ends { local, shm, net, .. } = &mut self.ends;
        let fences = shm.as_ref().and_then(FastPath::fences).or_else(|| local.as_ref().and_then(FastPath::fences));
        local.iter().for_each(FastPath::announce);
        shm.iter().for_each(FastPath::announce);
        // `membarrier` across processes reaches this process's threads too; without it both ends use fences.
        let fenced = fences.is_none_or(Fences::heavy);
        let idle = local.as_mut().is_none_or(FastPath::may_sleep)
            & shm.as_mut().is_none_or(FastPath::may_sleep)
            & net.as_mut().is_none_or(|net| net.arm());
        if !(fenced && idle) {
            return Ok(());
        }
        self.inner.counters.sleeps += 1;
        // No event tells when an inbox has capacity again; and some networks do not wake a PE at all.
        let look = waits || net.as_ref().is_some_and(|net| !net.caps().wakes);
        let limit = if look { Some(limit.map_or(ROOM_CHECK, |limit| limit.min(ROOM_CHECK))) } else { limit };
        let limit = limit.map(|d| Timespec {
            tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: d.subsec_nanos().into(),
        });
        let bell = self.doorbell.fd();
        let mut fds = [const { None }; 3];
        fds[0] = Some(bell);
        fds[1] = shm.as_ref().and_then(|shm| shm.wait_fd());
        fds[2] = net.as_ref().and_then(|net| net.wait_fd());
        let mut polled: Vec<PollFd<'_>> = Vec::with_capacity(3);
        polled.extend(fds.iter().flatten().map(|fd| PollFd::new(fd, PollFlags::IN)));
        match poll(&mut polled, limit.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(()),
            Ok(_) => {
                if !polled[0].revents().is_empty() {
                    self.doorbell.clear();
                }
                Ok(())
            }
            Err(e) => Err(TransportError::system("poll", e)),
        }
    }

    /// A handle that wakes this PE, from any thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.doorbell.waker()
    }

    /// Bytes of the longest message, with its payloads, that may pass between processes.
    #[must_use]
    pub fn message_max(&self) -> u64 {
        self.options.message_max
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.inner.counters.clone();
        let Ends { local, shm, net, .. } = &self.ends;
        counters.copies += local.as_ref().map_or(0, Endpoint::copies) + shm.as_ref().map_or(0, Endpoint::copies);
        counters.copies += net.as_ref().map_or(0, |net| net.copies());
        counters
    }

    /// Delivers what was sent, then closes. Waits at most ten seconds for peers that do not receive.
    ///
    /// # Errors
    /// If something could not be delivered.
    pub fn close(mut self) -> Result<(), TransportError> {
        let start = std::time::Instant::now();
        let mut late = VecDeque::new();
        while let Some(to) = self.undelivered() {
            self.poll(&mut late, usize::MAX)?;
            for event in late.drain(..) {
                if let PortEvent::Message(message) = event {
                    self.took(&message);
                }
            }
            if start.elapsed() > CLOSE_LIMIT {
                return Err(TransportError::PeerDown { pe: to, why: "it does not receive what was sent to it" });
            }
            std::thread::yield_now();
        }
        let Ends { local, shm, net, .. } = self.ends;
        local.map_or(Ok(()), |end| Box::new(end).close())?;
        shm.map_or(Ok(()), |end| Box::new(end).close())?;
        net.map_or(Ok(()), Endpoint::close)
    }

    /// A peer for which something is left.
    fn undelivered(&self) -> Option<Pe> {
        let queued = self.backlog.keys().next().or_else(|| self.held.keys().next()).or_else(|| self.credits.first());
        let queued = queued.copied();
        queued.or_else(|| self.puts.front().map(|put| put.to)).or_else(|| self.inner.rendezvous.sender.unanswered())
    }
}

/// How often a sleeping PE checks for capacity, of which no event tells, for messages that it could not send.
const ROOM_CHECK: Duration = Duration::from_micros(200);
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
