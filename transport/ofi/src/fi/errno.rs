//! What libfabric answers to calls, and what the C library says beside it.

use std::ffi::c_int;

/// What libfabric says of a call that failed: its number, positive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct Errno(pub(in super::super) c_int);

impl Errno {
    /// Whether the system is out of something, which it may be later, too.
    pub(in super::super) fn is_lack(self) -> bool {
        matches!(self.0, libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::ENOBUFS)
    }

    /// Forgets what the C library's last failure on this thread was.
    pub(in super::super) fn forget() {
        // SAFETY: the thread's own variable.
        unsafe { *libc::__errno_location() = 0 }
    }

    /// As if it were the C library's last failure on this thread.
    fn remember(self) {
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = self.0 }
    }

    /// What the C library's last failure on this thread was, since it was forgotten.
    pub(in super::super) fn last() -> Self {
        // SAFETY: the thread's own variable.
        Self(unsafe { *libc::__errno_location() })
    }
}

pub(super) fn check(code: c_int) -> Result<(), Errno> {
    if code == 0 { Ok(()) } else { Err(Errno(-code)) }
}

/// The answer to a post.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Post {
    Taken,
    /// Make progress, then try again.
    Again,
    Failed(Errno),
}

pub(super) fn post(code: isize) -> Post {
    match c_int::try_from(-code) {
        Ok(0) => Post::Taken,
        Ok(libc::EAGAIN) => Post::Again,
        // As EAGAIN, but with the reason: see `starving`.
        Ok(code) if Errno(code).is_lack() => {
            Errno(code).remember();
            Post::Again
        }
        Ok(code) => Post::Failed(Errno(code)),
        Err(_) => Post::Failed(Errno(libc::EINVAL)),
    }
}
