//! The messages of a library with a log of its own (UCX). The log goes into a file in memory, so that the user sees its lines in the form of all others, and
//! not before the reason why the job ends. If the process crashes, the lines that were not shown yet are shown then, since they may hold the cause.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::{pread, write};

/// Bytes of log that are kept. Later ones are lost.
const ROOM: u64 = 256 << 10;
/// How long the log waits for the crash message to be shown first.
const HEAD_START: Duration = Duration::from_millis(50);

/// The log of this process's library.
static LOG: OnceLock<LibraryLog> = OnceLock::new();

/// See the module's text. Bytes that were not written are zeros.
#[derive(Debug)]
pub struct LibraryLog {
    file: File,
    /// Bytes that have been shown.
    told: AtomicU64,
    reading: Mutex<()>,
}

impl LibraryLog {
    /// Makes a file in memory. `None`: the system has no memory for it.
    #[must_use]
    pub fn new() -> Option<Self> {
        let fd = rustix::fs::memfd_create("charm4rs-log", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).ok()?;
        Some(Self { file: File::from(fd), told: AtomicU64::new(0), reading: Mutex::new(()) })
    }

    /// The path by which the library, in this process, opens the file.
    pub fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }

    /// Fixes the size of the file. Call it once the library has opened the file (which empties it).
    pub fn keep(self) {
        if self.limit().is_ok() {
            let _ = LOG.set(self);
        }
    }

    fn limit(&self) -> std::io::Result<()> {
        self.file.set_len(ROOM)?;
        Ok(rustix::fs::fcntl_add_seals(&self.file, SealFlags::GROW | SealFlags::SHRINK)?)
    }

    /// The bytes from `at` on, as far as they fit into `room`.
    fn read<'a>(&self, room: &'a mut [u8], at: u64) -> &'a [u8] {
        let read = pread(&self.file, &mut *room, at).unwrap_or(0);
        let read = &room[..read];
        &read[..read.iter().position(|byte| *byte == 0).unwrap_or(read.len())]
    }

    /// The lines that are new since the last call.
    fn news(&self) -> Vec<String> {
        let _one = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut at, mut text, mut piece) = (self.told.load(Ordering::Relaxed), Vec::new(), [0; 4096]);
        loop {
            let written = self.read(&mut piece, at);
            if written.is_empty() {
                break;
            }
            text.extend_from_slice(written);
            at += written.len() as u64;
        }
        // A line that is still being written waits until it is complete.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        self.told.fetch_add(whole as u64, Ordering::Relaxed);
        String::from_utf8_lossy(&text[..whole]).lines().map(message).collect()
    }
}

/// Strips the time and the source location off a line of UCX.
fn message(line: &str) -> String {
    let text = line.find("UCX  ").map_or(line, |at| &line[at..]);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The descriptor by which the library writes: a second descriptor of the same file.
pub fn writer() -> Option<RawFd> {
    let said = LOG.get()?;
    let own = said.file.metadata().ok()?;
    let descriptors = std::fs::read_dir("/proc/self/fd").ok()?;
    let writes = |entry: std::io::Result<std::fs::DirEntry>| {
        let number: RawFd = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let there = std::fs::metadata(format!("/proc/self/fd/{number}")).ok()?;
        let same = (there.dev(), there.ino()) == (own.dev(), own.ino());
        (same && number != said.file.as_raw_fd()).then_some(number)
    };
    descriptors.into_iter().find_map(writes)
}

/// The lines that the library has logged since the last call.
pub fn news() -> Vec<String> {
    LOG.get().map(LibraryLog::news).unwrap_or_default()
}

/// Writes the lines that were not shown to standard error. For the crash handler: no allocation, no lock.
pub fn show_rest() {
    let Some(said) = LOG.get() else { return };
    let mut at = said.told.load(Ordering::Relaxed);
    let mut piece = [0; 512];
    let mut shown = false;
    loop {
        let written = said.read(&mut piece, at);
        if written.is_empty() {
            return;
        }
        if !std::mem::replace(&mut shown, true) {
            let pause = rustix::thread::Timespec { tv_sec: 0, tv_nsec: HEAD_START.subsec_nanos().into() };
            let _ = rustix::thread::nanosleep(&pause);
        }
        let _ = write(std::io::stderr().as_fd(), written);
        at += written.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn opened() -> (LibraryLog, File) {
        let said = LibraryLog::new().unwrap();
        let library = File::create(said.path()).unwrap();
        said.limit().unwrap();
        (said, library)
    }

    #[test]
    fn each_line_is_shown_once_when_complete_and_without_its_source_location() {
        let (said, mut library) = opened();
        assert!(said.news().is_empty());
        write!(library, "[17.5] [vm:300  :0]     mm.c:57   UCX  ERROR shmat() failed: no\nplain\n[1.2] UCX  WA")
            .unwrap();
        assert_eq!(said.news(), ["UCX ERROR shmat() failed: no", "plain"]);
        assert!(said.news().is_empty());
        writeln!(library, "RN  slow").unwrap();
        assert_eq!(said.news(), ["UCX WARN slow"]);
    }

    #[test]
    fn a_library_that_logs_too_much_loses_lines_and_takes_no_more_memory() {
        let (said, mut library) = opened();
        let line = [b'x'; 999].iter().chain(b"\n").copied().collect::<Vec<_>>();
        let written = (0..1000).take_while(|_| library.write_all(&line).is_ok()).count();
        assert_eq!((written as u64, said.file.metadata().unwrap().len()), (ROOM / 1000, ROOM));
        assert_eq!(said.news().len(), written);
    }
}
