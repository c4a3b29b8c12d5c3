//! The differences between threads and processes as peers of a shared-memory endpoint.

use std::fmt::Debug;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use charm4rs_transport_core::RegBuf;
use charm4rs_transport_core::memory::window::WindowAddress;

/// The target of a put, or the source of a get.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// In this process's address space.
    Here(NonNull<u8>),
    /// At an address of a peer's process, by the peer's index.
    There { peer: usize, addr: u64 },
}

/// Why a put or get failed.
#[derive(Debug)]
pub(crate) struct Refused;

/// The operations of a shared-memory endpoint that differ between threads and processes.
///
/// # Safety
/// `read` must return a buffer that owns its block once `write` has forgotten it; `resolve` must return memory that is valid
/// for `place.len` bytes as long as the window is open.
pub(crate) unsafe trait Lane: Debug {
    /// Length of a buffer's description.
    const HANDLE: usize;

    /// Whether the peer can take over the buffer.
    fn can_hand(&self, buf: &RegBuf) -> bool;

    /// Writes a buffer's description, and forgets the buffer.
    fn write(&self, buf: RegBuf, body: &mut [MaybeUninit<u8>]);

    /// Makes a buffer from its description. `None`: no correct peer wrote this.
    ///
    /// # Safety
    /// `body` is valid for [`Lane::HANDLE`] bytes that `write` wrote, and this is called once.
    unsafe fn read(&self, body: NonNull<u8>) -> Option<RegBuf>;

    /// Wakes a sleeping peer (by index).
    fn ring(&self, peer: usize);

    /// Describes memory that is to become a window. `None`: peers cannot reach it.
    fn place(&self, buf: &RegBuf) -> Option<WindowAddress>;

    /// Finds a peer's window.
    fn resolve(&self, owner: usize, place: &WindowAddress) -> Option<Target>;

    /// Copies between a buffer here and memory of a peer's process; true on success.
    fn copy(&self, here: &mut [u8], peer: usize, addr: u64, put: bool) -> bool;

    /// Whether a peer's process has ended.
    fn has_ended(&self, _peer: usize) -> bool {
        false
    }

    /// The descriptor to sleep on, besides the doorbell.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>>;

    /// The PE has returned from its sleep on `wait_fd`.
    fn awake(&self);
}
