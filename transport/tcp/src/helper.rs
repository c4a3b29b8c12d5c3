//! The helper: one thread of a process that accepts, dials, does handshakes and sends heartbeats, so that no PE has to.
//!
//! It handles no message: sockets go to the PEs' mailboxes once their peer is proven. It has one epoll loop, in which nothing blocks, so a slow,
//! silent or hostile peer costs a table entry for at most the time of a handshake. At most [`PENDING_MAX`] accepted handshakes are
//! pending. Another one evicts the oldest that has not even sent its hello (a member of the job sends hello at once, and dials
//! again if it was evicted). If descriptors run out, the helper stops accepting for a moment instead of spinning.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, getpeername, recv, send, sockopt};

use super::address::Listener;
use super::dial::{Dial, Dialing};
use super::frame::{Format, FrameKind, HEAD_MAX, Head, LENGTH_MAX};
use super::liveness::Liveness;
use super::shared::{Command, Mail, Shared};
use charm4rs_transport_core::auth::{Acceptor, AuthError, HELLO, Hello, Purpose, Step, random_bytes};
use charm4rs_transport_core::{Pe, TransportError};

/// Accepted handshakes that may be pending.
const PENDING_MAX: usize = 64;
/// How long accepting pauses after descriptors ran out.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections that are accepted before other events are handled.
const ACCEPTS: usize = 64;

const BELL: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 8;

/// The purpose of a connection of the helper.
pub(super) enum Role {
    /// Accepted. The peer has not proven itself yet.
    Accepting { machine: Box<Acceptor> },
    /// Being dialed.
    Dialing(Box<Dialing>),
    /// Heartbeats of a process.
    Control { process: u32 },
}

pub(super) struct Conn {
    pub(super) socket: OwnedFd,
    pub(super) role: Role,
    pub(super) since: Instant,
}

/// See the module's text.
pub(super) struct Helper {
    pub(super) shared: Arc<Shared>,
    pub(super) epoll: OwnedFd,
    listeners: Vec<Listener>,
    pub(super) conns: Vec<Option<Conn>>,
    /// Connections to be made, each at its time.
    pub(super) dials: Vec<Dial>,
    pub(super) liveness: Liveness,
    /// Processes that have proven the job's secret.
    proven: HashSet<u32>,
    paused_until: Option<Instant>,
    stopping: bool,
}

/// The helper's thread. It stops when this is dropped.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.command(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // The panic hook has already printed a panic of the helper.
            let _ = thread.join();
        }
    }
}

/// Starts the helper.
pub(super) fn start(shared: Arc<Shared>, listeners: Vec<Listener>) -> Result<Handle, TransportError> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| TransportError::system("epoll_create", e))?;
    let mut helper = Helper {
        liveness: Liveness::new(shared.config.liveness),
        shared: shared.clone(),
        epoll,
        listeners,
        conns: Vec::new(),
        dials: Vec::new(),
        proven: HashSet::new(),
        paused_until: None,
        stopping: false,
    };
    helper.watch(helper.shared.bell.fd(), BELL)?;
    helper.listen(true)?;
    let run = move || helper.run();
    let thread =
        std::thread::Builder::new().name("charm4rs-tcp".into()).spawn(run).map_err(|_| TransportError::Resource {
            what: "threads",
            need: "one for each process".into(),
            advice: "raise the limit: ulimit -u",
        })?;
    Ok(Handle { shared, thread: Some(thread) })
}

impl Helper {
    fn watch(&self, fd: impl AsFd, token: u64) -> Result<(), TransportError> {
        let data = epoll::EventData::new_u64(token);
        epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN).map_err(|e| TransportError::system("epoll_ctl", e))
    }

    fn listen(&self, on: bool) -> Result<(), TransportError> {
        for ((listener, _), token) in self.listeners.iter().zip(LISTENER..) {
            if on {
                self.watch(listener, token)?;
            } else {
                epoll::delete(&self.epoll, listener).map_err(|e| TransportError::system("epoll_ctl", e))?;
            }
        }
        Ok(())
    }

    fn run(&mut self) {
        let mut events = Vec::with_capacity(64);
        while !self.stopping {
            events.clear();
            let timeout = self.timeout();
            let spare = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, spare, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return self.fatal(None, TransportError::system("epoll_wait", e)),
            }
            for event in &events {
                match event.data.u64() {
                    BELL => self.obey(),
                    token if token >= LISTENER => self.accept(token - LISTENER),
                    token => self.ready(usize::try_from(token).expect("tokens are indices")),
                }
            }
            self.on_time();
        }
        self.say_goodbye();
    }

    /// The time until something must be done.
    fn timeout(&self) -> Option<Timespec> {
        let handshakes = self.conns.iter().flatten().filter_map(|conn| match conn.role {
            Role::Control { .. } => None,
            _ => Some(conn.since + self.shared.config.handshake),
        });
        let dials = self.dials.iter().map(|dial| dial.not_before);
        let next = handshakes.chain(dials).chain(self.paused_until).chain(self.liveness.next_tick()).min()?;
        // Rounded up: epoll counts in milliseconds, and waking early means waking twice.
        let wait = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec::try_from(wait).ok()
    }

    fn obey(&mut self) {
        self.shared.bell.clear();
        for command in self.shared.take_commands() {
            match command {
                Command::Dial { from, to, generation, not_before, deadline } => {
                    let process = self.shared.config.layout.process_of(to);
                    self.dials.push(Dial::data(process, from, to, generation, not_before, deadline));
                }
                Command::Watch => self.watch_neighbour(),
                Command::Stop => self.stopping = true,
                #[cfg(any(test, feature = "faults"))]
                Command::Vanish => {
                    self.stopping = true;
                    self.conns.clear();
                    self.listeners.clear();
                }
            }
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
            if let Err(e) = self.listen(true) {
                self.fatal(None, e);
            }
        }
        for index in 0..self.conns.len() {
            let expired = self.conns[index].as_ref().is_some_and(|conn| {
                !matches!(conn.role, Role::Control { .. }) && conn.since + self.shared.config.handshake <= now
            });
            if expired && let Some(conn) = self.conns[index].take() {
                self.count(|counters| &counters.timed_out);
                if let Role::Dialing(dialing) = conn.role {
                    self.dial_broke(dialing.dial, "the handshake took too long", false);
                }
            }
        }
        self.dial_due(now);
        self.tick(now);
    }

    pub(super) fn count(&self, counter: impl Fn(&super::TcpCounters) -> &AtomicU64) {
        counter(&self.shared.counters).fetch_add(1, Ordering::Relaxed);
    }

    /// Tells a PE of this process that the job must end; the first PE if none is named.
    pub(super) fn fatal(&self, pe: Option<Pe>, error: TransportError) {
        tracing::error!(%error, "an error in the TCP helper ends the job");
        let mailbox = pe.and_then(|pe| self.shared.mailbox(pe)).or(self.shared.mailboxes().first());
        if let Some(mailbox) = mailbox {
            let _ = mailbox.post(Mail::Fatal(error));
        }
    }

    // ---- connections -----------------------------------------------------------------------------------------

    /// Adds a connection to the table.
    pub(super) fn add(&mut self, conn: Conn, flags: epoll::EventFlags) {
        let index = self.conns.iter().position(Option::is_none).unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() - 1
        });
        match epoll::add(&self.epoll, &conn.socket, epoll::EventData::new_u64(index as u64), flags) {
            Ok(()) => self.conns[index] = Some(conn),
            // No memory for it: it counts as closed by the peer.
            Err(e) => {
                tracing::warn!(error = %e, "epoll_ctl");
                if let Role::Dialing(dialing) = conn.role {
                    self.dial_broke(dialing.dial, "there is no memory for its connection", false);
                }
            }
        }
    }

    fn ready(&mut self, index: usize) {
        // Empty if an earlier event of this batch closed the connection.
        let Some(conn) = self.conns.get_mut(index).and_then(Option::take) else { return };
        let kept = match conn.role {
            Role::Accepting { .. } => self.accepting(conn),
            Role::Dialing(_) => self.dialing(conn, index),
            Role::Control { .. } => self.heard(conn),
        };
        debug_assert!(self.conns[index].is_none(), "nothing is added while a connection is looked at");
        self.conns[index] = kept;
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    fn accept(&mut self, listener: u64) {
        let Ok(listener) = usize::try_from(listener) else { return };
        for _ in 0..ACCEPTS {
            let Some((socket, _)) = self.listeners.get(listener) else { return };
            match accept_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => self.accepted(socket),
                Err(Errno::AGAIN) => return,
                Err(e @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                    tracing::warn!(error = %e, "cannot accept connections; trying again soon");
                    self.count(|counters| &counters.pauses);
                    self.paused_until = Some(Instant::now() + PAUSE);
                    return self.listen(false).unwrap_or_else(|e| self.fatal(None, e));
                }
                // The peer closed while it waited, or the network failed: the helper need not act.
                Err(_) => {}
            }
        }
    }

    fn accepted(&mut self, socket: OwnedFd) {
        self.count(|counters| &counters.accepted);
        let pending = |conn: &Conn| matches!(conn.role, Role::Accepting { .. });
        if self.conns.iter().flatten().filter(|conn| pending(conn)).count() >= PENDING_MAX {
            let greeted = |conn: &Conn| matches!(&conn.role, Role::Accepting { machine } if machine.greeted());
            let of_age = |(_, slot): &(usize, &Option<Conn>)| slot.as_ref().map(|conn| (greeted(conn), conn.since));
            let candidates = self.conns.iter().enumerate().filter(|(_, slot)| slot.as_ref().is_some_and(pending));
            if let Some(index) = candidates.min_by_key(of_age).map(|(index, _)| index) {
                self.count(|counters| &counters.evicted);
                self.conns[index] = None;
            }
        }
        let nonce = match random_bytes() {
            Ok(nonce) => nonce,
            Err(e) => return self.fatal(None, e),
        };
        let machine = Acceptor::new(&self.shared.keys, self.shared.terms, self.shared.config.process, nonce);
        let role = Role::Accepting { machine: Box::new(machine) };
        self.add(Conn { socket, role, since: Instant::now() }, epoll::EventFlags::IN);
    }

    /// The peer of an accepted connection has sent something.
    fn accepting(&mut self, mut conn: Conn) -> Option<Conn> {
        let Role::Accepting { machine } = &mut conn.role else { return Some(conn) };
        loop {
            let mut bytes = [0; HELLO];
            let wanted = machine.wanted();
            let n = match recv(&conn.socket, &mut bytes[..wanted], RecvFlags::DONTWAIT) {
                Ok((n, _)) if n > 0 => n,
                Err(Errno::AGAIN | Errno::INTR) => return Some(conn),
                // The peer closed the connection.
                _ => return None,
            };
            match machine.accept_bytes(&bytes[..n]) {
                Ok(Step::More) => {}
                Ok(Step::Reply(challenge)) => send_whole(&conn.socket, &challenge)?,
                Ok(Step::Proven(hello)) => return self.proven(conn, hello),
                Err(e) => {
                    self.refused(e);
                    return None;
                }
            }
        }
    }

    pub(super) fn refused(&self, error: AuthError) {
        if error == AuthError::WrongProof {
            self.count(|counters| &counters.wrong_proofs);
            tracing::warn!("a connection with a wrong proof was closed");
        } else {
            self.count(|counters| &counters.strangers);
            tracing::debug!(%error, "a stranger's connection was closed");
        }
    }

    pub(super) fn has_proven(&self, process: u32) -> bool {
        self.proven.contains(&process)
    }

    pub(super) fn note_proven(&mut self, process: u32) {
        self.count(|counters| &counters.proven);
        self.proven.insert(process);
    }

    /// The peer belongs to the job.
    fn proven(&mut self, conn: Conn, hello: Hello) -> Option<Conn> {
        if let Err(error) = self.check(&hello) {
            self.count(|counters| &counters.proven);
            self.fatal(Some(hello.to), error);
            return None;
        }
        self.note_proven(hello.rank);
        match hello.purpose {
            Purpose::Control => self.control_made(conn, hello.rank),
            Purpose::Data => {
                self.deliver(conn.socket, hello.to, hello.from, hello.generation, false);
                None
            }
        }
    }

    fn check(&self, hello: &Hello) -> Result<(), TransportError> {
        self.shared.terms.check(&hello.terms)?;
        let layout = &self.shared.config.layout;
        let is_pe_of = |pe: Pe, process: u32| process < layout.processes() && layout.pes_of(process).contains(&pe.0);
        if !is_pe_of(hello.from, hello.rank) || !is_pe_of(hello.to, self.shared.config.process) {
            let detail = u64::from(hello.rank);
            return Err(TransportError::Protocol { from: hello.from, what: "an impossible rank or PE", detail });
        }
        Ok(())
    }

    /// Passes an authenticated connection to a PE of this process. `false`: it is already broken. (Its dialer must try again; the acceptor need not
    /// know that it ever existed.)
    pub(super) fn deliver(&mut self, socket: OwnedFd, to: Pe, peer: Pe, generation: u32, dialed: bool) -> bool {
        if set_options(&socket).is_err() || epoll::delete(&self.epoll, &socket).is_err() {
            return false;
        }
        let Some(mailbox) = self.shared.mailbox(to) else { return true };
        if let Err(Mail::Connected { socket, .. }) = mailbox.post(Mail::Connected { peer, generation, dialed, socket })
        {
            let mut gone = [0; HEAD_MAX];
            let format = Format { checksum: false, message_max: LENGTH_MAX };
            let len = format.encode(&Head::new(FrameKind::Gone, 0), 0, &mut gone);
            let _ = send_whole(&socket, &gone[..len]);
        }
        true
    }
}

/// Bytes that a socket between processes of one host may hold unread. A queue that stays in cache is faster than a
/// longer one (twice as fast for messages of megabytes, where this was measured), and here there is no round trip to fill. Towards other
/// hosts the kernel determines the length.
const NEAR_QUEUE: usize = 256 << 10;

fn set_options(socket: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_tcp_nodelay(socket, true)?;
    let peer = SocketAddr::try_from(getpeername(socket)?.ok_or(Errno::NOTCONN)?)?;
    if peer.ip().to_canonical().is_loopback() {
        sockopt::set_socket_send_buffer_size(socket, NEAR_QUEUE)
    } else {
        Ok(())
    }
}

/// Sends a few bytes at once. A socket that does not accept even these is unusable.
pub(super) fn send_whole(socket: &OwnedFd, bytes: &[u8]) -> Option<()> {
    (send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) == Ok(bytes.len())).then_some(())
}

/// The peer's address, for the log.
pub(super) fn name(address: Option<&SocketAddr>) -> String {
    address.map_or_else(|| "nowhere".to_owned(), ToString::to_string)
}
