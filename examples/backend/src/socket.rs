//! The system calls: sockets that keep the bounds and the order of packets, at addresses without a file. This module does not depend on the contents
//! of packets.

use std::io::IoSlice;
use std::os::fd::OwnedFd;

use charm4rs_transport_core::{Pe, TransportError};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_send_buffer_size, socket_peercred};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    bind, connect, listen, recv, sendmsg, socket_with,
};
use rustix::process::{geteuid, getpid};

/// The size in bytes of a PE's published address.
pub(crate) const ADDRESS: usize = 20;

/// The size in bytes of a socket's buffer, at least a few packets. The kernel may grant less.
const BUFFER: usize = 256 << 10;
/// The maximum of connections that wait for `accept`. The kernel may grant less.
const BACKLOG: i32 = 4096;

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// The address at which a PE listens, and its process. The name is random, so that jobs do not use the same name by mistake. It is not secret: the kernel
/// tells both ends of a connection the process of the other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Address {
    name: [u8; 16],
    pub(crate) pid: i32,
}

impl Address {
    /// The bytes to publish.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        [&self.name[..], &self.pid.to_le_bytes()].concat()
    }

    /// Reads the published bytes.
    pub(crate) fn read(bytes: &[u8; ADDRESS]) -> Self {
        let [name @ .., a, b, c, d] = *bytes;
        Self { name, pid: i32::from_le_bytes([a, b, c, d]) }
    }

    /// Some bits of the name.
    pub(crate) fn random(&self) -> u32 {
        let [a, b, c, d, ..] = self.name;
        u32::from_le_bytes([a, b, c, d])
    }

    fn to_socket(self) -> Result<SocketAddrUnix, Errno> {
        SocketAddrUnix::new_abstract_name(&[b"charm4rs-example/", &self.name[..]].concat())
    }
}

/// The number of the process at the other end of a connection, from the kernel; `None` if the process belongs to another user.
pub(crate) fn peer_process(socket: &OwnedFd) -> Option<i32> {
    let peer = socket_peercred(socket).ok()?;
    (peer.uid == geteuid()).then(|| peer.pid.as_raw_pid())
}

fn open() -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?;
    set_socket_send_buffer_size(&socket, BUFFER)?;
    Ok(socket)
}

/// Listens at a new address.
pub(crate) fn listener() -> Result<(OwnedFd, Address), TransportError> {
    let mut address = Address { name: [0; 16], pid: getpid().as_raw_pid() };
    getrandom::fill(&mut address.name).map_err(|e| TransportError::system("getrandom", std::io::Error::other(e)))?;
    let listening = open().and_then(|socket| {
        bind(&socket, &address.to_socket()?)?;
        listen(&socket, BACKLOG)?;
        Ok(socket)
    });
    Ok((listening.map_err(|e| TransportError::system("listen", e))?, address))
}

/// The outcome of an attempt to connect.
#[derive(Debug)]
pub(crate) enum Dialed {
    Connected(OwnedFd),
    /// Too many connections wait at the address.
    Full,
    /// The process that published the address does not listen at it any more.
    Gone,
}

/// Connects. The connection can be used before the other end accepts it.
pub(crate) fn dial(address: &Address) -> Result<Dialed, TransportError> {
    let failed = |e| TransportError::system("socket", e);
    let socket = open().map_err(failed)?;
    Ok(match connect(&socket, &address.to_socket().map_err(failed)?) {
        Ok(()) if peer_process(&socket) == Some(address.pid) => Dialed::Connected(socket),
        Ok(()) | Err(Errno::CONNREFUSED) => Dialed::Gone,
        Err(Errno::AGAIN | Errno::INTR) => Dialed::Full,
        Err(e) => return Err(TransportError::system("connect", e)),
    })
}

/// Accepts a connection, if one is waiting.
pub(crate) fn accept(listener: &OwnedFd) -> Result<Option<OwnedFd>, TransportError> {
    match accept_with(listener, FLAGS) {
        Ok(socket) => {
            set_socket_send_buffer_size(&socket, BUFFER).map_err(|e| TransportError::system("setsockopt", e))?;
            Ok(Some(socket))
        }
        // EINVAL: the listener was shut down and has no more connections.
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED | Errno::INVAL) => Ok(None),
        Err(e) => Err(TransportError::system("accept", e)),
    }
}

/// The outcome of sending a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sent {
    /// The kernel has copied it.
    Done,
    /// There is no room.
    Full,
    /// The other end is gone.
    Gone,
}

/// Sends one packet, of which the kernel joins the two parts. Sends all of it or nothing.
pub(crate) fn send(socket: &OwnedFd, head: &[u8], body: &[u8]) -> Sent {
    let parts = [IoSlice::new(head), IoSlice::new(body)];
    match sendmsg(socket, &parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL) {
        Ok(_) => Sent::Done,
        Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => Sent::Full,
        Err(_) => Sent::Gone,
    }
}

/// The outcome of receiving from a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Received {
    /// A packet of this length. For a packet that is longer than the buffer, this is the length of the buffer.
    Packet(usize),
    /// There is no packet now.
    Nothing,
    /// There are no more packets: the connection has ended.
    End,
}

/// Receives one packet into `buffer`.
pub(crate) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Received, TransportError> {
    loop {
        return Ok(match recv(socket, &mut *buffer, RecvFlags::empty()) {
            Ok((_, 0)) => Received::End,
            Ok((_, len)) => Received::Packet(len),
            Err(Errno::AGAIN) => Received::Nothing,
            // The other end closed without reading all packets. The kernel reports this once; packets that it sent before can still be read.
            Err(Errno::INTR | Errno::CONNRESET) => continue,
            Err(e) => return Err(TransportError::system("recv", e)),
        });
    }
}

/// Reads the bytes that a process published: the addresses of its PEs. `first` is the first of these PEs.
pub(crate) fn read_addresses(bytes: &[u8], pes: usize, first: Pe) -> Result<Vec<Address>, TransportError> {
    let (addresses, rest) = bytes.as_chunks::<ADDRESS>();
    if addresses.len() != pes || !rest.is_empty() {
        let what = format!("the process of PE {first} published {} bytes, not the addresses of {pes} PEs", bytes.len());
        return Err(TransportError::Startup(what));
    }
    Ok(addresses.iter().map(Address::read).collect())
}
