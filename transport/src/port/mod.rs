//! One PE's way out to all others: which backend carries a message, and by which protocol.
//!
//! The port knows nothing of what a message means: it moves a [`Tag`] and bytes, in order from each sender. It picks
//! the nearest backend for every peer, and owns what every backend would otherwise repeat: backlog, flow control,
//! counters, out-of-band payloads.
//!
//! (First version: thread PEs of one process over a locked queue. The rings replace it.)

mod counters;

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use counters::Counters;

use crate::memory::Slab;
use crate::{Doorbell, Layout, Msg, Pe, Reach, RegBuf, TransportError, Waker};

/// What kind of message: the layers above name theirs below 0xF0; from there on they are the port's own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tag(pub u8);

/// A message that arrived.
#[derive(Debug)]
pub struct Incoming {
    /// Who sent it.
    pub from: Pe,
    /// Its kind.
    pub tag: Tag,
    /// Its bytes, 16-byte aligned.
    pub msg: Msg,
    /// What came with it out of band.
    pub payloads: Vec<RegBuf>,
}

/// Names an offer within its port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OfferId(pub u64);

/// A message whose payloads wait at their sender until [`Port::accept`] says where they shall land.
#[derive(Debug)]
pub struct Offer {
    /// What to accept.
    pub id: OfferId,
    /// Who offers.
    pub from: Pe,
    /// The message's kind.
    pub tag: Tag,
    /// The message's bytes, readable now. The [`Incoming`] that follows once the payloads have landed has them too.
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
    /// A message arrived whose payloads want a landing.
    Offer(Offer),
    /// A message could not be delivered: its receiver has no memory for it.
    Refused {
        /// The receiver.
        to: Pe,
        /// The message's kind.
        tag: Tag,
        /// Its size with all payloads, in bytes.
        bytes: u64,
    },
}

type Inbox = Mutex<VecDeque<Incoming2>>;

/// `Incoming` as it crosses threads.
#[derive(Debug)]
struct Incoming2 {
    from: Pe,
    tag: Tag,
    msg: RegBuf,
    payloads: Vec<RegBuf>,
}

#[derive(Debug)]
struct Shared {
    inboxes: Vec<(Inbox, Waker)>,
}

/// Describes a port; moves to the PE's pinned thread and becomes a [`Port`] there.
#[derive(Debug)]
pub struct PortBuilder {
    pe: Pe,
    layout: Arc<Layout>,
    doorbell: Doorbell,
    shared: Arc<Shared>,
}

impl PortBuilder {
    pub(crate) fn local(layout: &Arc<Layout>) -> Result<Vec<Self>, TransportError> {
        let bells = (0..layout.pes()).map(|_| Doorbell::new()).collect::<Result<Vec<_>, _>>()?;
        let shared = Arc::new(Shared { inboxes: bells.iter().map(|b| (Inbox::default(), b.waker())).collect() });
        Ok((0..)
            .zip(bells)
            .map(|(pe, doorbell)| Self { pe: Pe(pe), layout: layout.clone(), doorbell, shared: shared.clone() })
            .collect())
    }

    /// The PE whose port it describes.
    #[must_use]
    pub fn pe(&self) -> Pe {
        self.pe
    }

    /// The job's shape.
    #[must_use]
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Wakes the PE, from any thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.doorbell.waker()
    }

    /// Opens the port. To be called on the PE's own, pinned thread, so that memory is first touched there.
    ///
    /// # Errors
    /// If the system is out of something.
    pub fn open(self) -> Result<Port, TransportError> {
        Ok(Port {
            pe: self.pe,
            layout: self.layout,
            doorbell: self.doorbell,
            shared: self.shared,
            slab: Slab::new(),
            counters: Counters::default(),
        })
    }
}

/// One PE's way out; see the module's text. Neither `Send` nor `Sync`.
#[derive(Debug)]
pub struct Port {
    pe: Pe,
    layout: Arc<Layout>,
    doorbell: Doorbell,
    shared: Arc<Shared>,
    slab: Slab,
    counters: Counters,
}

impl Port {
    /// The PE whose port this is.
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

    /// How near another PE is.
    #[inline]
    #[must_use]
    pub fn reach(&self, to: Pe) -> Reach {
        self.layout.reach(self.pe, to)
    }

    /// The PE's free lists, for messages to itself.
    #[inline]
    #[must_use]
    pub fn slab(&self) -> &Slab {
        &self.slab
    }

    /// Sends a message of `len` bytes that `fill` writes (all of them). Any length; never fails, never blocks for ever:
    /// where the peer has no room it receives meanwhile, without delivering. An error comes out of the next poll.
    pub fn send(&mut self, to: Pe, tag: Tag, len: usize, fill: impl FnOnce(&mut [MaybeUninit<u8>])) {
        self.send_payloads(to, tag, len, fill, Vec::new(), false);
    }

    /// Sends a message with payloads out of band. With `offer` the receiver says where they shall land;
    /// otherwise they arrive in pooled memory.
    pub fn send_payloads(
        &mut self,
        to: Pe,
        tag: Tag,
        len: usize,
        fill: impl FnOnce(&mut [MaybeUninit<u8>]),
        payloads: Vec<RegBuf>,
        _offer: bool,
    ) {
        let mut msg = RegBuf::heap(len);
        // SAFETY: MaybeUninit<u8> has the layout of u8, and `fill` initializes all bytes.
        fill(unsafe { std::slice::from_raw_parts_mut(msg.as_mut_ptr().cast(), len) });
        let (inbox, waker) = &self.shared.inboxes[to.index()];
        let mut queue = inbox.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back(Incoming2 { from: self.pe, tag, msg, payloads });
        let was_empty = queue.len() == 1;
        drop(queue);
        if was_empty && to != self.pe {
            waker.wake();
        }
    }

    /// Says where an offer's payloads shall land, in order; `None`: in pooled memory. The message follows as
    /// [`PortEvent::Message`], with the landings as its payloads.
    pub fn accept(&mut self, _id: OfferId, _landings: Vec<Option<RegBuf>>) {
        unreachable!("this version makes no offers")
    }

    /// A buffer of `len` bytes that can be sent to anyone at the least cost. Its bytes are initialized but arbitrary.
    #[must_use]
    pub fn alloc(&mut self, len: usize) -> RegBuf {
        RegBuf::heap(len)
    }

    /// Makes progress, and appends at most `max` events to `out`. Returns how many.
    ///
    /// # Errors
    /// What ends the job.
    pub fn poll(&mut self, out: &mut VecDeque<PortEvent>, max: usize) -> Result<usize, TransportError> {
        let mut queue = self.shared.inboxes[self.pe.index()].0.lock().unwrap_or_else(PoisonError::into_inner);
        let n = queue.len().min(max);
        out.extend(queue.drain(..n).map(|i| {
            PortEvent::Message(Incoming { from: i.from, tag: i.tag, msg: i.msg.into(), payloads: i.payloads })
        }));
        Ok(n)
    }

    /// Sleeps until something may have arrived, somebody used the [`Waker`], or `limit` has passed.
    ///
    /// # Errors
    /// What ends the job.
    pub fn park(&mut self, limit: Option<Duration>) -> Result<(), TransportError> {
        let queue = self.shared.inboxes[self.pe.index()].0.lock().unwrap_or_else(PoisonError::into_inner);
        if !queue.is_empty() {
            return Ok(());
        }
        drop(queue);
        let limit = limit.map(|d| Timespec {
            tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: d.subsec_nanos().into(),
        });
        let fd = self.doorbell.fd();
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {
                self.doorbell.clear();
                Ok(())
            }
            Err(e) => Err(TransportError::system("poll", e)),
        }
    }

    /// Wakes this PE, from any thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.doorbell.waker()
    }

    /// What has passed.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Delivers what was sent, then closes.
    ///
    /// # Errors
    /// If something could not be delivered.
    pub fn close(self) -> Result<(), TransportError> {
        Ok(())
    }
}
