//! Heartbeats: which processes are watched, and when one is considered lost.
//!
//! The helper of a process sends a byte every second on its control connections. It has one to each process that it communicates with and one to its
//! right-hand neighbour, so every process is watched by another one. A PE that computes for minutes is not considered dead: the
//! helper answers for it. A stopped process, a dead host or a cut wire is silent, and is given up after five seconds.
//!
//! If *this* process stood still (a debugger, a stopped machine), it could not receive from others. After such a gap every process
//! gets the full time again. A process that leaves normally says goodbye and is not watched any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::TcpFabric;
use super::config;
use super::dial::Dial;
use super::helper::{Conn, Handle, Helper, Role, send_whole};
use super::shared::{Mail, Mailbox};
use charm4rs_transport_core::failure_detector::{FailureDetector, FailureEvents, Loss};
use charm4rs_transport_core::{Doorbell, Pe, TransportError};

/// Heartbeats for a backend that has none: the helper of this one watches, but its endpoints are never built.
impl FailureDetector for TcpFabric {
    fn subscribe(&self, pe: Pe, doorbell: &Doorbell) -> Box<dyn FailureEvents> {
        let failures = HeartbeatEvents { pe, handle: self.handle.clone() };
        failures.mailbox().open(doorbell);
        Box::new(failures)
    }
}

/// The mailbox of a PE without an endpoint.
#[derive(Debug)]
struct HeartbeatEvents {
    pe: Pe,
    /// Keeps the helper running.
    handle: Arc<Handle>,
}

impl HeartbeatEvents {
    fn mailbox(&self) -> &Mailbox {
        self.handle.shared.mailbox(self.pe).expect("a PE of this process")
    }
}

impl FailureEvents for HeartbeatEvents {
    fn has_events(&self) -> bool {
        self.mailbox().has_mail()
    }

    fn take(&self) -> Result<Vec<Loss>, TransportError> {
        let mut losses = Vec::new();
        for mail in self.mailbox().take() {
            match mail {
                Mail::Lost { process, why } => losses.push(Loss { process, why }),
                Mail::Fatal(error) => return Err(error),
                // No PE dials here, so none should connect; it is closed unread.
                Mail::Connected { .. } | Mail::DialFailed { .. } => {}
            }
        }
        Ok(losses)
    }
}

impl Drop for HeartbeatEvents {
    fn drop(&mut self) {
        self.mailbox().close();
    }
}

const BEAT: u8 = b'.';
const GOODBYE: u8 = b'!';

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Health {
    /// A control connection is being made.
    Dialing,
    /// Last heard from at that time.
    Alive(Instant),
    /// It said goodbye, or was given up.
    Over,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Liveness {
    settings: Option<config::Liveness>,
    processes: HashMap<u32, Health>,
    last_beat: Instant,
}

impl Liveness {
    pub(super) fn new(settings: Option<config::Liveness>) -> Self {
        Self { settings, processes: HashMap::new(), last_beat: Instant::now() }
    }

    fn heard(&self) -> impl Iterator<Item = Instant> {
        self.processes.values().filter_map(|health| match health {
            Health::Alive(heard) => Some(*heard),
            _ => None,
        })
    }

    /// When the next heartbeat is due, or a process has been silent for too long.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        let settings = self.settings?;
        let first_heard = self.heard().min()?;
        Some((self.last_beat + settings.every).min(first_heard + settings.silence))
    }
}

impl Helper {
    /// Watches the neighbour, so that every process is watched.
    pub(super) fn watch_neighbour(&mut self) {
        let (own, processes) = (self.shared.config.process, self.shared.config.layout.processes());
        self.watch_process((own + 1) % processes);
    }

    /// Watches a process, unless it is watched already.
    pub(super) fn watch_process(&mut self, process: u32) {
        let own = self.shared.config.process;
        if self.liveness.settings.is_none() || process == own || self.liveness.processes.contains_key(&process) {
            return;
        }
        self.liveness.processes.insert(process, Health::Dialing);
        self.dial_control(process, false);
    }

    fn dial_control(&mut self, process: u32, known: bool) {
        let layout = &self.shared.config.layout;
        let first = |process| Pe(layout.pes_of(process).start);
        let (from, to) = (first(self.shared.config.process), first(process));
        let deadline = Instant::now() + self.shared.config.reconnect;
        self.dials.push(Dial::control(process, from, to, known, deadline));
    }

    /// A control connection is established.
    pub(super) fn control_made(&mut self, mut conn: Conn, process: u32) -> Option<Conn> {
        if self.liveness.settings.is_none() || self.liveness.processes.get(&process) == Some(&Health::Over) {
            return None;
        }
        if self.liveness.heard().next().is_none() {
            self.liveness.last_beat = Instant::now();
        }
        self.liveness.processes.insert(process, Health::Alive(Instant::now()));
        send_whole(&conn.socket, &[BEAT])?;
        conn.role = Role::Control { process };
        Some(conn)
    }

    /// Data has come on a control connection.
    pub(super) fn heard(&mut self, conn: Conn) -> Option<Conn> {
        let Role::Control { process } = conn.role else { return Some(conn) };
        let mut bytes = [0; 64];
        let n = match recv(&conn.socket, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((n, _)) => n,
            Err(Errno::AGAIN | Errno::INTR) => return Some(conn),
            Err(_) => 0,
        };
        if self.liveness.processes.get(&process) == Some(&Health::Over) {
            return None;
        }
        if bytes[..n].contains(&GOODBYE) {
            self.liveness.processes.insert(process, Health::Over);
            return None;
        }
        if n > 0 {
            self.liveness.processes.insert(process, Health::Alive(Instant::now()));
            return Some(conn);
        }
        // Broken, without goodbye: a temporary fault, or the end. A process that answers a new connection is alive.
        let other = self.conns.iter().flatten().any(|c| matches!(c.role, Role::Control { process: p } if p == process));
        let dialing = self
            .dials
            .iter()
            .any(|dial| dial.purpose == charm4rs_transport_core::auth::Purpose::Control && dial.process == process);
        if !other && !dialing && !self.is_stopping() {
            self.dial_control(process, true);
        }
        None
    }

    /// A control connection could not be made.
    pub(super) fn control_failed(&mut self, process: u32, why: &'static str) {
        // The process may have connected to this one meanwhile.
        let connected =
            self.conns.iter().flatten().any(|c| matches!(c.role, Role::Control { process: p } if p == process));
        if !connected {
            self.lost(process, why);
        }
    }

    fn lost(&mut self, process: u32, why: &'static str) {
        if self.liveness.processes.insert(process, Health::Over) == Some(Health::Over) {
            return;
        }
        tracing::warn!(process, why, "lost contact with a process");
        self.conns.iter_mut().for_each(|slot| {
            if slot.as_ref().is_some_and(|c| matches!(c.role, Role::Control { process: p } if p == process)) {
                *slot = None;
            }
        });
        for mailbox in self.shared.mailboxes() {
            let _ = mailbox.post(Mail::Lost { process, why });
        }
    }

    /// Sends heartbeats, and gives up processes that have been silent for too long.
    pub(super) fn tick(&mut self, now: Instant) {
        let Some(settings) = self.liveness.settings else { return };
        if self.liveness.next_tick().is_none_or(|due| due > now) {
            return;
        }
        let beat_due = self.liveness.last_beat + settings.every;
        if beat_due <= now {
            self.liveness.last_beat = now;
            for conn in self.conns.iter().flatten().filter(|conn| matches!(conn.role, Role::Control { .. })) {
                // A full socket contains enough heartbeats.
                let _ = send_whole(&conn.socket, &[BEAT]);
            }
        }
        if now.saturating_duration_since(beat_due) > settings.silence / 2 {
            tracing::warn!(late = ?(now - beat_due), "this process stood still");
            for health in self.liveness.processes.values_mut() {
                if let Health::Alive(heard) = health {
                    *heard = now;
                }
            }
        }
        let silent = |health: &Health| matches!(health, Health::Alive(heard) if now - *heard >= settings.silence);
        let lost: Vec<u32> =
            self.liveness.processes.iter().filter(|(_, health)| silent(health)).map(|(&process, _)| process).collect();
        for process in lost {
            self.lost(process, "unresponsive: its heartbeats stopped");
        }
    }

    /// Leaves normally.
    pub(super) fn say_goodbye(&self) {
        for conn in self.conns.iter().flatten() {
            if let Role::Control { .. } = conn.role {
                let _ = send_whole(&conn.socket, &[GOODBYE]);
                // Unread bytes of the peer would turn closing into a reset, which may overtake the goodbye.
                let mut bytes = [0; 256];
                while recv(&conn.socket, &mut bytes, RecvFlags::DONTWAIT).is_ok_and(|(n, _)| n > 0) {}
            }
        }
    }
}
