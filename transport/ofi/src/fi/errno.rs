//! The results of libfabric's calls, and the C library's `errno` beside them.

use std::ffi::c_int;

/// The error number of a failed call of libfabric, positive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct Errno(pub(in super::super) c_int);

impl Errno {
    /// Whether the system is out of a resource, of which there may be some later.
    pub(in super::super) fn is_lack(self) -> bool {
        matches!(self.0, libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::ENOBUFS)
    }

    /// Clears the C library's last error on this thread.
    pub(in super::super) fn forget() {
        // SAFETY: the variable belongs to this thread.
        unsafe { *libc::__errno_location() = 0 }
    }

    /// Makes it the C library's last error on this thread.
    fn remember(self) {
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = self.0 }
    }

    /// The C library's last error on this thread since it was cleared.
    pub(in super::super) fn last() -> Self {
        // SAFETY: the variable belongs to this thread.
        Self(unsafe { *libc::__errno_location() })
    }
}

pub(super) fn check(code: c_int) -> Result<(), Errno> {
    if code == 0 { Ok(()) } else { Err(Errno(-code)) }
}

/// The result of a post.
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
