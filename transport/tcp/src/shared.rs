//! The state that the PEs' endpoints and the helper of a fabric share. Nothing here is on the path of messages.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::TcpConfig;
use charm4rs_transport_core::auth::{Keys, Terms};
use charm4rs_transport_core::{Doorbell, Pe, TransportError, Waker};

/// Version of the protocol that follows the handshake.
pub(super) const VERSION: u16 = 1;

/// The time between a broken connection and the next attempt.
pub(super) const REDIAL: Duration = Duration::from_millis(10);

/// What an endpoint asks the helper to do.
#[derive(Debug)]
pub(super) enum Command {
    /// A connection from a PE of this process.
    Dial { from: Pe, to: Pe, generation: u32, not_before: Instant, deadline: Instant },
    /// The addresses are known, so watching can start.
    Watch,
    /// Say goodbye and end.
    Stop,
    /// End like a killed process.
    #[cfg(any(test, feature = "faults"))]
    Vanish,
}

/// What the helper tells an endpoint.
#[derive(Debug)]
pub(super) enum Mail {
    /// An authenticated connection.
    Connected { peer: Pe, generation: u32, dialed: bool, socket: OwnedFd },
    /// The requested connection cannot be made.
    DialFailed { peer: Pe, generation: u32, why: &'static str },
    /// A process is gone.
    Lost { process: u32, why: &'static str },
    /// The job must end.
    Fatal(TransportError),
}

/// Counts strangers and broken connections.
#[derive(Debug, Default)]
pub struct TcpCounters {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections that proved themselves.
    pub proven: AtomicU64,
    /// Closed: not our handshake, or another job's.
    pub strangers: AtomicU64,
    /// Closed: a wrong or replayed proof.
    pub wrong_proofs: AtomicU64,
    /// Closed: the handshake took too long.
    pub timed_out: AtomicU64,
    /// Closed: too many handshakes were pending.
    pub evicted: AtomicU64,
    /// How often accepting paused because descriptors ran out.
    pub pauses: AtomicU64,
    /// Connections that were replaced, and resumed where the last one broke.
    pub resumed: AtomicU64,
}

/// Where the helper leaves mail for one PE.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    mail: Mutex<Vec<Mail>>,
    any: AtomicBool,
    closed: AtomicBool,
    waker: OnceLock<Waker>,
}

impl Mailbox {
    /// Leaves mail, and wakes the PE. Gives the mail back if it will never be read.
    pub(super) fn post(&self, mail: Mail) -> Result<(), Mail> {
        let mut queue = lock(&self.mail);
        if self.closed.load(Ordering::Acquire) {
            return Err(mail);
        }
        queue.push(mail);
        self.any.store(true, Ordering::Release);
        drop(queue);
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
        Ok(())
    }

    /// Whether there may be mail. Costs one load in every poll.
    #[inline]
    pub(super) fn has_mail(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    pub(super) fn take(&self) -> Vec<Mail> {
        let mut queue = lock(&self.mail);
        self.any.store(false, Ordering::Release);
        std::mem::take(&mut queue)
    }

    pub(super) fn open(&self, doorbell: &Doorbell) {
        let _ = self.waker.set(doorbell.waker());
    }

    /// Closes the mailbox: its mail is not read any more.
    pub(super) fn close(&self) {
        let mut queue = lock(&self.mail);
        self.closed.store(true, Ordering::Release);
        queue.clear();
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: TcpConfig,
    pub(super) keys: Keys,
    pub(super) terms: Terms,
    pub(super) counters: TcpCounters,
    /// What each process published.
    pub(super) addresses: OnceLock<Vec<Vec<u8>>>,
    commands: Mutex<Vec<Command>>,
    /// Wakes the helper.
    pub(super) bell: Doorbell,
    /// One for each PE of this process.
    mailboxes: Vec<Mailbox>,
    first_pe: u32,
}

impl Shared {
    pub(super) fn new(config: TcpConfig) -> Result<Self, TransportError> {
        let pes = config.layout.pes_of(config.process);
        Ok(Self {
            keys: Keys::new(config.job, &config.secret),
            terms: Terms { version: VERSION, digest: config.digest },
            counters: TcpCounters::default(),
            addresses: OnceLock::new(),
            commands: Mutex::default(),
            bell: Doorbell::new()?,
            mailboxes: pes.clone().map(|_| Mailbox::default()).collect(),
            first_pe: pes.start,
            config,
        })
    }

    /// The mailbox of a PE of this process.
    pub(super) fn mailbox(&self, pe: Pe) -> Option<&Mailbox> {
        self.mailboxes.get(usize::try_from(pe.0.checked_sub(self.first_pe)?).ok()?)
    }

    pub(super) fn mailboxes(&self) -> &[Mailbox] {
        &self.mailboxes
    }

    pub(super) fn command(&self, command: Command) {
        lock(&self.commands).push(command);
        self.bell.waker().wake();
    }

    pub(super) fn take_commands(&self) -> Vec<Command> {
        std::mem::take(&mut *lock(&self.commands))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
