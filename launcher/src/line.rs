//! One end of the byte stream between a launcher and an agent: reads and writes frames without blocking. Knows nothing of their meaning.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use charm4rs_bootstrap::wire::WireError;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::frames::{Frame, Incoming, opening};

/// Bytes of one read.
const READ: usize = 64 << 10;

/// See the [module's text](self).
#[derive(Debug)]
pub(crate) struct Line {
    input: OwnedFd,
    output: OwnedFd,
    incoming: Incoming,
    outbox: VecDeque<u8>,
    /// The loop waits for room.
    heard: bool,
    /// The other end accepts no more.
    closed: bool,
    /// A buffer for one read. A stack may be too small for it.
    buf: Vec<u8>,
}

/// The result of one read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Got {
    Bytes,
    Nothing,
    End,
}

impl Line {
    /// A connection that reads from `input` and writes to `output`.
    pub(crate) fn new(input: OwnedFd, output: OwnedFd) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&input, true)?;
        rustix::io::ioctl_fionbio(&output, true)?;
        let outbox = opening().into();
        Ok(Self {
            input,
            output,
            incoming: Incoming::default(),
            outbox,
            heard: false,
            closed: false,
            buf: vec![0; READ],
        })
    }

    pub(crate) fn input(&self) -> &OwnedFd {
        &self.input
    }

    pub(crate) fn output(&self) -> &OwnedFd {
        &self.output
    }

    /// Lets a loop listen for input, as `token`.
    pub(crate) fn listen(&self, epoll: &OwnedFd, token: EventData) -> Result<(), Errno> {
        epoll::add(epoll, &self.input, token, EventFlags::IN)
    }

    /// Reads once.
    pub(crate) fn read(&mut self) -> Got {
        match retry_on_intr(|| rustix::io::read(&self.input, &mut self.buf[..])) {
            Ok(n) if n > 0 => {
                self.incoming.take(&self.buf[..n]);
                Got::Bytes
            }
            Err(Errno::AGAIN) => Got::Nothing,
            _ => Got::End,
        }
    }

    /// The next complete frame.
    pub(crate) fn next<F: Frame>(&mut self) -> Result<Option<F>, WireError> {
        self.incoming.next()
    }

    /// The text before the other end's opening.
    pub(crate) fn words(&self) -> &[u8] {
        self.incoming.words()
    }

    /// Queues a frame, and writes what can be written.
    pub(crate) fn send(&mut self, frame: &impl Frame) {
        if !self.closed {
            self.outbox.extend(frame.to_bytes());
            self.flush();
        }
    }

    /// Writes what can be written.
    pub(crate) fn flush(&mut self) {
        while !self.outbox.is_empty() {
            match retry_on_intr(|| rustix::io::write(&self.output, self.outbox.as_slices().0)) {
                Ok(n) => _ = self.outbox.drain(..n),
                Err(Errno::AGAIN) => return,
                // Reading reports that the other end is gone, and why.
                Err(_) => {
                    self.closed = true;
                    self.outbox = VecDeque::new();
                }
            }
        }
    }

    pub(crate) fn is_flushed(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Lets a loop wait for room, as `token`, while there is something to write.
    pub(crate) fn wait_for_room(&mut self, epoll: &OwnedFd, token: EventData) {
        let wants = !self.outbox.is_empty();
        if wants != self.heard {
            let changed = if wants {
                epoll::add(epoll, &self.output, token, EventFlags::OUT)
            } else {
                epoll::delete(epoll, &self.output)
            };
            self.heard = if changed.is_ok() { wants } else { !wants };
        }
    }
}
