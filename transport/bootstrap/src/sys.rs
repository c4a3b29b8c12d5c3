//! The few calls of the bootstrap that the compiler cannot check.

use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd as _, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Mode, OFlags};

/// Ends this process without running any destructor or exit handler.
pub(super) fn end_process(code: i32) -> ! {
    // SAFETY: `_exit` has no precondition; it ends all threads of this process.
    unsafe { libc::_exit(code) }
}

/// The process that joined the job; 0: none has.
static HOME: AtomicU32 = AtomicU32::new(0);
/// The first thing that a child of `fork` does.
static AT_FORK: OnceLock<fn()> = OnceLock::new();

/// Records that this process joins the job.
pub(super) fn this_is_home() {
    HOME.store(std::process::id(), Ordering::Relaxed);
}

/// Whether this process is a forked child of a process of a job and has executed no program since. It is not part of the job:
/// how it ends does not matter there, and it must not use the connections of the job, of which it has copies.
#[must_use]
pub fn is_fork() -> bool {
    let home = HOME.load(Ordering::Relaxed);
    home != 0 && home != std::process::id()
}

/// Ends such a child at once, after its output is written.
pub fn end_fork(code: i32) -> ! {
    let _ = std::io::stdout().flush();
    end_process(code & 0xff)
}

/// Makes every child that is forked from now on call `act` before anything else, on the thread that forked it. Only the first `act` is kept.
pub fn on_fork(act: fn()) {
    extern "C" fn child() {
        if let Some(act) = AT_FORK.get().filter(|_| is_fork()) {
            act();
        }
    }
    if AT_FORK.set(act).is_ok() {
        // SAFETY: the function may be called in any child; what it calls takes no lock.
        unsafe { libc::pthread_atfork(None, None, Some(child)) };
    }
}

/// Opens the standard descriptors that are closed, on `/dev/null`: otherwise descriptors that this process opens later would get their numbers, and its
/// output would go there. Call it before anything is opened.
///
/// # Errors
/// If `/dev/null` cannot be opened.
pub fn open_standard_descriptors() -> io::Result<()> {
    for standard in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: a number that is not open makes the call fail and has no other effect.
        if unsafe { libc::fcntl(standard, libc::F_GETFD) } >= 0 {
            continue;
        }
        let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())?;
        // It gets the lowest free number, unless another thread took that: then the number is open, too.
        if null.as_raw_fd() == standard {
            let _ = null.into_raw_fd();
        }
    }
    Ok(())
}

/// Removes a System V segment of shared memory. It exists as long as a process uses it.
pub(super) fn remove_segment(id: i32) {
    // SAFETY: the call takes no memory of ours, and processes that use the segment keep it.
    unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
}

/// Whether a number is that of an open socket, and not of a standard descriptor.
pub(super) fn is_socket(fd: RawFd) -> bool {
    if fd <= 2 {
        return false;
    }
    // SAFETY: only `fstat` uses it, and a number that is not open makes it fail.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::fs::fstat(borrowed).is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_socket())
}

/// Takes the descriptor that the launcher left open for this process: number `fd`, if it is a socket, and has this inode
/// if the launcher named one.
pub(super) fn inherited(fd: RawFd, inode: Option<u64>) -> Option<OwnedFd> {
    if !is_socket(fd) {
        return None;
    }
    // SAFETY: only `fstat` and `fcntl` use it; it is open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let stat = rustix::fs::fstat(borrowed).ok()?;
    if inode.is_some_and(|inode| stat.st_ino != inode) {
        return None;
    }
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC).ok()?;
    // SAFETY: it is the launcher's socket, which no other part of this process knows: the launcher made it for `find`
    // alone, and the caller, which calls once, removes the variable that names it.
    Some(unsafe { OwnedFd::from_raw_fd(borrowed.as_raw_fd()) })
}

/// Whether this process has one thread, so that no other thread can be reading its environment.
fn is_alone() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

/// Removes a variable from the environment, if no other thread can be reading it.
pub(super) fn forget_variable(name: &str) {
    if is_alone() {
        // SAFETY: no other thread reads the environment at the same time.
        unsafe { std::env::remove_var(name) };
    }
}

/// Sets a variable that a library reads, unless the user has set it, if no other thread can be reading the environment.
pub(super) fn set_variable(name: &str, value: &str) {
    if std::env::var_os(name).is_none() && is_alone() {
        // SAFETY: no other thread reads the environment at the same time.
        unsafe { std::env::set_var(name, value) };
    }
}
