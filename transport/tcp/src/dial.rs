//! The helper's outgoing connections: dialed at every address of the process, retried until a deadline, and authenticated.
//!
//! # Wrong answers
//! A process that answers at a peer's address and cannot prove the job's secret is unknown: it may be a process of this job with another secret, or a
//! stranger that got the port of a process which has ended. Nothing that it sends distinguishes the two. So it costs one connection, and the
//! address is tried again until the deadline. Then the history of the peer decides:
//! - The peer has proven itself before, on any connection. It had the secret, so this is another process. The peer is unreachable, as if nothing
//!   answered (69).
//! - The peer never has. As far as is known, the process there is the one that the job's own bootstrap named, so the job ends with 77. (If it is a
//!   stranger after all, the peer died before it connected to any other process; that ends the job in other ways, and sooner.)

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{RecvFlags, connect, recv, sockopt};

use super::address::{decode, out_of_descriptors, stream_socket};
use super::helper::{Conn, Helper, Role, name, send_whole};
use super::shared::Mail;
use charm4rs_transport_core::auth::{AuthError, CHALLENGE, Dialer, Hello, Purpose, Step, random_bytes};
use charm4rs_transport_core::{Pe, TransportError};

/// After this many refusals in a row, a process that accepted connections before is considered gone.
const REFUSALS: u32 = 5;
const BACK_OFF: Duration = Duration::from_millis(10);
const BACK_OFF_MAX: Duration = Duration::from_millis(100);

/// A connection to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dial {
    pub(super) purpose: Purpose,
    pub(super) process: u32,
    pub(super) from: Pe,
    pub(super) to: Pe,
    pub(super) generation: u32,
    pub(super) not_before: Instant,
    pub(super) deadline: Instant,
    attempts: u32,
    refusals: u32,
    /// The last answer did not prove the job's secret.
    unproven: bool,
    /// There was a connection before, so a refusal means more.
    pub(super) known: bool,
}

impl Dial {
    pub(super) fn data(
        process: u32,
        from: Pe,
        to: Pe,
        generation: u32,
        not_before: Instant,
        deadline: Instant,
    ) -> Self {
        let known = generation > 1;
        let purpose = Purpose::Data;
        Self {
            purpose,
            process,
            from,
            to,
            generation,
            not_before,
            deadline,
            attempts: 0,
            refusals: 0,
            unproven: false,
            known,
        }
    }

    pub(super) fn control(process: u32, from: Pe, to: Pe, known: bool, deadline: Instant) -> Self {
        let now = Instant::now();
        Self { purpose: Purpose::Control, known, ..Self::data(process, from, to, 1, now, deadline) }
    }
}

/// A connection that is being made.
#[derive(Debug)]
pub(super) struct Dialing {
    pub(super) dial: Dial,
    /// `None` until the connection is established.
    machine: Option<Dialer>,
}

fn out_of_ports() -> TransportError {
    TransportError::Resource {
        what: "ports",
        need: "one for each connection to a peer".into(),
        advice: "widen net.ipv4.ip_local_port_range, or end programs that use ports",
    }
}

impl Helper {
    /// Starts the dials that are due.
    pub(super) fn dial_due(&mut self, now: Instant) {
        while let Some(at) = self.dials.iter().position(|dial| dial.not_before <= now) {
            let dial = self.dials.swap_remove(at);
            self.dial(dial);
        }
    }

    fn dial(&mut self, mut dial: Dial) {
        let published = self.shared.addresses.get().and_then(|all| all.get(dial.process as usize));
        let addresses: Vec<SocketAddr> = published.map(|bytes| decode(bytes)).unwrap_or_default();
        let address = (!addresses.is_empty()).then(|| addresses[dial.attempts as usize % addresses.len()]);
        dial.attempts += 1;
        dial.unproven = false;
        let Some(address) = address else {
            return self.dial_broke(dial, "its address is not known", false);
        };
        let attempt = stream_socket(&address).and_then(|socket| match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(e) => Err(e),
        });
        match attempt {
            Ok(socket) => {
                let role = Role::Dialing(Box::new(Dialing { dial, machine: None }));
                self.add(Conn { socket, role, since: Instant::now() }, epoll::EventFlags::OUT);
            }
            Err(Errno::CONNREFUSED) => self.dial_broke(dial, "connection refused: its process has ended", true),
            Err(Errno::MFILE | Errno::NFILE) if Instant::now() >= dial.deadline => {
                self.fatal(Some(dial.from), out_of_descriptors());
            }
            Err(e @ (Errno::NOMEM | Errno::NOBUFS)) if Instant::now() >= dial.deadline => {
                self.fatal(Some(dial.from), TransportError::system("connect", e));
            }
            Err(Errno::ADDRNOTAVAIL) if Instant::now() >= dial.deadline => {
                self.fatal(Some(dial.from), out_of_ports());
            }
            Err(e) => {
                tracing::debug!(address = name(Some(&address)), error = %e, "cannot connect");
                self.dial_broke(dial, "cannot connect to it", false);
            }
        }
    }

    /// An attempt failed. Schedules another one, unless it is too late.
    pub(super) fn dial_broke(&mut self, mut dial: Dial, why: &'static str, refused: bool) {
        let now = Instant::now();
        dial.refusals = if refused { dial.refusals + 1 } else { 0 };
        if now < dial.deadline && !(dial.known && dial.refusals >= REFUSALS) {
            let back_off = BACK_OFF.saturating_mul(1 << dial.attempts.min(8)).min(BACK_OFF_MAX);
            dial.not_before = now + back_off;
            self.dials.push(dial);
            return;
        }
        if dial.unproven && !self.has_proven(dial.process) {
            return self.fatal(
                Some(dial.from),
                TransportError::Auth("a dialed process has another secret, or a stranger answers at its address"),
            );
        }
        match dial.purpose {
            Purpose::Control => self.control_failed(dial.process, why),
            Purpose::Data => {
                let mail = Mail::DialFailed { peer: dial.to, generation: dial.generation, why };
                if let Some(mailbox) = self.shared.mailbox(dial.from) {
                    let _ = mailbox.post(mail);
                }
            }
        }
    }

    /// A dialed connection is established, has failed, or has received the acceptor's answer.
    pub(super) fn dialing(&mut self, mut conn: Conn, index: usize) -> Option<Conn> {
        let Role::Dialing(dialing) = &mut conn.role else { return Some(conn) };
        let dial = dialing.dial;
        let Some(machine) = &mut dialing.machine else {
            let nonce = match random_bytes() {
                Ok(nonce) => nonce,
                Err(error) => {
                    self.fatal(Some(dial.from), error);
                    return None;
                }
            };
            return match self.say_hello(&conn.socket, &dial, nonce, index) {
                Ok(machine) => {
                    dialing.machine = Some(machine);
                    Some(conn)
                }
                Err(Errno::CONNREFUSED) => {
                    self.dial_broke(dial, "connection refused: its process has ended", true);
                    None
                }
                Err(_) => {
                    self.dial_broke(dial, "cannot connect to it", false);
                    None
                }
            };
        };
        let mut bytes = [0; CHALLENGE];
        let wanted = machine.wanted();
        let n = match recv(&conn.socket, &mut bytes[..wanted], RecvFlags::DONTWAIT) {
            Ok((n, _)) if n > 0 => n,
            Err(Errno::AGAIN | Errno::INTR) => return Some(conn),
            _ => {
                self.dial_broke(dial, "it hung up during the handshake", false);
                return None;
            }
        };
        match machine.accept_bytes(&bytes[..n]) {
            Ok(Step::Reply((proof, answer))) => {
                if send_whole(&conn.socket, &proof).is_none() {
                    self.dial_broke(dial, "it hung up during the handshake", false);
                } else if let Err(error) = self.shared.terms.check(&answer.terms) {
                    self.fatal(Some(dial.from), error);
                } else {
                    return self.dialed(conn, &dial);
                }
                None
            }
            Ok(_) => Some(conn),
            Err(error @ AuthError::WrongProof) => {
                self.refused(error);
                self.dial_broke(
                    Dial { unproven: true, ..dial },
                    "the process at its address has another secret, or is a stranger",
                    false,
                );
                None
            }
            Err(_) => {
                self.dial_broke(dial, "another process listens at its address", false);
                None
            }
        }
    }

    fn say_hello(&self, socket: &OwnedFd, dial: &Dial, nonce: [u8; 32], index: usize) -> Result<Dialer, Errno> {
        sockopt::socket_error(socket)??;
        let hello = Hello {
            purpose: dial.purpose,
            terms: self.shared.terms,
            rank: self.shared.config.process,
            from: dial.from,
            to: dial.to,
            generation: dial.generation,
        };
        let machine = Dialer::new(&self.shared.keys, hello, dial.process, nonce);
        send_whole(socket, machine.hello()).ok_or(Errno::CONNRESET)?;
        // From now on only the acceptor's answer matters.
        epoll::modify(&self.epoll, socket, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
        Ok(machine)
    }

    fn dialed(&mut self, conn: Conn, dial: &Dial) -> Option<Conn> {
        self.note_proven(dial.process);
        match dial.purpose {
            Purpose::Control => self.control_made(conn, dial.process),
            Purpose::Data => {
                if self.deliver(conn.socket, dial.from, dial.to, dial.generation, true) {
                    self.watch_process(dial.process);
                } else {
                    self.dial_broke(*dial, "its connections break at once", false);
                }
                None
            }
        }
    }
}
