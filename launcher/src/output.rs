//! Merges the output of the processes of a job into one stream in which every line is whole.
//!
//! A [`Source`] splits the output of one process into lines; a [`Sink`] queues them for the launcher's own standard output or error and never blocks:
//! a slow reader fills the sink, a full sink stops the sources (so the processes wait in their own `write`), and the launcher continues to reap
//! processes and pass messages. A line beyond [`LINE_MAX`] is written in pieces; the sink records the owner of the unfinished line, lets it continue
//! the line, and ends the line before one of another owner.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

/// A longer line is written in pieces.
pub(crate) const LINE_MAX: usize = 64 << 10;
/// A sink that holds more is full.
const FULL: usize = 1 << 20;
/// A full sink that holds less has room again.
const ROOM: usize = 256 << 10;
/// The number of bytes that a pipe accepts without waiting if it has any room.
const PIPE_ATOM: usize = 4096;

/// The origin of a line: a process by its number, or the launcher itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    Process(u32),
    Launcher,
}

/// Splits the bytes of one stream of one process into lines.
#[derive(Debug)]
pub(crate) struct Source {
    owner: Owner,
    /// Precedes each line.
    prefix: Vec<u8>,
    /// A line without its end.
    partial: Vec<u8>,
    /// Part of the line has been written.
    open: bool,
}

impl Source {
    pub(crate) fn new(rank: u32, prefix: bool) -> Self {
        let prefix = if prefix { format!("[{rank}] ").into_bytes() } else { Vec::new() };
        Self { owner: Owner::Process(rank), prefix, partial: Vec::new(), open: false }
    }

    /// Takes the bytes of a read.
    pub(crate) fn take(&mut self, mut bytes: &[u8], sink: &mut Sink) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            // Without prefixes, all complete lines at once.
            let end = if self.prefix.is_empty() { bytes.iter().rposition(|b| *b == b'\n').unwrap_or(end) } else { end };
            let (lines, rest) = bytes.split_at(end + 1);
            self.put(lines, sink);
            self.open = false;
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() >= LINE_MAX {
            self.flush(sink);
        }
    }

    /// Whether an unfinished line waits here.
    pub(crate) fn waits(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Writes the unfinished line as far as it is known.
    pub(crate) fn flush(&mut self, sink: &mut Sink) {
        if self.waits() {
            self.put(&[], sink);
            self.open = true;
        }
    }

    fn put(&mut self, bytes: &[u8], sink: &mut Sink) {
        // Another owner's line has ended this line: its own newline would make an empty line.
        let ended = self.open && self.partial.is_empty() && sink.open != Some(self.owner);
        let bytes = if ended { bytes.strip_prefix(b"\n").unwrap_or(bytes) } else { bytes };
        let prefix = if self.open { &[][..] } else { &self.prefix[..] };
        sink.put(self.owner, &[prefix, &self.partial, bytes]);
        self.partial.clear();
    }
}

/// The launcher's standard output or error.
#[derive(Debug)]
pub(crate) struct Sink {
    way: Way,
    queue: VecDeque<u8>,
    /// Written as soon as the current line ends.
    urgent: VecDeque<u8>,
    /// The owner of the queue's last line, if it is unfinished.
    open: Option<Owner>,
    /// The last byte written ended a line.
    at_line: bool,
    full: bool,
    /// The error after which nothing is written any more.
    failed: Option<Errno>,
}

/// How not to block.
#[derive(Debug)]
enum Way {
    /// A file description of our own, non-blocking: the inherited one is shared with the process that started this one.
    Own(OwnedFd),
    /// It could not be opened again: writes only as much as fits, when the kernel reports room.
    Shared(OwnedFd),
    Socket(OwnedFd),
    /// A file never blocks.
    File(OwnedFd),
}

impl Sink {
    /// A sink for `fd`.
    pub(crate) fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode);
        let shared = fd.try_clone_to_owned()?;
        let way = if kind.is_socket() {
            Way::Socket(shared)
        } else if kind.is_fifo() || kind.is_char_device() {
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            match rustix::fs::open(path, flags, Mode::empty()) {
                Ok(own) => Way::Own(own),
                Err(_) => Way::Shared(shared),
            }
        } else {
            Way::File(shared)
        };
        Ok(Self {
            way,
            queue: VecDeque::new(),
            urgent: VecDeque::new(),
            open: None,
            at_line: true,
            full: false,
            failed: None,
        })
    }

    /// The descriptor to wait on for room; `None` if it never blocks.
    pub(crate) fn waits_on(&self) -> Option<BorrowedFd<'_>> {
        match &self.way {
            Way::Own(fd) | Way::Shared(fd) | Way::Socket(fd) => Some(fd.as_fd()),
            Way::File(_) => None,
        }
    }

    /// The kernel cannot report when this has room: it always has (`/dev/null`).
    pub(crate) fn never_waits(self) -> Self {
        let way = match self.way {
            Way::Own(fd) | Way::Shared(fd) | Way::Socket(fd) | Way::File(fd) => Way::File(fd),
        };
        Self { way, ..self }
    }

    fn put(&mut self, owner: Owner, parts: &[&[u8]]) {
        let Some(last) = parts.iter().rev().find_map(|part| part.last()) else { return };
        if self.failed.is_some() {
            return;
        }
        if self.open.is_some_and(|open| open != owner) {
            self.queue.push_back(b'\n');
        }
        parts.iter().for_each(|part| self.queue.extend(*part));
        self.open = (*last != b'\n').then_some(owner);
        self.full |= self.queue.len() > FULL;
    }

    /// Queues a line of the launcher itself, in its turn.
    pub(crate) fn say(&mut self, line: &str) {
        self.put(Owner::Launcher, &[line.as_bytes()]);
    }

    /// Queues lines of the launcher itself, before everything that still waits.
    pub(crate) fn say_first(&mut self, lines: &str) {
        if self.failed.is_none() {
            self.urgent.extend(lines.as_bytes());
        }
    }

    /// Whether the sources must wait.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.urgent.is_empty()
    }

    /// The error after which nothing is written any more.
    pub(crate) fn failed(&self) -> Option<Errno> {
        self.failed
    }

    /// Writes what can be written without waiting.
    pub(crate) fn flush(&mut self) {
        while !self.is_empty() && self.failed.is_none() {
            match self.write_some() {
                Ok(()) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => {
                    self.failed = Some(error);
                    self.queue = VecDeque::new();
                    self.urgent = VecDeque::new();
                }
            }
        }
        self.full &= self.queue.len() > ROOM;
    }

    fn write_some(&mut self) -> Result<(), Errno> {
        let urgent = !self.urgent.is_empty() && (self.at_line || self.queue.is_empty());
        if urgent && !self.at_line {
            // The current line is unfinished: end it.
            self.urgent.push_front(b'\n');
            self.open = None;
            self.at_line = true;
        }
        let queue = if urgent { &self.urgent } else { &self.queue };
        let bytes = queue.as_slices().0;
        // Something urgent waits only for the end of this line.
        let bytes = match bytes.iter().position(|b| *b == b'\n') {
            Some(end) if !urgent && !self.urgent.is_empty() => &bytes[..=end],
            _ => bytes,
        };
        let written = self.way.write(bytes)?;
        self.at_line = bytes[..written].last().map_or(self.at_line, |b| *b == b'\n');
        if urgent {
            self.urgent.drain(..written)
        } else {
            self.queue.drain(..written)
        };
        Ok(())
    }
}

impl Way {
    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        match self {
            Self::Own(fd) | Self::File(fd) => retry_on_intr(|| rustix::io::write(fd, bytes)),
            Self::Socket(fd) => {
                let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
                retry_on_intr(|| rustix::net::send(fd, bytes, flags))
            }
            Self::Shared(fd) => {
                let mut ready = [PollFd::new(fd, PollFlags::OUT)];
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                if retry_on_intr(|| poll(&mut ready, Some(&now)))? == 0 {
                    return Err(Errno::AGAIN);
                }
                retry_on_intr(|| rustix::io::write(fd, &bytes[..bytes.len().min(PIPE_ATOM)]))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// What `work` makes a sink write.
    fn written(work: impl FnOnce(&mut Sink)) -> String {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut sink = Sink::new(writer.as_fd()).unwrap();
        drop(writer);
        work(&mut sink);
        sink.flush();
        assert!(sink.is_empty() && sink.failed().is_none());
        drop(sink);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn lines_of_two_processes_never_mix() {
        let text = written(|sink| {
            let (mut a, mut b) = (Source::new(0, false), Source::new(1, false));
            a.take(b"one t", sink);
            b.take(b"first\nsec", sink);
            a.take(b"wo\nthree\nfo", sink);
            b.take(b"ond\n", sink);
            a.flush(sink);
            b.flush(sink);
        });
        assert_eq!(text, "first\none two\nthree\nsecond\nfo");
    }

    #[test]
    fn every_line_has_its_prefix_once() {
        let text = written(|sink| {
            let mut a = Source::new(7, true);
            a.take(b"a\n\nb", sink);
            a.flush(sink);
            a.take(b"c\nd\n", sink);
        });
        assert_eq!(text, "[7] a\n[7] \n[7] bc\n[7] d\n");
    }

    #[test]
    fn a_line_that_is_too_long_stays_one_line_unless_another_process_prints() {
        let piece = vec![b'x'; LINE_MAX / 2];
        let length = |others: bool| {
            let (mut a, mut b) = (Source::new(0, false), Source::new(1, false));
            let (mut reader, writer) = std::io::pipe().unwrap();
            let mut sink = Sink::new(writer.as_fd()).unwrap();
            drop(writer);
            let read = std::thread::spawn(move || {
                let mut text = String::new();
                reader.read_to_string(&mut text).map(|_| text).unwrap()
            });
            for _ in 0..6 {
                a.take(&piece, &mut sink);
                if others {
                    b.take(b"y\n", &mut sink);
                }
            }
            a.take(b"\n", &mut sink);
            while !sink.is_empty() {
                sink.flush();
                std::thread::yield_now();
            }
            drop(sink);
            read.join().unwrap().lines().map(|line| (line.as_bytes()[0], line.len())).collect::<Vec<_>>()
        };
        assert_eq!(length(false), [(b'x', 3 * LINE_MAX)]);
        let (x, y, m) = (b'x', (b'y', 1), LINE_MAX);
        assert_eq!(length(true), [y, (x, m), y, y, (x, m), y, y, (x, m), y]);
    }

    #[test]
    fn an_error_goes_before_what_waits_but_not_into_a_line() {
        let text = written(|sink| {
            let mut a = Source::new(0, false);
            a.take(b"one\ntwo\n", sink);
            sink.say_first("error\n");
        });
        assert_eq!(text, "error\none\ntwo\n");
        let text = written(|sink| {
            let mut a = Source::new(0, false);
            a.take(b"par", sink);
            a.flush(sink);
            sink.flush();
            sink.say_first("error\n");
            sink.flush();
            a.take(b"tial\n", sink);
        });
        assert_eq!(text, "par\nerror\ntial\n");
    }

    #[test]
    fn a_sink_whose_reader_sleeps_is_full_and_has_room_again_when_it_wakes() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut sink = Sink::new(writer.as_fd()).unwrap();
        drop(writer);
        let mut a = Source::new(0, false);
        let line = [&vec![b'x'; 999][..], b"\n"].concat();
        let mut lines = 0;
        while !sink.is_full() {
            a.take(&line, &mut sink);
            sink.flush();
            lines += 1;
        }
        let mut buf = vec![0; 1 << 20];
        let mut read = 0;
        while !sink.is_empty() {
            read += reader.read(&mut buf).unwrap();
            sink.flush();
        }
        assert!(!sink.is_full());
        drop(sink);
        while read < lines * 1000 {
            read += reader.read(&mut buf).unwrap();
        }
        assert_eq!((read, reader.read(&mut buf).unwrap()), (lines * 1000, 0));
    }

    #[test]
    fn a_reader_that_is_gone_is_one_error() {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut sink = Sink::new(writer.as_fd()).unwrap();
        drop(reader);
        sink.say("hello\n");
        sink.flush();
        assert_eq!(sink.failed(), Some(Errno::PIPE));
        sink.say("hello\n");
        assert!(sink.is_empty());
    }
}
