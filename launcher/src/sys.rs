//! The system calls that the compiler cannot check: reaping children, starting a process, and starting the guardian.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::Pid;

use crate::guardian;
use crate::processes::Identity;

/// How a child ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Death {
    pub(crate) how: Ending,
    /// Its maximum resident memory, in KiB.
    pub(crate) resident_kib_max: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    Code(u8),
    Signal(u8),
}

/// A child that has ended and still keeps its number: neither its number nor that of its group is reused until [`reap`].
pub(crate) fn next_dead() -> Option<Pid> {
    ended(libc::P_ALL, 0).ok().flatten()
}

/// Whether this child has ended and was not reaped by [`reap`]; other code may have reaped it.
pub(crate) fn has_ended(pid: Pid) -> bool {
    ended(libc::P_PID, pid.as_raw_nonzero().get().unsigned_abs()).map_or(true, |pid| pid.is_some())
}

fn ended(which: libc::idtype_t, id: libc::id_t) -> io::Result<Option<Pid>> {
    // SAFETY: all-zero is a valid `siginfo_t`, and the pointer is to a live local.
    let (result, pid) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        let result = libc::waitid(which, id, &raw mut info, options);
        (result, info.si_pid())
    };
    check(result)?;
    Ok(Pid::from_raw(pid))
}

/// Takes the status of a child that has ended.
pub(crate) fn reap(pid: Pid) -> Death {
    let mut status = 0;
    // SAFETY: all-zero is a valid `rusage`, and the pointers are to live locals.
    let (result, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(pid.as_raw_nonzero().get(), &raw mut status, libc::WNOHANG, &raw mut usage), usage)
    };
    let byte = |n: libc::c_int| u8::try_from(n & 0xff).unwrap_or(0);
    let how = if result <= 0 {
        // Another thread of this process waits for any child, and has taken the status, which is lost.
        Ending::Code(0)
    } else if libc::WIFSIGNALED(status) {
        Ending::Signal(byte(libc::WTERMSIG(status)))
    } else {
        Ending::Code(byte(libc::WEXITSTATUS(status)))
    };
    Death { how, resident_kib_max: u64::try_from(usage.ru_maxrss).unwrap_or(0) }
}

/// A process to start.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    pub(crate) program: &'a CString,
    /// Its arguments, including its name.
    pub(crate) args: &'a [CString],
    /// Its environment, as `NAME=VALUE`.
    pub(crate) env: &'a [CString],
    /// The descriptor that it inherits besides the standard ones.
    pub(crate) inherits: Option<BorrowedFd<'a>>,
    pub(crate) reads: Reads,
    /// Where it writes its identity, which names its group, before its program runs.
    pub(crate) guardian: Option<BorrowedFd<'a>>,
}

/// The standard input of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reads {
    Nothing,
    /// The launcher's own.
    Ours,
    /// A pipe that the launcher writes.
    Us,
}

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) leader: Identity,
    /// Present if the launcher writes its standard input.
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: ChildStdout,
    pub(crate) stderr: ChildStderr,
}

/// Starts a process in a session and group of its own, which the kernel kills when the launcher dies. Returns the error of a program that cannot be
/// executed.
pub(crate) fn start(start: &Start<'_>) -> io::Result<Started> {
    let pointers = |texts: &[CString]| texts.iter().map(|t| t.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let exec = Exec {
        program: start.program.as_ptr(),
        args: pointers(start.args),
        env: pointers(start.env),
        inherits: start.inherits.map(|fd| fd.as_raw_fd()),
        guardian: start.guardian.map(|fd| fd.as_raw_fd()),
        launcher: rustix::process::getpid(),
    };
    // The closure executes the program: the standard library's own way would run a file that is not a program with the shell.
    let mut command = Command::new("/");
    command
        .stdin(match start.reads {
            Reads::Nothing => Stdio::null(),
            Reads::Ours => Stdio::inherit(),
            Reads::Us => Stdio::piped(),
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: between fork and exec the closure only makes system calls, on memory made before the fork or on its stack.
    unsafe { command.pre_exec(move || Err(exec.run())) };
    let mut child = command.spawn()?;
    let pid = Pid::from_child(&child);
    // If `/proc` does not tell when it started, only its number is known.
    let leader = Identity::of_child(pid).unwrap_or(Identity { pid, began: 0 });
    let stdout = child.stdout.take().expect("it was asked for");
    let stderr = child.stderr.take().expect("it was asked for");
    Ok(Started { leader, stdin: child.stdin.take(), stdout, stderr })
}

/// What a new process does before its program runs.
struct Exec {
    program: *const libc::c_char,
    args: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    inherits: Option<libc::c_int>,
    guardian: Option<libc::c_int>,
    launcher: Pid,
}

// SAFETY: the pointers are to the caller's strings, which outlive the spawn that runs this, in a copy of the caller's memory; no other thread shares
// them.
unsafe impl Send for Exec {}
// SAFETY: as above; nothing is ever written through them.
unsafe impl Sync for Exec {}

impl Exec {
    /// Returns only if the program cannot be executed.
    fn run(&self) -> io::Error {
        let run = || -> io::Result<()> {
            rustix::process::setsid()?;
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            // The launcher may have died before that call, and then no signal comes.
            if rustix::process::getppid() != Some(self.launcher) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            // SAFETY: the pointers are to a live local, or to the caller's null-terminated lists (see `Exec`).
            unsafe {
                let mut none: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&raw mut none);
                check(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()))?;
                if let (Some(guardian), Some(leader)) = (self.guardian, Identity::own()) {
                    // If the guardian is gone or does not read, the process starts nevertheless.
                    libc::signal(libc::SIGPIPE, libc::SIG_IGN);
                    let record = guardian::record(guardian::Word::Kill, leader);
                    libc::write(guardian, record.as_ptr().cast(), record.len());
                    libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                }
                if let Some(fd) = self.inherits {
                    check(libc::fcntl(fd, libc::F_SETFD, 0))?;
                }
                check(libc::execve(self.program, self.args.as_ptr(), self.env.as_ptr()))?;
            }
            Ok(())
        };
        run().err().unwrap_or_else(|| io::Error::other("execve returned"))
    }
}

/// Forks a process that runs `guard` and ends.
pub(crate) fn fork(guard: impl FnOnce()) -> io::Result<Pid> {
    // SAFETY: in a program that calls the launcher as a function, another thread may hold a lock, which stays locked in the child. The child takes no
    // lock but the allocator's, which `fork` handles.
    let pid = unsafe { check(libc::fork())? };
    if let Some(pid) = Pid::from_raw(pid) {
        return Ok(pid);
    }
    guard();
    // SAFETY: ends the child without running what belongs to the parent.
    unsafe { libc::_exit(0) }
}

/// Closes every descriptor but `keep`.
pub(crate) fn close_all_but(keep: BorrowedFd<'_>) {
    let Ok(keep) = libc::c_ulong::try_from(keep.as_fd().as_raw_fd()) else { return };
    let (first, last, flags): (libc::c_ulong, libc::c_ulong, libc::c_ulong) = (0, libc::c_uint::MAX.into(), 0);
    // SAFETY: called in the guardian, a fresh copy of the launcher, which uses no other descriptor afterwards and ends without running a destructor.
    // If the call does not exist nothing is closed, which is harmless.
    unsafe {
        if keep > 0 {
            libc::syscall(libc::SYS_close_range, first, keep - 1, flags);
        }
        libc::syscall(libc::SYS_close_range, keep + 1, last, flags);
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
