//! From a socket's bytes to frames, and from frames to events.
//!
//! Many small frames come with one system call, into a scratch buffer that all links of a PE share. The body of a large one is read
//! directly into its final destination: the message's buffer, the window, the destination of a get. The same call reads what
//! follows into the scratch buffer. The link keeps a partly received small frame or head.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::frame::{ANNOUNCE, Format, FrameKind, Head, Malformed, UNANSWERED};
use super::link::{Core, Link, SMALL_MAX, Serving, State};
use charm4rs_transport_core::memory::{Msg, RegBuf};
use charm4rs_transport_core::{Event, Imm, TransportError};

/// Bytes read ahead in one call.
const AHEAD: usize = 64 << 10;
/// The same after a large frame: enough for the next head, little to copy if its body follows.
const AHEAD_OF_LARGE: usize = 2 << 10;
/// The rest of one call (at most a small frame) and the bytes of the next one.
pub(super) const SCRATCH: usize = AHEAD + 2 * SMALL_MAX;
/// Bytes that are read from one link before others are read.
const TURN: usize = 2 << 20;

/// The result of reading a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Read {
    /// There was no data.
    Nothing,
    /// Data was received.
    Some,
}

/// A large body that is arriving.
#[derive(Debug)]
pub(super) struct Body {
    to: BodyTarget,
    filled: usize,
    len: usize,
    head: Head,
}

/// The destination of a body.
#[derive(Debug)]
enum BodyTarget {
    Message(RegBuf),
    Window(u64),
    /// The destination of a get, by operation.
    Destination(u64),
    /// Discarded: of a put that was refused.
    Nowhere,
}

impl Body {
    /// Bytes that have arrived.
    pub(super) fn arrived(&self) -> u64 {
        self.filled as u64
    }

    /// The memory for the bytes that are still to come; `None`: they are discarded.
    fn rest<'a>(&'a mut self, core: &'a mut Core) -> Option<&'a mut [u8]> {
        let (filled, left) = (self.filled as u64, (self.len - self.filled) as u64);
        match &mut self.to {
            BodyTarget::Message(buf) => Some(&mut buf[self.filled..]),
            BodyTarget::Window(key) => core.windows.memory(*key, self.head.words[1] + filled, left),
            BodyTarget::Destination(operation) => {
                let at = usize::try_from(self.head.words[1]).ok()?;
                let buf = core.operations.get_mut(*operation)?.buf.as_mut()?;
                buf.get_mut(at + self.filled..at + self.len)
            }
            BodyTarget::Nowhere => None,
        }
    }

    /// Takes its bytes from `input`, and returns how many.
    fn feed(&mut self, core: &mut Core, input: &[u8]) -> usize {
        let n = input.len().min(self.len - self.filled);
        match self.rest(core) {
            Some(memory) => memory[..n].copy_from_slice(&input[..n]),
            // The window was taken back while the put was arriving.
            None => self.to = BodyTarget::Nowhere,
        }
        self.filled += n;
        n
    }

    /// Whether the checksum of the body is right.
    fn is_intact(&mut self, core: &mut Core) -> bool {
        self.filled = 0;
        let expected = self.head.body_crc;
        let intact = self.rest(core).is_none_or(|bytes| crc32fast::hash(bytes) == expected);
        self.filled = self.len;
        intact
    }
}

impl Link {
    /// Reads the available data.
    ///
    /// # Errors
    /// A violation by the peer; the connection is closed.
    pub(super) fn read(&mut self, core: &mut Core) -> Result<Read, TransportError> {
        let mut scratch = std::mem::take(&mut core.scratch);
        let outcome = self.read_turn(core, &mut scratch);
        core.scratch = scratch;
        match outcome {
            Ok(read) => Ok(read),
            Err(Stop::Broke(e)) => {
                self.broke(core, e.into())?;
                Ok(Read::Some)
            }
            Err(Stop::Fatal(error)) => {
                self.lose(core, "it broke the protocol");
                Err(error)
            }
        }
    }

    #[inline]
    fn read_turn(&mut self, core: &mut Core, scratch: &mut [u8]) -> Result<Read, Stop> {
        let mut taken = 0;
        while taken < TURN {
            let Some(socket) = &self.socket else { break };
            let ahead = if self.after_large { AHEAD_OF_LARGE } else { AHEAD };
            let stashed = self.stash.len();
            let (n, wanted) = match self.body.as_mut().and_then(|body| body.rest(core)) {
                Some(rest) => {
                    let wanted = rest.len() + ahead;
                    let mut slices = [IoSliceMut::new(rest), IoSliceMut::new(&mut scratch[..ahead])];
                    (retry(|| rustix::io::readv(socket, &mut slices))?, wanted)
                }
                None => {
                    scratch[..stashed].copy_from_slice(&self.stash);
                    (receive(socket.as_fd(), &mut scratch[stashed..stashed + ahead])?, ahead)
                }
            };
            let Some(n) = n else { break };
            if n == 0 {
                return Err(Stop::Broke(Errno::CONNRESET));
            }
            taken += n;
            let mut rest = stashed + n;
            if let Some(body) = &mut self.body
                && body.rest(core).is_some()
            {
                let direct = n.min(body.len - body.filled);
                body.filled += direct;
                rest = n - direct;
                if body.filled < body.len {
                    break;
                }
                self.complete_body(core)?;
            }
            self.stash.clear();
            self.parse(core, &scratch[..rest])?;
            if n < wanted {
                break;
            }
        }
        if !self.serving.is_empty() && taken > 0 {
            self.touch(core);
        }
        Ok(if taken > 0 { Read::Some } else { Read::Nothing })
    }

    /// Handles the frames in `input`, and keeps an incomplete one.
    fn parse(&mut self, core: &mut Core, input: &[u8]) -> Result<(), Stop> {
        let mut at = 0;
        loop {
            if let Some(body) = &mut self.body {
                at += body.feed(core, &input[at..]);
                if body.filled < body.len {
                    return Ok(());
                }
                self.complete_body(core)?;
            }
            let rest = &input[at..];
            let Some((head, head_len)) = self.decode(core, rest)? else {
                self.stash.extend_from_slice(rest);
                return Ok(());
            };
            let len = usize::try_from(head.len).map_err(|_| self.violation("a length", head.len))?;
            let put = head.kind == FrameKind::Put && head.words[2] == UNANSWERED;
            if (put || head.kind == FrameKind::Data) && len <= SMALL_MAX {
                let Some(bytes) = rest.get(head_len..head_len + len) else {
                    self.stash.extend_from_slice(rest);
                    return Ok(());
                };
                self.small(core, &head, bytes)?;
                at += head_len + len;
            } else {
                at += head_len;
                self.frame(core, head, len)?;
                if self.body.as_ref().is_some_and(|body| body.len == 0) {
                    self.complete_body(core)?;
                }
            }
        }
    }

    fn decode(&mut self, core: &mut Core, bytes: &[u8]) -> Result<Option<(Head, usize)>, TransportError> {
        let opening = self.state == State::Opening;
        let format = if opening { Format { checksum: false, ..core.format } } else { core.format };
        match format.decode(bytes, self.received) {
            Ok(Some((head, head_len))) => {
                if opening != matches!(head.kind, FrameKind::Resume | FrameKind::Gone) {
                    return Err(self.violation("a frame at the wrong place", head.kind as u64));
                }
                if !opening {
                    self.acknowledged(core, head.ack)?;
                }
                Ok(Some((head, head_len)))
            }
            Ok(None) => Ok(None),
            Err(Malformed::Rule(what, detail)) => Err(self.violation(what, detail)),
            Err(Malformed::Corrupt { sequence, size }) => {
                Err(TransportError::Corrupt { from: self.peer, sequence, size })
            }
        }
    }

    /// Handles a message, or a put that is not answered, that has arrived as a whole.
    #[inline]
    fn small(&mut self, core: &mut Core, head: &Head, bytes: &[u8]) -> Result<(), TransportError> {
        if core.format.checksum && crc32fast::hash(bytes) != head.body_crc {
            return Err(TransportError::Corrupt { from: self.peer, sequence: self.received + 1, size: head.len });
        }
        self.after_large = false;
        let (from, imm) = (self.peer, Imm(head.imm));
        if head.kind == FrameKind::Put {
            let [key, offset, ..] = head.words;
            let Some(memory) = core.windows.memory(key, offset, head.len) else { return Err(self.no_window(key)) };
            memory.copy_from_slice(bytes);
            if head.flags & ANNOUNCE != 0 {
                core.ready.push(Event::PutArrived { from, imm });
            }
        } else {
            let msg = Msg::fill(&core.slab, bytes.len(), |to| {
                to.iter_mut().zip(bytes).for_each(|(to, from)| _ = to.write(*from));
            });
            core.ready.push(Event::Recv { from, imm, msg });
        }
        self.note_received(core, bytes.len(), head.flags);
        Ok(())
    }

    #[cold]
    fn no_window(&self, key: u64) -> TransportError {
        self.violation("a put to a window that was taken back", key)
    }

    /// Handles a frame's head. If it has a body, that follows.
    fn frame(&mut self, core: &mut Core, head: Head, len: usize) -> Result<(), TransportError> {
        let to = match head.kind {
            FrameKind::Ack => return Ok(()),
            FrameKind::Resume => return self.resume(core, head.words),
            FrameKind::Gone => {
                self.lose(core, "it has ended");
                return Ok(());
            }
            FrameKind::Bye => {
                self.parting.hear();
                self.ack_wanted = true;
                self.note_received(core, 0, head.flags);
                return Ok(());
            }
            FrameKind::Data => match core.pool.take(len) {
                Some(buf) => BodyTarget::Message(buf),
                None => {
                    let mut refusal = self.head(FrameKind::Refused, 0);
                    refusal.words = [self.received + 1, head.len, 0, 0];
                    self.outbox.push_head(refusal);
                    BodyTarget::Nowhere
                }
            },
            FrameKind::Put => {
                let key = head.words[0];
                match core.windows.memory(key, head.words[1], head.len) {
                    Some(_) => BodyTarget::Window(key),
                    None if head.words[2] == UNANSWERED => {
                        return Err(self.no_window(key));
                    }
                    None => BodyTarget::Nowhere,
                }
            }
            FrameKind::GetReply => return self.got(core, head, len),
            FrameKind::PutDone => {
                self.note_received(core, 0, head.flags);
                return self.put_done(core, head.words[0], head.words[1]);
            }
            FrameKind::Get => {
                let [window, offset, operation, len] = head.words;
                self.note_received(core, 0, head.flags);
                // Each piece is checked against the window; this only keeps the sum from wrapping.
                let window = if offset.checked_add(len).is_some() { window } else { 0 };
                let offset = if window == 0 { 0 } else { offset };
                self.serving.push_back(Serving { window, offset, operation, at: 0, len });
                self.touch(core);
                return Ok(());
            }
            FrameKind::Refused => {
                self.note_received(core, 0, head.flags);
                return self.refused(head.words[0], head.words[1]);
            }
        };
        self.body = Some(Body { to, filled: 0, len, head });
        Ok(())
    }

    fn pending_answer(&self, core: &mut Core, operation: u64, is_get: bool) -> Result<(), TransportError> {
        match core.operations.get_mut(operation) {
            Some(pending) if pending.peer == self.peer && pending.is_get == is_get => Ok(()),
            _ => Err(self.violation("an answer without a question", operation)),
        }
    }

    fn put_done(&mut self, core: &mut Core, operation: u64, status: u64) -> Result<(), TransportError> {
        self.pending_answer(core, operation, false)?;
        let Some(pending) = core.operations.remove(operation) else { return Ok(()) };
        let (op, buf) = (pending.op, pending.buf);
        core.ready.push(if status == 0 {
            Event::Sent { op, buf }
        } else {
            Event::Failed { op, buf, error: Box::new(TransportError::WindowRefused { pe: self.peer }) }
        });
        Ok(())
    }

    /// Handles the head of a piece of a get's answer, or the refusal.
    fn got(&mut self, core: &mut Core, head: Head, len: usize) -> Result<(), TransportError> {
        let [operation, at, status, _] = head.words;
        self.pending_answer(core, operation, true)?;
        if status != 0 {
            self.note_received(core, 0, head.flags);
            if let Some(pending) = core.operations.remove(operation) {
                let error = Box::new(TransportError::WindowRefused { pe: self.peer });
                core.ready.push(Event::Failed { op: pending.op, buf: pending.buf, error });
            }
            return Ok(());
        }
        let room =
            core.operations.get_mut(operation).and_then(|pending| pending.buf.as_ref()).map_or(0, |buf| buf.len());
        if at.checked_add(head.len).is_none_or(|end| end > room as u64) {
            return Err(self.violation("an answer longer than the range asked for", head.len));
        }
        self.body = Some(Body { to: BodyTarget::Destination(operation), filled: 0, len, head });
        Ok(())
    }

    fn refused(&mut self, sequence: u64, size: u64) -> Result<(), TransportError> {
        // Its buffer comes back once the whole frame was read and discarded. If no operation waits for it, it was so small that
        // the peer must be completely out of memory.
        if self.outbox.refuse(sequence) {
            return Ok(());
        }
        Err(TransportError::MessageRefused { pe: self.peer, size })
    }

    /// The whole body of the current frame has arrived.
    fn complete_body(&mut self, core: &mut Core) -> Result<(), TransportError> {
        let Some(mut body) = self.body.take() else { return Ok(()) };
        let head = body.head;
        if core.format.checksum && !body.is_intact(core) {
            return Err(TransportError::Corrupt { from: self.peer, sequence: self.received + 1, size: head.len });
        }
        self.after_large = true;
        self.note_received(core, body.len, head.flags);
        let arrived = !matches!(body.to, BodyTarget::Nowhere);
        match body.to {
            BodyTarget::Message(buf) => {
                core.ready.push(Event::Recv { from: self.peer, imm: Imm(head.imm), msg: buf.into() });
            }
            BodyTarget::Window(_) | BodyTarget::Nowhere if head.kind == FrameKind::Put => {
                if head.words[2] != UNANSWERED {
                    let mut done = self.head(FrameKind::PutDone, 0);
                    done.words = [head.words[2], u64::from(!arrived), 0, 0];
                    self.outbox.push_head(done);
                    self.touch(core);
                }
                if arrived && head.flags & ANNOUNCE != 0 {
                    core.ready.push(Event::PutArrived { from: self.peer, imm: Imm(head.imm) });
                }
            }
            BodyTarget::Destination(operation) => {
                if let Some(pending) = core.operations.get_mut(operation) {
                    pending.received += body.len;
                    if pending.buf.as_ref().is_some_and(|buf| pending.received >= buf.len())
                        && let Some(pending) = core.operations.remove(operation)
                        && let Some(buf) = pending.buf
                    {
                        core.ready.push(Event::Got { op: pending.op, buf });
                    }
                }
            }
            BodyTarget::Window(_) | BodyTarget::Nowhere => {
                self.touch(core);
                if head.kind == FrameKind::Data {
                    core.ready.push(Event::Missed { from: self.peer, imm: Imm(head.imm), len: head.len });
                }
            }
        }
        Ok(())
    }
}

/// Why reading stopped permanently.
enum Stop {
    Broke(Errno),
    Fatal(TransportError),
}

impl From<TransportError> for Stop {
    fn from(error: TransportError) -> Self {
        Self::Fatal(error)
    }
}

#[inline]
fn receive(socket: BorrowedFd<'_>, to: &mut [u8]) -> Result<Option<usize>, Stop> {
    retry(|| recv(socket, &mut *to, RecvFlags::DONTWAIT).map(|(n, _)| n))
}

/// `None`: there is no data.
#[inline]
fn retry(mut call: impl FnMut() -> Result<usize, Errno>) -> Result<Option<usize>, Stop> {
    loop {
        match call() {
            Ok(n) => return Ok(Some(n)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Stop::Broke(e)),
        }
    }
}
