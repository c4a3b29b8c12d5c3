//! How a sleeping PE is woken: a word that says whether it sleeps, and an eventfd to sleep on.
//!
//! (A first version: see the idle protocol beside the shared-memory rings for the one that crosses processes.)

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use crate::TransportError;

/// A PE's doorbell. Owned by the PE; [`Waker`]s ring it.
#[derive(Debug)]
pub struct Doorbell {
    fd: Arc<OwnedFd>,
}

/// Wakes one PE, from any thread.
#[derive(Clone, Debug)]
pub struct Waker {
    fd: Arc<OwnedFd>,
}

impl Doorbell {
    /// A new one.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn new() -> Result<Self, TransportError> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| TransportError::system("eventfd", e))?;
        Ok(Self { fd: Arc::new(fd) })
    }

    /// A handle that rings it.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker { fd: self.fd.clone() }
    }

    /// What to sleep on.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Makes the descriptor unreadable again.
    pub fn clear(&self) {
        let mut count = [0; 8];
        // Nothing to read is fine: nobody rang.
        let _ = rustix::io::read(&self.fd, &mut count);
    }
}

impl Waker {
    /// Rings.
    pub fn wake(&self) {
        // The counter cannot overflow in practice; a full one is readable, which is all that matters.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }
}
