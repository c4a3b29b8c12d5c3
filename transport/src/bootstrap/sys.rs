//! The few calls of the bootstrap that the compiler cannot check.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Ends this process without running anything of it.
pub(super) fn end_process(code: i32) -> ! {
    // SAFETY: `_exit` has no precondition; it ends all threads of this process.
    unsafe { libc::_exit(code) }
}

/// Takes the descriptor that the launcher left open for us: number `fd`, if it is a socket, and the one with this inode
/// where the launcher told it.
pub(super) fn inherited(fd: RawFd, inode: Option<u64>) -> Option<OwnedFd> {
    if fd <= 2 {
        return None;
    }
    // SAFETY: only `fstat` and `fcntl` see it, and a number that is not open makes them fail.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let stat = rustix::fs::fstat(borrowed).ok()?;
    let socket = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_socket();
    if !socket || inode.is_some_and(|inode| stat.st_ino != inode) {
        return None;
    }
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC).ok()?;
    // SAFETY: it is the launcher's socket, which nothing else in this process knows of: the launcher made it for `find`
    // alone, and the caller, who calls once, removes the variable that names it.
    Some(unsafe { OwnedFd::from_raw_fd(borrowed.as_raw_fd()) })
}

/// Removes a variable from the environment, if nobody else can be reading it.
pub(super) fn forget_variable(name: &str) {
    let alone = std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1);
    if alone {
        // SAFETY: this process has one thread, so nobody reads the environment at the same time.
        unsafe { std::env::remove_var(name) };
    }
}
