//! What can go wrong below the seam, grouped by what survives: the operation, the peer, or the job.

use crate::Pe;

/// An error of the transport. `code` gives the job's exit status where the error is fatal to it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// A peer is gone: its connection closed, or it has been silent for too long.
    #[error("lost contact with PE {}: {why}", pe.0)]
    PeerDown {
        /// The PE that cannot be reached any more.
        pe: Pe,
        /// What was observed.
        why: &'static str,
    },
    /// A peer sent something that the protocol does not allow.
    #[error("protocol violation by PE {}: {what} ({detail})", from.0)]
    Protocol {
        /// The PE that sent it.
        from: Pe,
        /// Which rule was broken.
        what: &'static str,
        /// The offending value.
        detail: u64,
    },
    /// A frame's checksum does not hold.
    #[error("corrupt data from PE {}: frame {sequence}, {size} bytes", from.0)]
    Corrupt {
        /// The PE that sent it.
        from: Pe,
        /// The frame's number in the stream from that PE.
        sequence: u64,
        /// The length of its body, in bytes, as it arrived.
        size: u64,
    },
    /// A put or get was refused by its target, whose memory is untouched.
    #[error("PE {} refused a put or get: outside its window, or the window was taken back", pe.0)]
    WindowRefused {
        /// The PE that owns the window.
        pe: Pe,
    },
    /// A message was too large for its receiver.
    #[error("PE {} has no memory for a message of {size} bytes", pe.0)]
    MessageRefused {
        /// The receiver.
        pe: Pe,
        /// The message's size.
        size: u64,
    },
    /// A peer runs another version of the runtime, or another program.
    #[error("{what} differs: here {ours}, there {theirs}")]
    Version {
        /// What differs.
        what: &'static str,
        /// Our value.
        ours: String,
        /// The peer's value.
        theirs: String,
    },
    /// One of the job's own processes could not prove that it belongs to the job.
    #[error("authentication failed: {0}")]
    Auth(&'static str),
    /// The system has run out of something: memory, descriptors, threads, locked memory.
    #[error("out of {what}: {need} needed; {advice}")]
    Resource {
        /// What ran out.
        what: &'static str,
        /// How much was needed, with its unit.
        need: String,
        /// What the user can do.
        advice: &'static str,
    },
    /// The configuration asks for something that this machine does not have.
    #[error("{0}")]
    Config(String),
    /// Start-up did not complete.
    #[error("start-up failed: {0}")]
    Startup(String),
    /// A system call failed, and no better error is known.
    #[error("{call}: {source}")]
    System {
        /// The call.
        call: &'static str,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
}

impl TransportError {
    /// The exit status of a job that ends because of this error (see docs: exit codes).
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::PeerDown { .. } | Self::Startup(_) => 69,
            Self::Protocol { .. } | Self::Version { .. } | Self::Corrupt { .. } | Self::WindowRefused { .. } => 76,
            Self::Auth(_) => 77,
            Self::Resource { .. } | Self::MessageRefused { .. } => 71,
            Self::Config(_) => 78,
            Self::System { source, .. } if is_exhausted(source) => 71,
            Self::System { .. } => 74,
        }
    }

    /// There is no memory for `what`, which needs about `bytes`. Names the limit on addresses, if there is one.
    #[must_use]
    pub fn no_memory(what: &str, bytes: usize) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::As).current;
        let limit = limit.map_or_else(String::new, |limit| format!(" (ulimit -v is {} KiB)", limit >> 10));
        Self::Resource {
            what: "memory",
            need: format!("{bytes} bytes for {what}{limit}"),
            advice: "free some, or raise the limit: ulimit -v unlimited, or that of the container or cgroup",
        }
    }

    /// Wraps the error of a system call.
    pub fn system(call: &'static str, source: impl Into<std::io::Error>) -> Self {
        Self::System { call, source: source.into() }
    }
}

/// Whether the error says that the system is out of something, rather than that an operation failed.
fn is_exhausted(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::ENOBUFS))
}

/// Checks that `bytes` of memory can be had, on behalf of a library (`what`) that does not always notice a lack of memory, and crashes.
pub fn require_memory(what: &str, bytes: usize) -> Result<(), TransportError> {
    match crate::memory::map::Mapping::reserve(bytes) {
        Ok(_) => Ok(()),
        Err(_) => Err(TransportError::no_memory(what, bytes)),
    }
}

/// The loader's message for an error.
pub fn loader_said(error: &libloading::Error) -> String {
    use std::error::Error as _;
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_out_of_a_resource_is_told_apart_from_a_failed_call() {
        let code = |errno| TransportError::system("call", std::io::Error::from_raw_os_error(errno)).code();
        for errno in [libc::ENOMEM, libc::EMFILE, libc::ENFILE, libc::ENOBUFS] {
            assert_eq!(code(errno), 71);
        }
        assert_eq!([libc::EIO, libc::EINVAL, libc::ENOSPC].map(code), [74; 3]);
        assert!(require_memory("a test", 1 << 20).is_ok());
        let error = require_memory("a test", 1 << 60).unwrap_err();
        assert!(error.code() == 71 && error.to_string().contains("for a test"), "{error}");
    }
}
