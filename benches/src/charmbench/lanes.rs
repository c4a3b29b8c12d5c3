//! The connections to the partner below the object model, each used optimally: the seam, and the port.
//!
//! A message of up to [`SMALL`] bytes is written in place and read; a longer one is a buffer in the lane's own memory, which is written and read only
//! if the game requires it. A lane knows nothing of games.

use std::collections::VecDeque;
use std::mem::MaybeUninit;

use charm4rs_transport::memory::write_bytes;
use charm4rs_transport::port::{Port, PortEvent, Tag};
use charm4rs_transport::{Event, Imm, OpId, Pe, Posted, RegBuf, TransportError};
use charm4rs_transport_core::{Caps, Endpoint, PostError, RemoteKey, Window};

use crate::limits::{fill, read_lines};

/// The largest message of the object model; it hands over larger data as a payload.
const SMALL: usize = 1 << 10;
/// Events of one poll.
const BATCH: usize = 64;
/// The number of posts of a seam that may be incomplete.
const PENDING_MAX: u64 = 16;
/// The number of polls in which an empty pool may fill again, before memory is taken from elsewhere.
const POLLS_FOR_MEMORY: usize = 100_000;
/// The tag of a game's messages.
pub(crate) const TAG: Tag = Tag(1);

pub(crate) trait Lane {
    /// Whether it carries a message of `len` bytes.
    fn carries(&self, len: usize) -> bool;
    /// Sends one.
    fn send(&mut self, len: usize, round: usize) -> Result<(), TransportError>;
    /// Waits until `count` more have come.
    fn take(&mut self, count: u64) -> Result<(), TransportError>;
    /// Waits until the lane has received everything that it expects about its messages.
    fn settle(&mut self) -> Result<(), TransportError>;
}

/// Writes a small message.
fn write(room: &mut [MaybeUninit<u8>], round: usize) {
    room.fill(MaybeUninit::new(round.to_le_bytes()[0]));
}

/// The seam.
pub(crate) struct Raw<'a> {
    end: &'a mut dyn Endpoint,
    to: Pe,
    touch: bool,
    events: Vec<Event>,
    arrived: u64,
    pending: u64,
}

impl<'a> Raw<'a> {
    /// With `touch`, every buffer is written before it is sent, and read after it has arrived.
    pub(crate) fn new(end: &'a mut dyn Endpoint, to: Pe, touch: bool) -> Self {
        Self { end, to, touch, events: Vec::with_capacity(BATCH), arrived: 0, pending: 0 }
    }

    fn poll(&mut self) -> Result<(), TransportError> {
        if self.end.progress(&mut self.events, BATCH)? == 0 {
            return Ok(());
        }
        for event in self.events.drain(..) {
            match event {
                Event::Recv { msg, .. } => {
                    if self.touch || msg.len() <= SMALL {
                        read_lines(&msg);
                    }
                    self.arrived += 1;
                }
                Event::Sent { .. } => self.pending -= 1,
                Event::Failed { error, .. } => return Err(*error),
                Event::Missed { from, .. } => {
                    return Err(TransportError::PeerDown { pe: from, why: "this PE has no memory for its message" });
                }
                Event::PeerLost { pe, why } => return Err(TransportError::PeerDown { pe, why }),
                Event::PutArrived { .. } => self.arrived += 1,
                Event::Got { .. } => {}
            }
        }
        Ok(())
    }

    fn buffer(&mut self, len: usize) -> Result<RegBuf, TransportError> {
        for _ in 0..POLLS_FOR_MEMORY {
            if let Some(buf) = self.end.alloc(len) {
                return Ok(buf);
            }
            self.poll()?;
        }
        Ok(RegBuf::heap(len))
    }
}

/// A refusal for another reason than back-pressure.
fn refused<B: std::fmt::Debug>(refusal: &PostError<B>) -> TransportError {
    match refusal {
        PostError::PeerDown(pe, _) => TransportError::PeerDown { pe: *pe, why: "a post to it was refused" },
        other => TransportError::Config(format!("a post was refused: {other:?}")),
    }
}

impl Lane for Raw<'_> {
    fn carries(&self, len: usize) -> bool {
        len <= self.end.caps().send_max
    }

    fn send(&mut self, len: usize, round: usize) -> Result<(), TransportError> {
        if len <= self.end.caps().inject_max {
            loop {
                match self.end.inject(self.to, Imm(0), len, &mut |room| write(room, round)) {
                    Ok(()) => return Ok(()),
                    Err(PostError::Busy(())) => self.poll()?,
                    Err(refusal) => return Err(refused(&refusal)),
                }
            }
        }
        let mut buf = self.buffer(len)?;
        if self.touch || len <= SMALL {
            fill(&mut buf, round);
        }
        loop {
            match self.end.send(self.to, Imm(0), buf, OpId(0)) {
                Ok(Posted::Done) => return Ok(()),
                Ok(Posted::Pending) => break,
                Err(PostError::Busy(back)) => buf = back,
                Err(refusal) => return Err(refused(&refusal)),
            }
            self.poll()?;
        }
        self.pending += 1;
        if self.pending >= PENDING_MAX { self.poll() } else { Ok(()) }
    }

    fn take(&mut self, count: u64) -> Result<(), TransportError> {
        while self.arrived < count {
            self.poll()?;
        }
        self.arrived -= count;
        Ok(())
    }

    fn settle(&mut self) -> Result<(), TransportError> {
        while self.pending > 0 {
            self.poll()?;
        }
        Ok(())
    }
}

/// Puts, through the seam: each into the partner's one window, which is not accessed otherwise.
pub(crate) struct Puts<'a> {
    raw: Raw<'a>,
    window: Option<Window>,
    key: RemoteKey,
}

impl<'a> Puts<'a> {
    /// Exposes a window of `len` bytes, and gets the key of the partner's window, which the partner exposes at the same time.
    pub(crate) fn new(end: &'a mut dyn Endpoint, to: Pe, len: usize) -> Result<Self, TransportError> {
        let mut raw = Raw::new(end, to, false);
        let memory = raw.buffer(len)?;
        let window = raw.end.expose_for_long(memory).map_err(|(error, _)| error)?;
        let own = &window.key.bytes;
        loop {
            match raw.end.inject(to, Imm(0), own.len(), &mut |room| write_bytes(room, own)) {
                Ok(()) => break,
                Err(PostError::Busy(())) => raw.poll()?,
                Err(refusal) => return Err(refused(&refusal)),
            }
        }
        let key = loop {
            // The partner may have the key already, and put.
            raw.end.progress(&mut raw.events, 1)?;
            match raw.events.pop() {
                Some(Event::Recv { msg, .. }) => break RemoteKey { len: len as u64, bytes: msg.to_vec().into() },
                Some(Event::PutArrived { .. }) => raw.arrived += 1,
                Some(other) => return Err(TransportError::Config(format!("no key: {other:?}"))),
                None => {}
            }
        };
        Ok(Self { raw, window: Some(window), key })
    }
}

impl Lane for Puts<'_> {
    fn carries(&self, len: usize) -> bool {
        carries_puts(self.raw.end.caps(), len)
    }

    fn send(&mut self, len: usize, _: usize) -> Result<(), TransportError> {
        let mut buf = self.raw.buffer(len)?;
        loop {
            match self.raw.end.put(self.raw.to, buf, &self.key, 0, Some(Imm(0)), OpId(0)) {
                Ok(Posted::Done) => return Ok(()),
                Ok(Posted::Pending) => break,
                Err(PostError::Busy(back)) => buf = back,
                Err(refusal) => return Err(refused(&refusal)),
            }
            self.raw.poll()?;
        }
        self.raw.pending += 1;
        if self.raw.pending >= PENDING_MAX { self.raw.poll() } else { Ok(()) }
    }

    fn take(&mut self, count: u64) -> Result<(), TransportError> {
        self.raw.take(count)
    }

    fn settle(&mut self) -> Result<(), TransportError> {
        self.raw.settle()?;
        drop(self.window.take().map(|window| self.raw.end.unexpose(window)));
        Ok(())
    }
}

/// Whether a backend supports puts of this size.
pub(crate) fn carries_puts(caps: &Caps, len: usize) -> bool {
    caps.one_sided && len <= caps.put_max
}

/// The port.
pub(crate) struct Ported<'a> {
    port: &'a mut Port,
    to: Pe,
    touch: bool,
    events: VecDeque<PortEvent>,
    arrived: u64,
}

impl<'a> Ported<'a> {
    /// With `touch` as for [`Raw::new`].
    pub(crate) fn new(port: &'a mut Port, to: Pe, touch: bool) -> Self {
        Self { port, to, touch, events: VecDeque::with_capacity(BATCH), arrived: 0 }
    }
}

impl Lane for Ported<'_> {
    fn carries(&self, _: usize) -> bool {
        true
    }

    fn send(&mut self, len: usize, round: usize) -> Result<(), TransportError> {
        if len <= SMALL {
            self.port.send(self.to, TAG, len, |room| write(room, round));
            return Ok(());
        }
        let mut buf = self.port.alloc(len);
        if self.touch {
            fill(&mut buf, round);
        }
        self.port.send_payloads(self.to, TAG, 8, |room| write(room, round), vec![buf], false);
        Ok(())
    }

    fn take(&mut self, count: u64) -> Result<(), TransportError> {
        while self.arrived < count {
            if self.port.poll(&mut self.events, BATCH)? == 0 {
                continue;
            }
            for event in self.events.drain(..) {
                match event {
                    PortEvent::Message(message) => {
                        self.port.took(&message);
                        read_lines(&message.msg);
                        if self.touch {
                            message.payloads.iter().for_each(|payload| read_lines(payload));
                        }
                        self.arrived += 1;
                    }
                    PortEvent::Offer(offer) => self.port.accept(offer.id, Vec::new()),
                    other => return Err(TransportError::Config(format!("{other:?}"))),
                }
            }
        }
        self.arrived -= count;
        Ok(())
    }

    fn settle(&mut self) -> Result<(), TransportError> {
        Ok(())
    }
}
