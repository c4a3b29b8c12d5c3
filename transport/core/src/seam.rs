//! The seam: what a backend promises, and all that the layers above may rely on.
//!
//! A backend has two halves. Its *fabric* is process-wide and shared: wire-up opens it once. It knows the
//! job's addresses, and hands out one `Send` *builder* per local PE. The builder moves to the PE's pinned thread and
//! becomes the [`Endpoint`] there, which never moves to another thread: it needs no lock, and its memory is first touched
//! on the right NUMA node.
//!
//! # Ownership
//! Buffers move into an operation and come back: in the [`PostError`] of a post that was refused, or in the
//! [`Event`] of an operation that completed. Nothing is borrowed across the seam, so no operation needs to be aborted.
//!
//! # Three answers to a post
//! [`Posted::Done`] (no completion will follow: the buffer has been consumed), [`Posted::Pending`] (exactly one
//! [`Event`] with the same [`OpId`] follows), or [`PostError::Busy`] with the buffer: make progress and try again.
//! Back-pressure is not an error.
//!
//! # Events are data
//! [`Endpoint::progress`] fills a batch and never calls back, so it may be called from inside a send.
//!
//! # Sleep
//! [`Endpoint::arm`] announces that the PE is about to sleep. After `true`, every arrival either makes
//! [`Endpoint::wait_fd`] readable or rings the PE's doorbell; `false` says that something has arrived already. If
//! [`Caps::wakes`] does not hold, the sleeper must wake periodically and poll.

use std::fmt::Debug;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use crate::memory::{Msg, RegBuf};
use crate::{Doorbell, Pe, TransportError};

/// Bytes of the longest message, unless the user asks for more or fewer (`++message-max`).
pub const MESSAGE_MAX: u64 = 16 << 30;

/// 32 bits that travel with a message or a put (what every fabric's remote completion data can carry).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Imm(pub u32);

/// The caller's name for an operation, given back in its event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct OpId(pub u64);

/// The result of a post that was accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Posted {
    /// Already complete: no event follows.
    Done,
    /// One event with the operation's [`OpId`] follows.
    Pending,
}

/// A post that was refused. The buffer comes back.
#[derive(Debug)]
pub enum PostError<B> {
    /// No capacity now: make progress, then try again.
    Busy(B),
    /// The peer is gone for good.
    PeerDown(Pe, B),
    /// Larger than the backend can carry in one operation.
    TooLarge {
        /// The limit, in bytes.
        max: usize,
        /// The buffer.
        buf: B,
    },
    /// A put or get outside the exposed memory, or with a key that is not valid (any more).
    BadKey(B),
    /// The buffer would have to be copied, and there is no memory for that. Or, for a put or get, the device cannot register the memory,
    /// here or there (locked memory is limited): then the caller must send messages instead.
    NoMemory(B),
}

/// Names a window within its endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WindowId(pub u64);

/// What a peer needs to put into, or get from, a window. Opaque bytes, made and read by one backend.
#[derive(Clone, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct RemoteKey {
    /// Length of the exposed memory, in bytes.
    pub len: u64,
    /// The backend's own description: addresses and keys.
    pub bytes: Box<[u8]>,
}

/// Memory that peers may write and read. Its bytes are not accessible until it is taken back
/// with [`Endpoint::unexpose`], so bytes that are still arriving are never read.
#[derive(Debug)]
#[must_use]
pub struct Window {
    /// Its name here.
    pub id: WindowId,
    /// Its name for peers.
    pub key: RemoteKey,
    /// The memory itself, kept alive.
    buf: RegBuf,
}

impl Window {
    /// A window onto `buf`, which a backend names `id` here and `key` for peers.
    ///
    /// The backend keeps the memory reachable for holders of the key until it gets the window back with [`Endpoint::unexpose`].
    pub fn new(id: WindowId, key: RemoteKey, buf: RegBuf) -> Self {
        Self { id, key, buf }
    }

    /// The memory, for the backend that takes the window back. From here on no peer can reach it.
    #[must_use]
    pub fn into_buf(self) -> RegBuf {
        self.buf
    }

    /// Copies bytes that a peer sent as a message instead of a put. Returns whether they lie inside; if not, nothing is written.
    #[must_use]
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|start| Some(start..start.checked_add(bytes.len())?));
        match range.and_then(|range| self.buf.get_mut(range)) {
            Some(to) => to.copy_from_slice(bytes),
            None => return false,
        }
        true
    }

    /// The length of the exposed memory, in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a window is not a container")]
    pub fn len(&self) -> usize {
        usize::try_from(self.key.len).expect("exposed memory fits the address space")
    }
}

/// An event. At most 64 bytes, so that batches stay in cache.
#[derive(Debug)]
pub enum Event {
    /// A message arrived.
    Recv {
        /// The sender (proven, not claimed).
        from: Pe,
        /// The sender's 32 bits.
        imm: Imm,
        /// Its bytes, 16-byte aligned.
        msg: Msg,
    },
    /// Arrives in place of a message for which there is no memory here. The sender is told, and gets its buffer back.
    Missed {
        /// The sender.
        from: Pe,
        /// The sender's 32 bits.
        imm: Imm,
        /// Its length, in bytes.
        len: u64,
    },
    /// A pending send or put no longer needs its buffer.
    Sent {
        /// The operation.
        op: OpId,
        /// The buffer, unless it changed owner.
        buf: Option<RegBuf>,
    },
    /// A get completed: its bytes have arrived.
    Got {
        /// The operation.
        op: OpId,
        /// The buffer, filled.
        buf: RegBuf,
    },
    /// A put with an immediate arrived: all its bytes, and those of earlier puts of the same
    /// origin to the same window, are visible.
    PutArrived {
        /// The origin.
        from: Pe,
        /// The origin's 32 bits.
        imm: Imm,
    },
    /// A pending operation failed.
    Failed {
        /// The operation.
        op: OpId,
        /// The buffer, unless the device still holds it.
        buf: Option<RegBuf>,
        /// The reason.
        error: Box<TransportError>,
    },
    /// A peer can no longer be reached.
    PeerLost {
        /// The peer.
        pe: Pe,
        /// What was observed.
        why: &'static str,
    },
}

/// What an endpoint can do, as numbers. The layer above the seam chooses protocols from them; the conformance suite
/// checks that the behaviour agrees with them.
#[derive(Clone, Debug)]
pub struct Caps {
    /// The backend's name, as in `++transport NAME`.
    pub name: &'static str,
    /// Largest message that [`Endpoint::inject`] takes, in bytes.
    pub inject_max: usize,
    /// Largest message that [`Endpoint::send`] takes, in bytes.
    pub send_max: usize,
    /// Largest put or get, in bytes.
    pub put_max: usize,
    /// Messages from one PE to another arrive in the order in which they were sent.
    pub ordered: bool,
    /// [`Endpoint::send`] of a buffer from [`Endpoint::alloc`] costs the same for every size, or streams without an
    /// extra copy: a payload needs no rendezvous.
    pub handover: bool,
    /// One-sided puts arrive without the target's processor (otherwise messages emulate them).
    pub one_sided: bool,
    /// Arrivals wake a sleeping PE, by [`Endpoint::wait_fd`] or the doorbell. Otherwise the PE must poll now and then.
    pub wakes: bool,
    /// Estimated one-way latency of a small message, in nanoseconds.
    pub latency_ns: u32,
    /// Estimated bandwidth, in bytes per microsecond (= MB/s).
    pub bandwidth_mb_s: u32,
}

/// The process-wide half of a backend.
pub trait Fabric: Send + Sync + Debug {
    /// What its endpoints can do.
    fn caps(&self) -> &Caps;

    /// The builder of a local PE's endpoint. Called once for each PE of this process.
    fn builder(&self, pe: Pe) -> Box<dyn EndpointBuilder>;
}

/// Moves to a PE's thread and becomes its [`Endpoint`] there.
pub trait EndpointBuilder: Send {
    /// Opens the endpoint. Called on the PE's own, pinned thread; `doorbell` wakes that thread.
    ///
    /// # Errors
    /// If the system is out of a resource.
    fn build(self: Box<Self>, doorbell: &Doorbell) -> Result<Box<dyn Endpoint>, TransportError>;
}

/// A PE's end of one backend. Neither `Send` nor `Sync`.
///
/// The contract is in the [module's text](self); `transport/src/conformance` holds every backend to it.
pub trait Endpoint: Debug {
    /// The PE that owns this end.
    fn pe(&self) -> Pe;

    /// What it can do.
    fn caps(&self) -> &Caps;

    /// A buffer of `len` bytes that this backend sends at the lowest cost, 64-byte aligned; `None`: the pool is empty, make progress.
    fn alloc(&mut self, len: usize) -> Option<RegBuf>;

    /// Sends a small message that `fill` writes in place. `fill` is called at most once, with exactly `len`
    /// bytes, all of which it must initialize. It is not called if the post is refused.
    fn inject(
        &mut self,
        to: Pe,
        imm: Imm,
        len: usize,
        fill: &mut dyn FnMut(&mut [MaybeUninit<u8>]),
    ) -> Result<(), PostError<()>>;

    /// Sends a buffer. If [`Caps::handover`] holds, the buffer may change owner instead of being copied.
    fn send(&mut self, to: Pe, imm: Imm, buf: RegBuf, op: OpId) -> Result<Posted, PostError<RegBuf>>;

    /// Exposes memory to peers' puts and gets.
    ///
    /// # Errors
    /// [`TransportError::Resource`] if it cannot be registered; the caller copies instead.
    fn expose(&mut self, buf: RegBuf) -> Result<Window, (TransportError, RegBuf)>;

    /// As [`Endpoint::expose`], for a window into which peers put again and again. A put into it does not ask the owner first and is never refused,
    /// so it need not be answered. A caller that takes the window back must know that no put is on its way, and that none will follow.
    ///
    /// # Errors
    /// As for `expose`.
    fn expose_for_long(&mut self, buf: RegBuf) -> Result<Window, (TransportError, RegBuf)> {
        self.expose(buf)
    }

    /// Takes exposed memory back. Later puts with its key fail at their origin.
    fn unexpose(&mut self, window: Window) -> RegBuf;

    /// Writes `src` at `offset` of a peer's window; with `imm`, the peer gets [`Event::PutArrived`].
    fn put(
        &mut self,
        to: Pe,
        src: RegBuf,
        dst: &RemoteKey,
        offset: u64,
        imm: Option<Imm>,
        op: OpId,
    ) -> Result<Posted, PostError<RegBuf>>;

    /// Reads `dst.len()` bytes at `offset` of a peer's window.
    fn get(
        &mut self,
        from: Pe,
        src: &RemoteKey,
        offset: u64,
        dst: RegBuf,
        op: OpId,
    ) -> Result<Posted, PostError<RegBuf>>;

    /// Makes progress, and appends at most `max` events to `out`. Returns how many.
    ///
    /// # Errors
    /// Only errors that end the job.
    fn progress(&mut self, out: &mut Vec<Event>, max: usize) -> Result<usize, TransportError>;

    /// Announces sleep; see the module's text.
    fn arm(&mut self) -> bool;

    /// Whether a peer has closed, so that it receives nothing any more. Known only of peers to which this endpoint has sent. `false` if the backend never
    /// knows.
    fn has_closed(&mut self, peer: Pe) -> bool {
        let _ = peer;
        false
    }

    /// The descriptor to wait on while asleep, besides the doorbell.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>>;

    /// How many messages and payloads it copied although its transport can do without.
    fn copies(&self) -> u64 {
        0
    }

    /// Delivers what was posted, then closes. Called once, at the end of the job.
    ///
    /// # Errors
    /// If something could not be delivered.
    fn close(self: Box<Self>) -> Result<(), TransportError>;
}
