//! The output of a job: the launcher's own standard output and error, and the unfinished lines of each process. Knows nothing of where the processes
//! are.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;

use crate::error::LaunchError;
use crate::local_processes::{What, token};
use crate::output::{Sink, Source};

/// See the [module's text](self).
#[derive(Debug)]
pub(crate) struct Outputs {
    /// Standard output and standard error, or one sink for both if they are the same.
    sinks: Vec<Sink>,
    /// The loop waits for room in this sink.
    heard: [bool; 2],
    /// The streams of each process, by rank.
    sources: Vec<[Option<Source>; 2]>,
}

impl Outputs {
    /// For so many processes, in a loop that uses `epoll`.
    pub(crate) fn new(epoll: &OwnedFd, processes: u32, prefix: bool) -> Result<Self, LaunchError> {
        let mut sinks = vec![Sink::new(io::stdout().as_fd()).map_err(LaunchError::system("standard output"))?];
        if !same(io::stdout().as_fd(), io::stderr().as_fd()) {
            sinks.push(Sink::new(io::stderr().as_fd()).map_err(LaunchError::system("standard error"))?);
        }
        // A descriptor that epoll refuses never blocks.
        let waits = |sink: &Sink| {
            sink.waits_on().is_some_and(|fd| {
                let added = epoll::add(epoll, fd, token(What::Sink, 0), EventFlags::empty());
                added.and_then(|()| epoll::delete(epoll, fd)).is_ok()
            })
        };
        let sinks = sinks.into_iter().map(|sink| if waits(&sink) { sink } else { sink.never_waits() }).collect();
        let sources = (0..processes).map(|rank| [0, 1].map(|_| Some(Source::new(rank, prefix)))).collect();
        Ok(Self { sinks, heard: [false; 2], sources })
    }

    fn sink_of(&mut self, which: usize) -> &mut Sink {
        let last = self.sinks.len() - 1;
        &mut self.sinks[which.min(last)]
    }

    /// Takes output of a process; empty: the stream has ended. Returns whether an unfinished line waits.
    pub(crate) fn take(&mut self, rank: u32, which: usize, bytes: &[u8]) -> bool {
        let Some(mut source) = self.sources.get_mut(rank as usize).and_then(|pair| pair[which].take()) else {
            return false;
        };
        let sink = self.sink_of(which);
        if bytes.is_empty() {
            source.flush(sink);
            return false;
        }
        source.take(bytes, sink);
        let waits = source.waits();
        self.sources[rank as usize][which] = Some(source);
        waits
    }

    /// Writes the unfinished lines of all processes.
    pub(crate) fn flush_sources(&mut self) {
        self.flush_first(self.sources.len());
    }

    /// Writes the unfinished line of the first process.
    pub(crate) fn flush_prompt(&mut self) {
        self.flush_first(1);
    }

    fn flush_first(&mut self, processes: usize) {
        let last = self.sinks.len() - 1;
        for pair in self.sources.iter_mut().take(processes) {
            for (which, source) in pair.iter_mut().enumerate() {
                if let Some(source) = source {
                    source.flush(&mut self.sinks[which.min(last)]);
                }
            }
        }
    }

    /// Writes what can be written, and lets the loop wait for room if something is left.
    pub(crate) fn write(&mut self, epoll: &OwnedFd) {
        for (i, sink) in (0..).zip(&mut self.sinks) {
            sink.flush();
            let wants = !sink.is_empty();
            if let (Some(fd), true) = (sink.waits_on(), wants != self.heard[i as usize]) {
                // Removed when nothing waits: epoll would report a closed reader again and again.
                let changed = if wants {
                    epoll::add(epoll, fd, token(What::Sink, i), EventFlags::OUT)
                } else {
                    epoll::delete(epoll, fd)
                };
                self.heard[i as usize] = if changed.is_ok() { wants } else { !wants };
            }
        }
    }

    /// Whether the processes that print on this stream must wait.
    pub(crate) fn is_full(&mut self, which: usize) -> bool {
        self.sink_of(which).is_full()
    }

    /// The error after which nothing is written to standard output any more.
    pub(crate) fn failed(&self) -> Option<Errno> {
        self.sinks[0].failed()
    }

    /// The sinks that have something to write.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Sink> {
        self.sinks.iter().filter(|sink| !sink.is_empty())
    }

    /// The sink for the launcher's own messages.
    pub(crate) fn voice(&mut self) -> &mut Sink {
        self.sinks.last_mut().expect("there is one")
    }
}

fn same(a: impl AsFd, b: impl AsFd) -> bool {
    match (rustix::fs::fstat(a), rustix::fs::fstat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => false,
    }
}
