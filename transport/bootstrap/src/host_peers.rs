//! Connects the processes of one host when another launcher than ours has started them. Every process has a socket to the first process of the host,
//! the *leader*.
//!
//! Each process listens on an abstract Unix socket and publishes its name. When the processes know which of them share a host, all but the leader stop
//! listening and connect to the leader. Before they exchange descriptors, both ends check the user of the other end and prove that they have the job's
//! secret, by the [handshake](charm4rs_transport_core::auth). The leader then passes descriptors between the processes.
//!
//! The sockets stay open until the processes exit, so that a death is noticed: a thread waits for sockets to close. A process that exits in the normal way
//! announces it first. Any other death ends the job: the leader notices every death and exits; then the other processes notice the death of the leader.
//!
//! Only one process of a host reports a failure. The right to report is a token, the count of an event descriptor that all processes of the host share:
//! the process that takes the token reports.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with,
};
use rustix::process::geteuid;

use super::bytes::{Reader, Writer};
use super::channel::Channel;
use super::wire::{FDS_MAX, VERSION, WireError};
use charm4rs_transport_core::auth::{
    Acceptor, Answer, AuthError, CHALLENGE, Dialer, HELLO, Hello, Keys, PROOF, Purpose, Step, Terms, random_bytes,
};
use charm4rs_transport_core::{Pe, TransportError};

/// How long one handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Pending connections: a kernel with a lower limit takes fewer, and dialers wait.
const BACKLOG: i32 = 4096;

/// A message between a process and the leader of its host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum HostMessage {
    /// The packet carries descriptors of `rank`.
    Fds { rank: u32, count: u16, more: bool },
    /// The job has ended in the normal way, and this process is about to exit.
    Bye,
}

/// Length of the longest packet.
const MESSAGE_MAX: usize = 8;

impl HostMessage {
    fn encode(self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            Self::Fds { rank, count, more } => w.u8(1).u32(rank).u16(count).u8(more.into()),
            Self::Bye => w.u8(2),
        };
        w.into_bytes()
    }

    fn decode(packet: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(packet);
        let word = match r.u8()? {
            1 => Self::Fds { rank: r.u32()?, count: u16::from_le_bytes(r.array()?), more: r.flag("more")? },
            2 => Self::Bye,
            kind => return Err(WireError::Kind(kind)),
        };
        r.close(word)
    }
}

/// Decodes a packet from a process of this host.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(packet: &[u8]) {
    if let Ok(word) = HostMessage::decode(packet) {
        assert_eq!(word.encode(), packet, "a decoded message encodes to the same bytes");
    }
}

/// A listening socket, opened before the processes know which of them share a host.
#[derive(Debug)]
pub(super) struct Listener {
    socket: OwnedFd,
    name: [u8; Self::NAME],
}

impl Listener {
    /// Bytes of its name.
    pub(super) const NAME: usize = 16;

    pub(super) fn open() -> Result<Self, TransportError> {
        let mut name = [0; Self::NAME];
        name.copy_from_slice(&random_bytes()?[..Self::NAME]);
        let socket = socket().map_err(|e| TransportError::system("socket", e))?;
        let address = address(&name).map_err(|e| TransportError::system("bind", e))?;
        bind(&socket, &address).map_err(|e| TransportError::system("bind", e))?;
        listen(&socket, BACKLOG).map_err(|e| TransportError::system("listen", e))?;
        Ok(Self { socket, name })
    }

    pub(super) fn name(&self) -> &[u8; Self::NAME] {
        &self.name
    }
}

fn socket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// An abstract address: it has no file that could be left behind.
fn address(name: &[u8; Listener::NAME]) -> rustix::io::Result<SocketAddrUnix> {
    let digits: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
    SocketAddrUnix::new_abstract_name(format!("charm4rs-{digits}").as_bytes())
}

/// Another process of this host.
#[derive(Debug)]
struct HostPeer {
    rank: u32,
    pid: i32,
    channel: Channel,
}

/// A message that the listening thread has received, with its sender and descriptors.
type Heard = (u32, HostMessage, Vec<OwnedFd>);

/// The processes of this host.
#[derive(Debug)]
pub(super) struct HostPeers {
    links: Arc<HostLinks>,
    heard: Receiver<Heard>,
    patience: Duration,
}

/// The connections, which outlive the bootstrap.
#[derive(Debug)]
pub(super) struct HostLinks {
    rank: u32,
    host: Range<u32>,
    peers: Vec<HostPeer>,
    token: OwnedFd,
    /// The job has ended normally.
    over: AtomicBool,
}

/// What a process must know to connect to the others of its host.
pub(super) struct Connecting<'a> {
    pub(super) keys: &'a Keys,
    pub(super) rank: u32,
    /// The processes of the host, the leader first.
    pub(super) host: Range<u32>,
    pub(super) listener: Listener,
    /// The name of the leader's listener.
    pub(super) leader: [u8; Listener::NAME],
    pub(super) patience: Duration,
}

impl Connecting<'_> {
    /// Connects to all of them. When one of them has died, `gone` is called, on another thread, with a message about it.
    ///
    /// # Errors
    /// If one of them does not connect, or is not the process that it claims to be.
    pub(super) fn connect(
        self,
        gone: impl FnOnce(&HostLinks, &str) + Send + 'static,
    ) -> Result<HostPeers, TransportError> {
        let leader = self.host.start;
        let (peers, token) = if self.rank == leader {
            let token = eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE);
            let token = token.map_err(|e| TransportError::system("eventfd", e))?;
            let peers = self.gather()?;
            let word = HostMessage::Fds { rank: leader, count: 1, more: false }.encode();
            for peer in &peers {
                peer.channel.send(&word, &[token.as_fd()]).map_err(|_| lost(peer.rank))?;
            }
            (peers, token)
        } else {
            let channel = self.dial(leader)?;
            let packet = channel.recv(&mut [0; MESSAGE_MAX]).map_err(|_| lost(leader))?;
            let token = packet.fds.into_iter().next().ok_or_else(|| lost(leader))?;
            set_socket_timeout(&channel, Timeout::Recv, None).map_err(|e| TransportError::system("setsockopt", e))?;
            let pid = peer_of(&channel).map_err(|_| lost(leader))?;
            (vec![HostPeer { rank: leader, pid, channel }], token)
        };
        let over = AtomicBool::new(false);
        let links = Arc::new(HostLinks { rank: self.rank, host: self.host, peers, token, over });
        let (tell, heard) = channel();
        let watched = links.clone();
        super::listener("charm4rs-host", move || {
            if let Some(what) = watched.watch(&tell) {
                gone(&watched, &what);
            }
        })?;
        Ok(HostPeers { links, heard, patience: self.patience })
    }

    /// Waits for all the others, in any order. Strangers are turned away.
    fn gather(&self) -> Result<Vec<HostPeer>, TransportError> {
        let until = Instant::now() + self.patience;
        let mut peers: Vec<HostPeer> = Vec::new();
        while peers.len() + 1 < self.host.len() {
            if !ready(&self.listener.socket, until) {
                let missing = self.host.clone().skip(1).find(|rank| peers.iter().all(|peer| peer.rank != *rank));
                return Err(lost(missing.unwrap_or(self.host.start)));
            }
            let channel = match accept_with(&self.listener.socket, SocketFlags::CLOEXEC) {
                Ok(socket) => Channel::from(socket),
                Err(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => return Err(no_descriptors()),
                // The dialer has already gone.
                Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(TransportError::system("accept", error)),
            };
            match self.admit(&channel, random_bytes()?) {
                Ok((rank, pid)) if self.host.contains(&rank) && peers.iter().all(|peer| peer.rank != rank) => {
                    peers.push(HostPeer { rank, pid, channel });
                }
                Ok((rank, _)) => tracing::warn!(rank, "a process connected twice, or belongs to another host"),
                Err(error) => tracing::warn!(%error, "a stranger was turned away"),
            }
        }
        peers.sort_by_key(|peer| peer.rank);
        Ok(peers)
    }

    /// The process that has dialed: its number and its pid.
    fn admit(&self, channel: &Channel, nonce: [u8; 32]) -> io::Result<(u32, i32)> {
        let pid = peer_of(channel)?;
        set_socket_timeout(channel, Timeout::Recv, Some(HANDSHAKE))?;
        let mut acceptor = Acceptor::new(self.keys, TERMS, self.rank, nonce);
        let hello = exactly::<HELLO>(channel)?;
        let Ok(Step::Reply(challenge)) = acceptor.accept_bytes(&hello) else { return Err(strange(AuthError::Garbage)) };
        channel.send(&challenge, &[])?;
        let proof = exactly::<PROOF>(channel)?;
        let hello = match acceptor.accept_bytes(&proof).map_err(strange)? {
            Step::Proven(hello) if hello.purpose == Purpose::Control && hello.terms == TERMS => hello,
            _ => return Err(strange(AuthError::WrongPeer)),
        };
        set_socket_timeout(channel, Timeout::Recv, None)?;
        Ok((hello.rank, pid))
    }

    /// Connects to the leader, and proves to it which process this is.
    fn dial(&self, leader: u32) -> Result<Channel, TransportError> {
        let failed = |why: io::Error| {
            TransportError::Startup(format!("process {leader}, the first of this host, does not answer: {why}"))
        };
        let nonce = random_bytes()?;
        let attempt = || -> io::Result<Channel> {
            let socket = socket()?;
            connect(&socket, &address(&self.leader)?)?;
            let channel = Channel::from(socket);
            peer_of(&channel)?;
            // The leader handles one process at a time.
            set_socket_timeout(&channel, Timeout::Recv, Some(self.patience))?;
            let hello = Hello {
                purpose: Purpose::Control,
                terms: TERMS,
                rank: self.rank,
                from: Pe(self.rank),
                to: Pe(leader),
                generation: 1,
            };
            let mut dialer = Dialer::new(self.keys, hello, leader, nonce);
            channel.send(dialer.hello(), &[])?;
            match dialer.accept_bytes(&exactly::<CHALLENGE>(&channel)?).map_err(strange)? {
                Step::Reply((proof, Answer { terms: TERMS, .. })) => channel.send(&proof, &[])?,
                _ => return Err(strange(AuthError::WrongPeer)),
            }
            Ok(channel)
        };
        attempt().map_err(failed)
    }
}

/// The terms are part of every proof, so a proof that was made for another connection of the job is not valid here.
const TERMS: Terms = Terms { version: VERSION, digest: *b"charm4rs: processes of one host\0" };

fn strange(error: AuthError) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, error)
}

/// The pid of the process at the other end, if it belongs to this user.
fn peer_of(channel: &Channel) -> io::Result<i32> {
    let peer = socket_peercred(channel)?;
    if peer.uid != geteuid() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "a process of another user"));
    }
    Ok(peer.pid.as_raw_nonzero().get())
}

/// A packet of a known length, without descriptors.
fn exactly<const N: usize>(channel: &Channel) -> io::Result<[u8; N]> {
    let mut buf = [0; N];
    let packet = channel.recv(&mut buf)?;
    if packet.len != N || packet.cut || !packet.fds.is_empty() {
        return Err(strange(AuthError::Garbage));
    }
    Ok(buf)
}

/// Waits until a process dials. `false`: none has by then.
fn ready(socket: &OwnedFd, until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::from(i32::MAX), tv_nsec: 0 });
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            got => return got.is_ok_and(|ready| ready > 0),
        }
    }
}

impl HostPeers {
    pub(super) fn links(&self) -> &Arc<HostLinks> {
        &self.links
    }

    /// [`super::Bootstrap::share_fds`].
    pub(super) fn share_fds(&self, fds: &[BorrowedFd<'_>]) -> Result<Vec<Vec<OwnedFd>>, TransportError> {
        let HostLinks { rank, host, peers, .. } = &*self.links;
        let own = fds.iter().map(BorrowedFd::try_clone_to_owned).collect::<Result<Vec<_>, _>>();
        let mut shared: Vec<Vec<OwnedFd>> = host.clone().map(|_| Vec::new()).collect();
        let place = |of: u32| (of - host.start) as usize;
        let is_leader = *rank == host.start;
        if !is_leader {
            peers.iter().try_for_each(|leader| give(leader, *rank, fds))?;
        }
        let mut missing: Vec<u32> = host.clone().filter(|other| other != rank).collect();
        while !missing.is_empty() {
            let waited = self.heard.recv_timeout(self.patience);
            let (from, word, fds) = waited.map_err(|_| lost(missing[0]))?;
            match word {
                // The leader sends the descriptors of all, the others only their own.
                HostMessage::Fds { rank: whose, count, more }
                    if missing.contains(&whose) && (!is_leader || from == whose) =>
                {
                    if fds.len() != usize::from(count) {
                        return Err(no_descriptors());
                    }
                    shared[place(whose)].extend(fds);
                    missing.retain(|rank| more || *rank != whose);
                }
                _ => {
                    let what = format!("process {from} sent an unexpected message while descriptors were shared");
                    return Err(TransportError::Startup(what));
                }
            }
        }
        shared[place(*rank)] = own.map_err(|_| no_descriptors())?;
        if is_leader {
            for peer in peers {
                for whose in host.clone().filter(|whose| *whose != peer.rank) {
                    let fds: Vec<BorrowedFd<'_>> = shared[place(whose)].iter().map(AsFd::as_fd).collect();
                    give(peer, whose, &fds)?;
                }
            }
        }
        Ok(shared)
    }
}

/// Sends the descriptors of process `whose`.
fn give(to: &HostPeer, whose: u32, fds: &[BorrowedFd<'_>]) -> Result<(), TransportError> {
    let mut chunks = fds.chunks(FDS_MAX).peekable();
    loop {
        let chunk = chunks.next().unwrap_or_default();
        let count = u16::try_from(chunk.len()).expect("at most FDS_MAX");
        let more = chunks.peek().is_some();
        let word = HostMessage::Fds { rank: whose, count, more }.encode();
        match to.channel.send(&word, chunk).map_err(|e| e.raw_os_error()) {
            Ok(()) => {}
            Err(Some(libc::ETOOMANYREFS)) => return Err(no_descriptors()),
            Err(_) => return Err(lost(to.rank)),
        }
        if !more {
            return Ok(());
        }
    }
}

impl HostLinks {
    /// Whether this process must report a failure: true once on a host.
    pub(super) fn may_report(&self) -> bool {
        rustix::io::read(&self.token, &mut [0; 8]).is_ok()
    }

    /// The descriptor that [`HostLinks::may_report`] reads, for a signal handler.
    pub(super) fn token(&self) -> RawFd {
        self.token.as_raw_fd()
    }

    /// Tells the others that the job has ended normally.
    pub(super) fn finish(&self) {
        self.over.store(true, Ordering::Release);
        // A process that is already gone need not know.
        self.peers.iter().for_each(|peer| _ = peer.channel.send(&HostMessage::Bye.encode(), &[]));
    }

    /// The main loop of the listening thread: passes messages on, until the job has ended or a process is gone, and returns which.
    fn watch(&self, tell: &Sender<Heard>) -> Option<String> {
        let mut open: Vec<&HostPeer> = self.peers.iter().collect();
        while !open.is_empty() {
            let mut polled: Vec<_> = open.iter().map(|peer| PollFd::new(&peer.channel, PollFlags::IN)).collect();
            match poll(&mut polled, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                // A retry would not help.
                Err(error) => return Some(format!("the processes of this host cannot be monitored any more: {error}")),
            }
            let ready: Vec<bool> = polled.iter().map(|one| !one.revents().is_empty()).collect();
            let mut ready = ready.into_iter();
            let mut gone = None;
            open.retain(|peer| {
                let heard = !ready.next().unwrap_or(false) || self.hear(peer, tell);
                if !heard {
                    gone.get_or_insert((peer.rank, peer.pid));
                }
                heard
            });
            // After the normal end of a job its processes go one by one.
            if let Some((rank, pid)) = gone.filter(|_| !self.over.load(Ordering::Acquire)) {
                return Some(format!("process {rank} of this host (pid {pid}) is gone"));
            }
        }
        None
    }

    /// Receives one packet of a peer. `false`: there will be no more.
    fn hear(&self, peer: &HostPeer, tell: &Sender<Heard>) -> bool {
        let mut buf = [0; MESSAGE_MAX];
        let Ok(packet) = peer.channel.recv(&mut buf) else { return false };
        match buf.get(..packet.len).map(HostMessage::decode) {
            Some(Ok(HostMessage::Bye)) => self.over.store(true, Ordering::Release),
            // There may be no receiver any more. If the packet was cut, the number of descriptors shows it.
            Some(Ok(word)) => drop(tell.send((peer.rank, word, packet.fds))),
            // The peer has closed, or is faulty.
            _ => return false,
        }
        true
    }
}

fn lost(rank: u32) -> TransportError {
    TransportError::Startup(format!("process {rank} of this host has not connected, or is gone"))
}

fn no_descriptors() -> TransportError {
    TransportError::Resource {
        what: "file descriptors",
        need: "some for each process of the host".to_owned(),
        advice: "raise the limit with ulimit -n",
    }
}

#[cfg(test)]
#[path = "host_peers_tests.rs"]
mod tests;
