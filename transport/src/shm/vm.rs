//! Memory of another process that is not shared with this one, if the kernel allows access; and whether that process still runs.
//!
//! # The identity of a process
//! The kernel's calls identify a process by its number, which another process may have once the first one has ended and its parent has reaped
//! it. A [`Process`] is a number and a *pidfd*, which always refers to the same process: it becomes readable when that one ends, and never
//! refers to another.
//!
//! - *At the start*: the descriptor is opened by the number that a peer wrote into its shared segment. Then a random word of the peer is
//!   read, at the address in its segment, and compared with the value in its segment. If the descriptor says afterwards that its process still runs, the
//!   number belonged to that process all the time, so all three are one.
//! - *A read* is followed by a check of the descriptor. If the process runs, it had the number during the read. Otherwise the bytes are not used.
//! - *A write* follows such a check, since it cannot be undone. For it to reach another process, the peer would have to end, be reaped, and
//!   its number be given to a new process, all between the check and the kernel's lookup of the number, a few instructions later. The
//!   kernel gives out numbers in order, so that takes a whole cycle of them, 2^15 or 2^22 new processes, in a time in which this thread does
//!   nothing else: longer only if it loses its core just there. A check after the write tells if even that can have happened; then the
//!   write has failed.
//!
//! (`/proc/PID/mem`, once open, always refers to the same process, too; but it copies everything twice.)

use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PTracer, Pid, PidfdFlags, pidfd_open, set_ptracer, test_kill_process};

use charm4rs_transport_core::TransportError;

/// The word that another process must find at the address in our header, if it can read our memory. The header contains the word, too.
static PROBE: OnceLock<AtomicU64> = OnceLock::new();

/// The address and value of this process's word.
pub(super) fn own_probe() -> Result<(u64, u64), TransportError> {
    let word = charm4rs_transport_core::auth::random_u64()?;
    let probe = PROBE.get_or_init(|| AtomicU64::new(word));
    let address = std::ptr::from_ref(probe).expose_provenance() as u64;
    Ok((address, probe.load(std::sync::atomic::Ordering::Relaxed)))
}

/// Lets the job's other processes access our memory, if Yama requires it.
pub(super) fn allow() {
    // Without Yama there is no such call, and access needs no permission.
    let _ = set_ptracer(PTracer::Any);
}

/// A process of this host; see the module's text.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    /// `None` if the kernel has no such descriptors (before Linux 5.3, or filtered).
    fd: Option<OwnedFd>,
}

impl Process {
    /// The process that has this number now.
    pub(super) fn open(pid: Pid) -> Result<Self, TransportError> {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Ok(Self { pid, fd: Some(fd) }),
            Err(Errno::MFILE | Errno::NFILE) => Err(TransportError::Resource {
                what: "file descriptors",
                need: "one more for each process of the host".to_owned(),
                advice: "raise the limit: ulimit -n",
            }),
            Err(Errno::SRCH) => Err(TransportError::Startup(format!("process {pid} of this host has ended"))),
            Err(_) => Ok(Self { pid, fd: None }),
        }
    }

    /// Whether it has ended. Without a descriptor another process with its number counts as it.
    pub(super) fn has_ended(&self) -> bool {
        let Some(fd) = &self.fd else { return test_kill_process(self.pid) == Err(Errno::SRCH) };
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            match poll(&mut [PollFd::new(&fd.as_fd(), PollFlags::IN)], Some(&now)) {
                Err(Errno::INTR) => {}
                ready => return ready != Ok(0),
            }
        }
    }

    /// Whether its memory can be reached, and it is the process that wrote this probe into its segment.
    pub(super) fn is_reachable(&self, (address, word): (u64, u64)) -> bool {
        let mut bytes = [0; 8];
        self.fd.is_some() && self.copy(&mut bytes, address, false) && u64::from_ne_bytes(bytes) == word
    }

    /// Copies between `here` and that process. True if all bytes were copied, and it is still that process.
    pub(super) fn copy(&self, here: &mut [u8], address: u64, put: bool) -> bool {
        !(put && self.has_ended()) && copy(here, self.pid, address, put) && !self.has_ended()
    }
}

/// Copies between `here` and the process that has this number. True if all bytes were copied.
fn copy(here: &mut [u8], process: Pid, addr: u64, put: bool) -> bool {
    let Ok(addr) = usize::try_from(addr) else { return false };
    let mut done = 0;
    while done < here.len() {
        let local = libc::iovec { iov_base: here[done..].as_mut_ptr().cast(), iov_len: here.len() - done };
        let Some(at) = addr.checked_add(done) else { return false };
        let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(at), iov_len: here.len() - done };
        let pid = process.as_raw_nonzero().get();
        // SAFETY: `local` describes a buffer of ours, borrowed exclusively; the kernel checks the other side.
        let n = unsafe {
            if put {
                libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0)
            } else {
                libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0)
            }
        };
        match usize::try_from(n) {
            Ok(n) if n > 0 => done += n,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn an_ended_process_is_not_reached_although_another_one_may_have_its_number() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let process = Process::open(Pid::from_child(&child)).unwrap();
        assert!(!process.has_ended());
        drop(child.stdin.take());
        let own = Process::open(rustix::process::getpid()).unwrap();
        // It has ended, and is not reaped: its number still belongs to it.
        rustix::process::waitid(
            rustix::process::WaitId::Pid(Pid::from_child(&child)),
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
        )
        .unwrap();
        assert!(process.has_ended());
        child.wait().unwrap();
        // The number of a live process (our own), with the descriptor of an ended one: a number that has been reused.
        let stale = Process { pid: own.pid, fd: process.fd };
        let word = 77u64;
        let address = std::ptr::from_ref(&word).expose_provenance() as u64;
        let mut bytes = [1; 8];
        assert!(!stale.copy(&mut bytes, address, true) && !stale.copy(&mut bytes, address, false));
        assert_eq!(std::hint::black_box(word), 77, "untouched");
        assert!(own.copy(&mut bytes, address, false) && u64::from_ne_bytes(bytes) == 77);
        assert!(own.is_reachable((address, 77)) && !own.is_reachable((address, 78)));
    }
}
