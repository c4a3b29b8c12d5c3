//! A small process beside the launcher that outlives it by a moment: when the launcher is killed with no chance to clean
//! up, the kernel kills the job's processes (their parent's death signal), but not what they have started. The guardian
//! holds the reading end of a pipe, learns of each process group, and kills those that are left when the pipe closes.
//!
//! The process that leads a group writes the group's number into the pipe before it runs its program; the launcher takes
//! the number back before anybody else can have it. So no group is missed, and the guardian never kills a stranger.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{read, retry_on_intr};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::sys;

/// The launcher's end.
#[derive(Debug)]
pub(crate) struct Guardian {
    pid: Pid,
    /// Closing it ends the guardian.
    pipe: OwnedFd,
}

impl Guardian {
    /// Starts it. Call it before anything else is open: it shares nothing with the launcher but the pipe.
    pub(crate) fn start() -> io::Result<Self> {
        let (mine, pipe) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let pid = sys::fork(|| {
            // Away from the terminal's signals.
            let _ = rustix::process::setsid();
            sys::close_all_but(mine.as_fd());
            watch(&mine);
        })?;
        Ok(Self { pid, pipe })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Where the leader of a group writes its number.
    pub(crate) fn pipe(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Ends it, without it killing anything.
    pub(crate) fn dismiss(self) {
        drop(self.pipe);
        let _ = retry_on_intr(|| rustix::process::waitpid(Some(self.pid), rustix::process::WaitOptions::empty()));
    }

    /// This group's number will be somebody else's.
    pub(crate) fn forget(&self, group: Pid) {
        let number = -group.as_raw_nonzero().get();
        // If the guardian is gone, somebody killed it: the job goes on without.
        let _ = retry_on_intr(|| rustix::io::write(&self.pipe, &number.to_ne_bytes()));
    }
}

/// The guardian's life.
fn watch(pipe: &OwnedFd) {
    let mut groups: Vec<i32> = Vec::new();
    // Four bytes are written, and so read, whole or not at all.
    let mut number = [0; 4];
    while let Ok(4) = retry_on_intr(|| read(pipe, &mut number)) {
        match i32::from_ne_bytes(number) {
            group if group > 0 => groups.push(group),
            group => groups.retain(|g| *g != -group),
        }
    }
    for group in groups.into_iter().filter_map(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}
