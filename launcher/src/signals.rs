//! The signals that a launcher handles while its job runs: their handlers write the signal's number into a pipe that the loop reads. The previous
//! handlers are restored afterwards.
//!
//! A signal descriptor would work only if the launcher's thread is the only one: the kernel delivers a signal for the process to any thread that does
//! not block it. A launcher that is called as a function does not know the other threads.
//!
//! A handler that runs on another thread must not find the pipe closed, or its descriptor reused. So the previous handlers are restored first, then
//! the launcher waits until no handler runs, then it closes the pipe.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::pipe::{PipeFlags, pipe_with};

/// The signals.
const TAKEN: [libc::c_int; 9] = [
    libc::SIGCHLD,
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGTSTP,
    libc::SIGCONT,
];
/// Signals that would end a launcher that writes to a pipe whose reader is gone, or to a file of maximum length. The error of the call reports it.
const ENDING: [libc::c_int; 2] = [libc::SIGPIPE, libc::SIGXFSZ];

/// The pipe of the launcher that runs in this process; negative: none runs.
static PIPE: AtomicI32 = AtomicI32::new(NONE);
const NONE: libc::c_int = -1;
/// The process in which it runs: a child that was forked from it has its handlers until it executes a program.
static LAUNCHER: AtomicI32 = AtomicI32::new(0);
/// The number of handlers that run now.
static INSIDE: AtomicI32 = AtomicI32::new(0);

/// See the [module's text](self).
pub(crate) struct Signals {
    reader: OwnedFd,
    /// Keeps [`PIPE`] open.
    _writer: OwnedFd,
    actions: Vec<(libc::c_int, libc::sigaction)>,
    mask: libc::sigset_t,
    /// Another child of this process may have ended.
    a_child_ended: bool,
}

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signals").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl Signals {
    /// Installs the handlers. The error `ResourceBusy` means that another launcher of this process has them.
    pub(crate) fn take() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        PIPE.compare_exchange(NONE, writer.as_raw_fd(), Ordering::SeqCst, Ordering::SeqCst)
            .map_err(|_| io::Error::from(io::ErrorKind::ResourceBusy))?;
        // SAFETY: `getpid` has no precondition; an all-zero `sigset_t` is valid memory for the calls below to fill.
        let (pid, mask) = unsafe { (libc::getpid(), std::mem::zeroed()) };
        LAUNCHER.store(pid, Ordering::SeqCst);
        let mut taken = Self { reader, _writer: writer, actions: Vec::new(), mask, a_child_ended: false };
        taken.install()?;
        Ok(taken)
    }

    fn install(&mut self) -> io::Result<()> {
        // SAFETY: all pointers are to live locals or fields, and all-zero is valid memory for what the calls fill.
        unsafe {
            // From here on there is something to restore if a call fails.
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut self.mask);
            let mut ours: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut ours);
            for signal in TAKEN.into_iter().chain(ENDING) {
                let mut now: libc::sigaction = std::mem::zeroed();
                check(libc::sigaction(signal, std::ptr::null(), &raw mut now))?;
                // Signals that were ignored at the start (`nohup`, a script's `&`) stay ignored, in the processes too. If SIGCHLD is ignored,
                // children vanish without a status.
                let keeps = match signal {
                    libc::SIGCHLD => false,
                    libc::SIGPIPE | libc::SIGXFSZ => now.sa_sigaction != libc::SIG_DFL,
                    _ => now.sa_sigaction == libc::SIG_IGN,
                };
                if keeps {
                    continue;
                }
                let mut action: libc::sigaction = std::mem::zeroed();
                let handler: extern "C" fn(libc::c_int) = if ENDING.contains(&signal) { ignore } else { write_down };
                action.sa_sigaction = handler as libc::sighandler_t;
                action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
                check(libc::sigaction(signal, &raw const action, std::ptr::null_mut()))?;
                self.actions.push((signal, now));
                libc::sigaddset(&raw mut ours, signal);
            }
            match libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const ours, std::ptr::null_mut()) {
                0 => Ok(()),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        }
    }

    /// The descriptor that the loop listens to.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.reader
    }

    /// The next signal that has arrived, if any.
    pub(crate) fn next(&mut self) -> Option<libc::c_int> {
        let mut number = [0];
        let read = rustix::io::retry_on_intr(|| rustix::io::read(&self.reader, &mut number)).ok()?;
        let signal = (read == 1).then(|| libc::c_int::from(number[0]));
        self.a_child_ended |= signal == Some(libc::SIGCHLD);
        signal
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for (signal, action) in self.actions.iter().rev() {
            // SAFETY: the action is the previous one.
            unsafe { libc::sigaction(*signal, &raw const *action, std::ptr::null_mut()) };
        }
        PIPE.store(NONE, Ordering::SeqCst);
        while INSIDE.load(Ordering::SeqCst) != 0 {
            std::thread::yield_now();
        }
        while self.next().is_some() {}
        // SAFETY: the mask is the previous one, and no old mask is requested.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.mask, std::ptr::null_mut()) };
        let theirs =
            self.actions.iter().find(|(signal, _)| *signal == libc::SIGCHLD).map(|(_, action)| action.sa_sigaction);
        if self.a_child_ended && theirs.is_some_and(|action| action != libc::SIG_DFL && action != libc::SIG_IGN) {
            // The caller's own handler has missed it. It has to check which child it was, as always.
            // SAFETY: `raise` has no precondition.
            unsafe { libc::raise(libc::SIGCHLD) };
        }
    }
}

/// There is nothing to do: the call that the signal belongs to has failed. Unlike an ignored signal, this handler is not inherited by processes
/// started in the meantime.
extern "C" fn ignore(_: libc::c_int) {}

extern "C" fn write_down(signal: libc::c_int) {
    // SAFETY: every call here is one that a signal handler may make; the buffer is a live local.
    unsafe {
        let errno = libc::__errno_location();
        let was = *errno;
        if libc::getpid() == LAUNCHER.load(Ordering::SeqCst) {
            INSIDE.fetch_add(1, Ordering::SeqCst);
            let pipe = PIPE.load(Ordering::SeqCst);
            if pipe >= 0 {
                let number = signal.to_le_bytes()[0];
                libc::write(pipe, (&raw const number).cast(), 1);
            }
            INSIDE.fetch_sub(1, Ordering::SeqCst);
        } else {
            // A child that has not executed its program yet: the signal is for the child.
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
        *errno = was;
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
