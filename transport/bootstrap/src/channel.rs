//! A socket pair between a launcher and one of its processes. It carries packets, each as a whole or not at all, and descriptors with
//! them. The kernel keeps packets apart, so any number of threads may send without a lock. The channel does not know what the
//! packets mean.

use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::wire::FDS_MAX;

/// One end.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// A received packet.
#[derive(Debug)]
pub struct Packet {
    /// Its length; 0: the other end is closed.
    pub len: usize,
    /// Descriptors that came with it.
    pub fds: Vec<OwnedFd>,
    /// The packet was longer than the buffer, or this process had no descriptors left for all that came.
    pub cut: bool,
}

impl Channel {
    /// Two ends. Both close when the process executes a program.
    ///
    /// # Errors
    /// If the process has no descriptors left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(a), Self(b)))
    }

    /// Sends a packet with at most [`FDS_MAX`] descriptors. Blocks while the socket is full, unless the end is non-blocking.
    ///
    /// # Errors
    /// The error of the kernel; then nothing was sent.
    pub fn send(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        rustix::io::retry_on_intr(|| sendmsg(&self.0, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// Receives a packet into `buf`. Blocks until there is one, unless the end is non-blocking.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<Packet> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = rustix::io::retry_on_intr(|| {
            recvmsg(&self.0, &mut [IoSliceMut::new(buf)], &mut control, RecvFlags::CMSG_CLOEXEC)
        });
        let got = match got {
            // The other end closed with packets of ours unread, which counts as closed.
            Err(rustix::io::Errno::CONNRESET) => return Ok(Packet { len: 0, fds: Vec::new(), cut: false }),
            got => got?,
        };
        let fds = control
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds).into_iter().flatten(),
                _ => None.into_iter().flatten(),
            })
            .collect();
        let cut = got.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC);
        Ok(Packet { len: got.bytes, fds, cut })
    }

    /// Makes this end non-blocking.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.0, true)?)
    }
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
