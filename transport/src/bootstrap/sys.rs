//! The few calls of the bootstrap that the compiler cannot check.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Ends this process without running anything of it.
pub(super) fn end_process(code: i32) -> ! {
    // SAFETY: `_exit` has no precondition; it ends all threads of this process.
    unsafe { libc::_exit(code) }
}

/// Whether a number is that of an open socket, and no standard one's.
pub(super) fn is_socket(fd: RawFd) -> bool {
    if fd <= 2 {
        return false;
    }
    // SAFETY: only `fstat` sees it, and a number that is not open makes it fail.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::fs::fstat(borrowed).is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_socket())
}

/// Takes the descriptor that the launcher left open for us: number `fd`, if it is a socket, and the one with this inode
/// where the launcher told it.
pub(super) fn inherited(fd: RawFd, inode: Option<u64>) -> Option<OwnedFd> {
    if !is_socket(fd) {
        return None;
    }
    // SAFETY: only `fstat` and `fcntl` see it; it is open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let stat = rustix::fs::fstat(borrowed).ok()?;
    if inode.is_some_and(|inode| stat.st_ino != inode) {
        return None;
    }
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC).ok()?;
    // SAFETY: it is the launcher's socket, which nothing else in this process knows of: the launcher made it for `find`
    // alone, and the caller, who calls once, removes the variable that names it.
    Some(unsafe { OwnedFd::from_raw_fd(borrowed.as_raw_fd()) })
}

/// Whether this process has one thread, so that nobody else can be reading its environment.
fn is_alone() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

/// Removes a variable from the environment, if nobody else can be reading it.
pub(super) fn forget_variable(name: &str) {
    if is_alone() {
        // SAFETY: nobody reads the environment at the same time.
        unsafe { std::env::remove_var(name) };
    }
}

/// Sets a variable that a library reads, unless the user has, if nobody else can be reading the environment.
pub(super) fn set_variable(name: &str, value: &str) {
    if std::env::var_os(name).is_none() && is_alone() {
        // SAFETY: nobody reads the environment at the same time.
        unsafe { std::env::set_var(name, value) };
    }
}
