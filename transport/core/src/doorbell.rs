//! How a sleeping PE is woken.
//!
//! A PE that runs out of work spins for a while and then sleeps in the kernel, on an eventfd. There are two ways to wake it.
//!
//! # A [`Waker`]: work that did not come through an inbox
//! The waker's thread first puts the work somewhere, then wakes. The bell has one flag, *rung*: the waker sets it, and writes the eventfd
//! if the flag was clear. When the PE returns from its sleep it reads the eventfd, clears the flag, and then looks for work. (The swap
//! that clears reads what the waker's swap wrote, so the work is visible.) A waker that comes before the clearing
//! finds the flag set and need not write: the PE will look. A waker that comes after it writes, and the next sleep ends at once.
//! So no wake is lost, and a storm of wakes costs one system call.
//!
//! # A message in an inbox: the sleep word
//! Sleeping PEs are rare, so a sender must not pay for them: no locked instruction, no fence, no system call. Beside every inbox is a
//! word, *awake* or *asleep*.
//!
//! | the PE, before it sleeps | a sender |
//! |---|---|
//! | 1. stores *asleep* | 1. publishes its record |
//! | 2. heavy fence | 2. light fence |
//! | 3. looks into its inboxes once more | 3. loads the sleep word |
//! | 4. sleeps if they are empty | 4. if *asleep*: swaps in *awake*; if it was still *asleep*, writes the eventfd |
//!
//! This is Dekker's algorithm: either the sender sees *asleep*, or the PE sees the record, if each one's store is ordered before its
//! load. The heavy fence is `membarrier`, which makes every processor that runs a thread of the job's processes execute
//! a full fence. So the sender's light fence need only keep the compiler from reordering. A process must register to be
//! reached by `membarrier`. If one cannot (an old kernel, a sandbox), all processes use full fences on both sides.
//!
//! The sender that swaps *asleep* away writes the eventfd, so many senders cost one write. If the PE
//! woke for another reason, a late write makes its next sleep end early, which is harmless. The PE stores *awake* when it is back.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence, fence};
use std::sync::{Arc, OnceLock};

use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::{MembarrierCommand, membarrier};

use crate::TransportError;
use crate::sync::Word;

/// A PE's doorbell. Owned by the PE; [`Waker`]s ring it.
#[derive(Debug)]
pub struct Doorbell {
    bell: Arc<Bell>,
}

/// Wakes one PE, from any thread.
#[derive(Clone, Debug)]
pub struct Waker {
    bell: Arc<Bell>,
}

#[derive(Debug)]
struct Bell {
    rung: AtomicU64,
    fd: OwnedFd,
}

impl Doorbell {
    /// Makes a doorbell.
    ///
    /// # Errors
    /// If the process has no file descriptor left.
    pub fn new() -> Result<Self, TransportError> {
        Ok(Self { bell: Arc::new(Bell { rung: AtomicU64::new(0), fd: event_fd()? }) })
    }

    /// A handle that rings the doorbell.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker { bell: self.bell.clone() }
    }

    /// The same doorbell, for another PE of the same thread.
    pub fn share(&self) -> Self {
        Self { bell: self.bell.clone() }
    }

    /// The descriptor to sleep on.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.bell.fd.as_fd()
    }

    /// Makes the descriptor unreadable again. The caller must look for work after this.
    pub fn clear(&self) {
        drain(self.bell.fd.as_fd());
        rung_clear(&self.bell.rung);
    }
}

impl Waker {
    /// Rings the doorbell.
    pub fn wake(&self) {
        if rung_set(&self.bell.rung) {
            ring(self.bell.fd.as_fd());
        }
    }
}

/// The waker's step: returns whether it must write the eventfd.
pub(crate) fn rung_set<W: Word>(rung: &W) -> bool {
    rung.swap(1, Ordering::AcqRel) == 0
}

/// The PE's step, after it has read the eventfd and before it looks for work.
pub(crate) fn rung_clear<W: Word>(rung: &W) {
    rung.swap(0, Ordering::AcqRel);
}

/// An eventfd to sleep on.
pub fn event_fd() -> Result<OwnedFd, TransportError> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| match e {
        rustix::io::Errno::MFILE | rustix::io::Errno::NFILE => TransportError::Resource {
            what: "file descriptors",
            need: "1 more".to_owned(),
            advice: "raise `ulimit -n`",
        },
        e => TransportError::system("eventfd", e),
    })
}

/// Makes an eventfd readable.
pub fn ring(fd: BorrowedFd<'_>) {
    // The counter cannot overflow in practice; a full one is readable, which is all that matters.
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}

/// Makes an eventfd unreadable.
pub fn drain(fd: BorrowedFd<'_>) {
    let mut count = [0; 8];
    // If there is nothing to read, the bell has not been rung, which is fine.
    let _ = rustix::io::read(fd, &mut count);
}

const AWAKE: u64 = 0;
const ASLEEP: u64 = 1;

/// Step 1 of a PE that is about to sleep.
pub fn announce<W: Word>(sleep: &W) {
    sleep.store(ASLEEP, Ordering::Relaxed);
}

/// Says that the PE is awake again.
pub fn back<W: Word>(sleep: &W) {
    sleep.store(AWAKE, Ordering::Relaxed);
}

/// Steps 3 and 4 of a sender: returns whether it must write the eventfd.
#[inline]
pub fn must_ring<W: Word>(sleep: &W) -> bool {
    sleep.load(Ordering::Relaxed) != AWAKE && swap_awake(sleep)
}

#[cold]
fn swap_awake<W: Word>(sleep: &W) -> bool {
    sleep.swap(AWAKE, Ordering::Relaxed) == ASLEEP
}

/// Which fences the job uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fences {
    /// `membarrier` among the threads of this process.
    Process,
    /// `membarrier` among all processes that registered.
    Host,
    /// Full fences on both sides.
    Both,
}

impl Fences {
    /// The cheapest fences for the threads of one process.
    pub fn process() -> Self {
        static REGISTERED: OnceLock<bool> = OnceLock::new();
        let ok = *REGISTERED.get_or_init(|| membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok());
        if ok { Self::Process } else { Self::Both }
    }

    /// The cheapest fences for the processes of this host. Every process must report that it could register before any of them may use `Host`.
    pub fn host() -> Self {
        static REGISTERED: OnceLock<bool> = OnceLock::new();
        let ok = *REGISTERED.get_or_init(|| membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok());
        if ok { Self::Host } else { Self::Both }
    }

    /// The sender's fence.
    #[inline]
    pub fn light(self) {
        if self == Self::Both {
            fence(Ordering::SeqCst);
        } else {
            compiler_fence(Ordering::SeqCst);
        }
    }

    /// The sleeper's fence. `false`: the kernel could not execute it (it was out of memory), so the PE must not sleep.
    pub fn heavy(self) -> bool {
        let done = match self {
            Self::Process => membarrier(MembarrierCommand::PrivateExpedited),
            Self::Host => membarrier(MembarrierCommand::GlobalExpedited),
            Self::Both => Ok(()),
        };
        fence(Ordering::SeqCst);
        done.is_ok()
    }
}
