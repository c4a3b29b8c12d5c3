//! How an endpoint closes.
//!
//! A PE that closes sends what is left, then sends `Bye` to all peers that it has communicated with. A peer that receives it sends nothing any more, and
//! answers with `ByeAck`: since messages are numbered, everything before it has arrived then. The PE waits for that answer, and then until its own `Bye`s
//! have left, since peers that close too wait for them. If a peer that has said `Bye` itself does not answer, the answer was in flight when the peer closed.
//! The peer reads nothing any more, so nothing is missing.

use std::time::{Duration, Instant};

use super::endpoint::OfiEndpoint;
use super::link::{Control, Link};
use super::wire::PacketKind;
use charm4rs_transport_core::{Pe, TransportError};

/// How long a peer may be silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same for a peer that has said `Bye`.
const SHORT_PATIENCE: Duration = Duration::from_millis(500);

impl OfiEndpoint {
    /// Delivers what was posted.
    pub(super) fn part(&mut self) -> Result<(), TransportError> {
        self.until("it does not accept what was sent to it", |link| {
            let quiet = link.waiting.is_empty() && link.deferred.is_none() && link.control.is_empty();
            !(link.parting.is_lost() || quiet && link.puts == link.done)
        })?;
        for index in 0..self.links.len() {
            let link = &mut self.links[index];
            if link.has_talked() && !link.parting.is_gone() {
                link.parting.say();
                self.say(index, Control::of(PacketKind::Bye));
            }
        }
        self.until("it does not confirm what was sent to it", |link| link.parting.awaits_confirmation())?;
        self.until("it does not accept what was sent to it", |link| !link.parting.is_lost() && link.has_unsent())?;
        let start = Instant::now();
        while self.slots.is_busy() && start.elapsed() < SHORT_PATIENCE {
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), TransportError> {
        self.round(usize::MAX)?;
        self.ready.clear();
        // The other end may need this core.
        std::thread::yield_now();
        Ok(())
    }

    /// Makes progress while any link is `waiting`.
    fn until(&mut self, why: &'static str, waiting: impl Fn(&Link) -> bool) -> Result<(), TransportError> {
        let state = |links: &[Link]| {
            links.iter().map(|l| u64::from(l.in_order.taken()) + l.done + l.flying as u64).sum::<u64>()
        };
        let (mut before, mut since) = (0, Instant::now());
        loop {
            let mut late: Vec<&Link> = self.links.iter().filter(|link| waiting(link)).collect();
            if since.elapsed() > SHORT_PATIENCE {
                late.retain(|link| !link.parting.has_heard());
            }
            let Some(first) = late.first() else { return Ok(()) };
            if since.elapsed() > PATIENCE {
                return Err(TransportError::PeerDown { pe: Pe(first.peer.0), why });
            }
            self.step()?;
            let now = state(&self.links);
            if now != before {
                (before, since) = (now, Instant::now());
            }
        }
    }
}
