//! The frames from one PE to another, in order, until the other has acknowledged them.
//!
//! Small frames are copied into chunks, one behind the other, so that many leave in one system call. A large frame keeps
//! its buffer, which is never copied. Both are kept after they were written: when a connection breaks, [`Outbox::resume`] goes back to
//! the first frame that did not arrive. The outbox knows nothing of the life of sockets, nor of what frames mean.
//!
//! Memory: a frame is held until acknowledged; at most the credit (above it posts are `Busy`) and one frame.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};

use super::frame::{Format, HEAD_MAX, Head, LENGTH_MAX};
use charm4rs_transport_core::OpId;
use charm4rs_transport_core::memory::RegBuf;

/// A chunk accepts no more frames beyond this.
const CHUNK_MAX: usize = 64 << 10;
/// Slices given to one system call.
const SLICES: usize = 32;

/// What to do with an acknowledged large frame's buffer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    /// Free it.
    Drop,
    /// The send is complete.
    Sent(OpId),
    /// Give it back to the pending operation of this key.
    Keep(u64),
    /// The peer had no memory for it.
    Refused(OpId),
}

#[derive(Debug)]
enum Segment {
    /// Whole small frames; the number of the last numbered frame before it, and of the last one in it.
    Chunk { bytes: Vec<u8>, before: u64, last: u64 },
    /// One large frame.
    Large(Box<Large>),
}

#[derive(Debug)]
struct Large {
    head: [u8; HEAD_MAX],
    head_len: usize,
    buf: RegBuf,
    sequence: u64,
    then: Then,
}

impl Segment {
    fn len(&self) -> usize {
        match self {
            Self::Chunk { bytes, .. } => bytes.len(),
            Self::Large(large) => large.head_len + large.buf.len(),
        }
    }

    /// The last numbered frame in it or before it.
    fn last(&self) -> u64 {
        match self {
            Self::Chunk { last, .. } => *last,
            Self::Large(large) => large.sequence,
        }
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Outbox {
    format: Format,
    segments: VecDeque<Segment>,
    /// The segment that is being written, and how much of it was written.
    at: (usize, usize),
    /// Number of the last frame.
    sequence: u64,
    acknowledged: u64,
    /// Bytes in `segments`.
    held: usize,
    /// Bytes in `segments` that were not written yet.
    unwritten: usize,
}

/// The result of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Written {
    /// Everything.
    All,
    /// The socket is full.
    Blocked,
}

impl Outbox {
    pub(super) fn new(format: Format) -> Self {
        let segments = VecDeque::new();
        Self { format, segments, at: (0, 0), sequence: 0, acknowledged: 0, held: 0, unwritten: 0 }
    }

    /// Bytes that are not acknowledged.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Whether something is to be written.
    pub(super) fn has_unwritten(&self) -> bool {
        self.unwritten > 0
    }

    /// Bytes to be written.
    pub(super) fn unwritten(&self) -> usize {
        self.unwritten
    }

    /// How many numbered frames were acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Whether every numbered frame was acknowledged.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.acknowledged == self.sequence
    }

    /// Appends a frame whose body is written in place. `head.len` is the body's length.
    #[inline]
    pub(super) fn push(&mut self, mut head: Head, body: usize, fill: impl FnOnce(&mut [MaybeUninit<u8>])) {
        let head_len = self.format.head_len(head.kind);
        let before = self.sequence;
        self.sequence += u64::from(head.kind.numbered());
        let (format, sequence) = (self.format, self.sequence);
        let bytes = self.chunk(head_len + body, before, sequence);
        let start = bytes.len();
        bytes.resize(start + head_len, 0);
        bytes.reserve(body);
        fill(&mut bytes.spare_capacity_mut()[..body]);
        // SAFETY: the length stays within the capacity just reserved, and `fill` initialized the bytes: its contract.
        unsafe { bytes.set_len(start + head_len + body) };
        if format.checksum {
            head.body_crc = crc32fast::hash(&bytes[start + head_len..]);
        }
        let mut encoded = [0; HEAD_MAX];
        format.encode(&head, sequence, &mut encoded);
        bytes[start..start + head_len].copy_from_slice(&encoded[..head_len]);
        self.held += head_len + body;
        self.unwritten += head_len + body;
    }

    /// Appends a frame without a body.
    pub(super) fn push_head(&mut self, head: Head) {
        self.push(head, 0, |_| ());
    }

    /// Appends a frame whose body stays where it is.
    pub(super) fn push_large(&mut self, mut head: Head, buf: RegBuf, then: Then) {
        debug_assert!(head.kind.numbered());
        self.sequence += 1;
        if self.format.checksum {
            head.body_crc = crc32fast::hash(&buf);
        }
        let mut encoded = [0; HEAD_MAX];
        let head_len = self.format.encode(&head, self.sequence, &mut encoded);
        self.held += head_len + buf.len();
        self.unwritten += head_len + buf.len();
        let large = Large { head: encoded, head_len, buf, sequence: self.sequence, then };
        self.segments.push_back(Segment::Large(Box::new(large)));
    }

    /// The chunk for the next `len` bytes, of a frame after which there are `after` numbered ones.
    #[inline]
    fn chunk(&mut self, len: usize, now: u64, after: u64) -> &mut Vec<u8> {
        let fits = matches!(self.segments.back(), Some(Segment::Chunk { bytes, .. }) if bytes.len() + len <= CHUNK_MAX);
        if !fits {
            self.segments.push_back(Segment::Chunk { bytes: Vec::new(), before: now, last: after });
        }
        match self.segments.back_mut() {
            Some(Segment::Chunk { bytes, before, last }) => {
                if bytes.is_empty() {
                    *before = now;
                }
                *last = after;
                bytes
            }
            _ => unreachable!("a chunk was found or pushed above"),
        }
    }

    /// Writes as much as the socket accepts.
    pub(super) fn write(&mut self, socket: BorrowedFd<'_>) -> Result<Written, Errno> {
        while self.unwritten > 0 {
            match self.write_once(socket) {
                Ok(n) => self.advance(n),
                Err(Errno::AGAIN) => return Ok(Written::Blocked),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Written::All)
    }

    fn write_once(&self, socket: BorrowedFd<'_>) -> Result<usize, Errno> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let (index, skip) = self.at;
        if let (Some(Segment::Chunk { bytes, .. }), true) = (self.segments.get(index), index + 1 == self.segments.len())
        {
            return send(socket, &bytes[skip..], flags);
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut used = 0;
        let mut add = |slice, skip: &mut usize| {
            let slice: &[u8] = slice;
            let skipped = slice.len().min(*skip);
            *skip -= skipped;
            if skipped < slice.len() {
                slices[used] = IoSlice::new(&slice[skipped..]);
                used += 1;
            }
            used < SLICES
        };
        let mut skip = skip;
        for segment in self.segments.range(index.min(self.segments.len())..) {
            let more = match segment {
                Segment::Chunk { bytes, .. } => add(bytes, &mut skip),
                Segment::Large(large) => add(&large.head[..large.head_len], &mut skip) && add(&large.buf, &mut skip),
            };
            if !more {
                break;
            }
        }
        sendmsg(socket, &slices[..used], &mut SendAncillaryBuffer::default(), flags)
    }

    fn advance(&mut self, mut written: usize) {
        self.unwritten -= written;
        while let Some(segment) = self.segments.get(self.at.0) {
            let left = segment.len() - self.at.1;
            if written < left {
                self.at.1 += written;
                return;
            }
            written -= left;
            // A chunk at the end stays current: more may be appended to it.
            if matches!(segment, Segment::Chunk { .. }) && self.at.0 + 1 == self.segments.len() {
                self.at.1 += left;
                return;
            }
            self.at = (self.at.0 + 1, 0);
        }
    }

    /// Takes an acknowledgement: the low 32 bits of how many frames arrived. `release` gets the buffers of large ones.
    /// Returns false if that many frames were never sent.
    #[inline]
    pub(super) fn acknowledge(&mut self, low: u32, release: impl FnMut(Then, RegBuf)) -> bool {
        let Some(ack) = self.expand(low) else { return false };
        if ack > self.acknowledged {
            self.acknowledged = ack;
            self.release(release);
        }
        true
    }

    /// The full number for its low 32 bits. Numbers of frames that were sent again count as the newest.
    #[inline]
    fn expand(&self, low: u32) -> Option<u64> {
        let [a, b, c, d, ..] = self.acknowledged.to_le_bytes();
        let ahead = low.wrapping_sub(u32::from_le_bytes([a, b, c, d]));
        if ahead > u32::MAX / 2 {
            return Some(self.acknowledged);
        }
        let ack = self.acknowledged + u64::from(ahead);
        (ack <= self.sequence).then_some(ack)
    }

    fn release(&mut self, mut release: impl FnMut(Then, RegBuf)) {
        while let Some(front) = self.segments.front_mut() {
            let written = self.at.0 > 0 || self.at.1 == front.len();
            if !written || front.last() > self.acknowledged {
                return;
            }
            self.held -= front.len();
            if self.segments.len() == 1
                && let Some(Segment::Chunk { bytes, .. }) = self.segments.front_mut()
            {
                // The usual case of request and answer reuses the same warm bytes.
                bytes.clear();
                self.at = (0, 0);
                return;
            }
            if let Some(Segment::Large(large)) = self.segments.pop_front() {
                release(large.then, large.buf);
            }
            self.at = if self.at.0 > 0 { (self.at.0 - 1, self.at.1) } else { (0, 0) };
        }
    }

    /// The peer refuses the large frame of this number. Returns false if no operation waits for it.
    pub(super) fn refuse(&mut self, sequence: u64) -> bool {
        self.segments.iter_mut().any(|segment| match segment {
            Segment::Large(large) if large.sequence == sequence => match large.then {
                Then::Sent(op) => {
                    large.then = Then::Refused(op);
                    true
                }
                _ => false,
            },
            _ => false,
        })
    }

    /// Continues on a new connection. The peer has `received` frames. If `part` is given, it also has, of the next frame, a large one, the head and `part`
    /// bytes. Returns false if that is impossible.
    pub(super) fn resume(&mut self, received: u64, part: Option<u64>, release: impl FnMut(Then, RegBuf)) -> bool {
        if received < self.acknowledged || received > self.sequence {
            return false;
        }
        self.acknowledged = received;
        // What arrived counts as written: released frames must not be written again.
        self.at = (self.segments.iter().take_while(|segment| segment.last() <= received).count(), 0);
        if self.at.0 == self.segments.len()
            && let Some(Segment::Chunk { bytes, .. }) = self.segments.back()
        {
            self.at = (self.at.0 - 1, bytes.len());
        }
        self.release(release);
        self.at = (0, 0);
        self.at.1 = match (self.segments.front(), part.map(usize::try_from)) {
            (Some(Segment::Chunk { bytes, before, .. }), None) => skip_frames(self.format, bytes, *before, received),
            (_, None) => 0,
            (Some(Segment::Large(large)), Some(Ok(part))) if part < large.buf.len() => large.head_len + part,
            _ => return false,
        };
        self.unwritten = self.held - self.at.1;
        true
    }

    /// Gives up, and releases all buffers.
    pub(super) fn abandon(&mut self, mut release: impl FnMut(Then, RegBuf)) {
        for segment in std::mem::take(&mut self.segments) {
            if let Segment::Large(large) = segment {
                release(large.then, large.buf);
            }
        }
        (self.at, self.held, self.unwritten) = ((0, 0), 0, 0);
        self.acknowledged = self.sequence;
    }
}

/// Where the frame after the `received`th starts in a chunk that `number` frames precede.
fn skip_frames(format: Format, bytes: &[u8], mut number: u64, received: u64) -> usize {
    let format = Format { message_max: LENGTH_MAX, ..format };
    let mut at = 0;
    while number < received && at < bytes.len() {
        let decoded = format.decode(&bytes[at..], number).expect("a chunk holds frames that were encoded here");
        let (head, head_len) = decoded.expect("a chunk holds whole frames");
        at += head_len + usize::try_from(head.len).expect("the body lies in the chunk");
        number += u64::from(head.kind.numbered());
    }
    at
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;
    use crate::frame::FrameKind;

    const FORMAT: Format = Format { checksum: true, message_max: 1 << 20 };

    /// Takes the whole frames off `stream`, checks that each is the next one, and returns how many have been received.
    fn receive(stream: &mut Vec<u8>, mut received: u64) -> u64 {
        let mut at = 0;
        while let Ok(Some((head, head_len))) = FORMAT.decode(&stream[at..], received) {
            let end = at + head_len + usize::try_from(head.len).unwrap();
            if end > stream.len() {
                break;
            }
            if head.kind.numbered() {
                received += 1;
                let body = &stream[at + head_len..end];
                assert_eq!(u64::from(head.imm), received, "frames arrive in order, none duplicated");
                assert!(body.iter().all(|&b| u64::from(b) == received % 251));
            }
            at = end;
        }
        stream.drain(..at);
        received
    }

    proptest! {
        /// Connections break after any number of bytes, and acknowledgements come at any time.
        #[test]
        fn every_frame_arrives_once_and_in_order_over_connections_that_break(
            posts in proptest::collection::vec((0usize..4, 0usize..3000, 0usize..9000, any::<bool>()), 1..60),
        ) {
            let mut outbox = Outbox::new(FORMAT);
            let (mut received, mut sent, mut released) = (0, 0, 0);
            let mut large = Vec::new();
            let mut stream: Vec<u8> = Vec::new();
            for (kind, len, arrive, cut) in posts {
                let number = sent + 1;
                let value = u8::try_from(number % 251).unwrap();
                let mut head = Head::new(if kind == 0 { FrameKind::Ack } else { FrameKind::Data }, 0);
                head.imm = u32::try_from(number).unwrap();
                match kind {
                    0 => outbox.push_head(head),
                    1 | 2 => {
                        head.len = len as u64;
                        outbox.push(head, len, |to| to.iter_mut().for_each(|b| _ = b.write(value)));
                    }
                    _ => {
                        head.len = len as u64;
                        let mut buf = RegBuf::heap(len);
                        buf.fill(value);
                        outbox.push_large(head, buf, Then::Drop);
                        large.push(number);
                    }
                }
                sent += u64::from(kind > 0);
                // How many bytes the kernel accepts, and how many of them arrive before the connection breaks.
                let (ours, theirs) =
                    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
                let _ = outbox.write(ours.as_fd()).unwrap();
                drop(ours);
                let mut buf = vec![0; 1 << 20];
                while let Ok((_, n)) = rustix::net::recv(&theirs, &mut buf[..], rustix::net::RecvFlags::empty()) {
                    if n == 0 { break }
                    stream.extend_from_slice(&buf[..n]);
                }
                if cut {
                    stream.truncate(arrive);
                    received = receive(&mut stream, received);
                    // The received part of a large frame is kept, from its head on.
                    let head = FORMAT.decode(&stream, received).unwrap();
                    let part = head.filter(|(head, _)| head.len > 0 && large.contains(&u64::from(head.imm)));
                    let part = part.map(|(_, head_len)| (stream.len() - head_len) as u64);
                    if part.is_none() {
                        stream.clear();
                    }
                    prop_assert!(outbox.resume(received, part, |_, _| released += 1));
                } else {
                    // Everything that was read is acknowledged, occasionally with an old number.
                    let old = received;
                    received = receive(&mut stream, received);
                    let low = u32::try_from(if arrive % 5 == 0 { old } else { received }).unwrap();
                    prop_assert!(outbox.acknowledge(low, |_, _| released += 1));
                }
            }
            // The last connection carries the rest.
            received = receive(&mut stream, received);
            prop_assert!(outbox.resume(received, None, |_, _| released += 1));
            let (ours, theirs) =
                socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
            let mut buf = vec![0; 1 << 20];
            loop {
                let written = outbox.write(ours.as_fd()).unwrap();
                let mut stream = Vec::new();
                while let Ok((_, n)) = rustix::net::recv(&theirs, &mut buf[..], rustix::net::RecvFlags::empty()) {
                    stream.extend_from_slice(&buf[..n]);
                }
                received = receive(&mut stream, received);
                if written == Written::All || received == sent { break }
                prop_assert!(outbox.resume(received, None, |_, _| released += 1));
            }
            prop_assert_eq!(received, sent);
            prop_assert!(outbox.acknowledge(u32::try_from(sent).unwrap(), |_, _| released += 1));
            prop_assert_eq!((outbox.held(), outbox.unwritten(), released), (0, 0, large.len()));
            prop_assert!(outbox.is_acknowledged() && !outbox.acknowledge(u32::try_from(sent + 1).unwrap(), |_, _| ()));
        }
    }

    #[test]
    fn an_acknowledgement_of_frames_that_were_never_sent_is_refused() {
        let mut outbox = Outbox::new(FORMAT);
        assert!(outbox.acknowledge(0, |_, _| ()) && !outbox.acknowledge(1, |_, _| ()));
        assert!(!outbox.resume(1, None, |_, _| ()) && !outbox.resume(0, Some(0), |_, _| ()));
        outbox.push_head(Head::new(FrameKind::Bye, 0));
        assert!(!outbox.is_acknowledged() && outbox.resume(1, None, |_, _| ()) && outbox.is_acknowledged());
        assert!(!outbox.resume(0, None, |_, _| ()), "acknowledged frames cannot be requested again");
        for (part, possible) in [(0, true), (99, true), (100, false), (u64::MAX, false)] {
            let mut outbox = Outbox::new(FORMAT);
            outbox.push_large(Head::new(FrameKind::Data, 100), RegBuf::heap(100), Then::Drop);
            assert_eq!(outbox.resume(0, Some(part), |_, _| ()), possible, "{part} bytes of 100 arrived");
        }
    }
}
