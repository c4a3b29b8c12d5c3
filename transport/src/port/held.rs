//! Messages without credit: their sender waits, or holds them. The text of `credit` says why that ends.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::credit::Charge;
use super::frame::{self, Probe};
use super::send::Wait;
use super::{Incoming, Port, PortEvent, Route, Tag};
use charm4rs_transport_core::memory::write_bytes;
use charm4rs_transport_core::{Pe, PostError, RegBuf};

/// How long a wait lasts before a probe is sent, and the time between two probes.
const PROBE_AFTER: Duration = Duration::from_millis(1);
const PROBE_EVERY: Duration = Duration::from_millis(10);

/// A message that has no credit yet.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) tag: Tag,
    pub(super) charge: Charge,
    pub(super) head: RegBuf,
    pub(super) payloads: Vec<RegBuf>,
    pub(super) offer: bool,
}

impl Held {
    fn cost(&self) -> u64 {
        let payloads = self.payloads.iter().map(|payload| payload.len() as u64).sum::<u64>();
        self.charge.cost(self.head.len() as u64 + payloads)
    }
}

/// Names a held message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldId {
    to: Pe,
    number: u64,
}

/// The messages that are held for one receiver, in order.
#[derive(Default, Debug)]
pub(super) struct Queue {
    messages: VecDeque<(u64, Instant, Held)>,
    cost: u64,
    /// Up to this cost senders hold more without waiting first, since a circle was found.
    allowed: u64,
}

impl Queue {
    /// Since when its first message has been held.
    pub(super) fn since(&self) -> Option<Instant> {
        self.messages.front().map(|(_, since, _)| *since)
    }
}

/// The wait of a PE for credit, and the layer's interest in held messages.
#[derive(Default, Debug)]
pub(super) struct Waiting {
    /// The PE that it waits for.
    on: Option<Pe>,
    /// The number of the wait.
    number: u32,
    /// The wait's probe has returned.
    circle: bool,
    /// Sends must not wait now.
    pub(super) forbidden: bool,
    /// How many messages were ever held.
    count: u64,
    /// Those held since [`Port::hold_from_now`].
    noted: Option<Vec<HeldId>>,
    /// The layer above wants to know when held messages have left.
    awaited: bool,
}

impl Port {
    /// Whether a message may leave for `to` now; if so, it is charged. Waits for credit first, if that is possible.
    pub(super) fn admit(&mut self, to: Pe, cost: u64) -> bool {
        let free = cost == 0 || !self.held.contains_key(&to) && self.inner.accounts.charge(to, cost);
        free || self.wait_for_credit(to, cost)
    }

    #[cold]
    fn wait_for_credit(&mut self, to: Pe, cost: u64) -> bool {
        if self.fatal.is_some() || self.has_closed(to) && !self.held.contains_key(&to) {
            return true;
        }
        self.waiting.on = Some(to);
        self.waiting.number = self.waiting.number.wrapping_add(1);
        self.waiting.circle = false;
        let (mut wait, mut probed) = (Wait::default(), None);
        let admitted = loop {
            if self.held.get(&to).is_some_and(|queue| queue.cost + cost <= queue.allowed) || !self.wait(&mut wait, to) {
                break false;
            }
            if !self.held.contains_key(&to) && (self.inner.accounts.charge(to, cost) || self.has_closed(to)) {
                break true;
            }
            if self.waiting.circle {
                let queue = self.held.entry(to).or_default();
                queue.allowed = queue.cost.saturating_add(self.inner.accounts.credit().max(cost));
            }
            let waited = wait.since.map_or(Duration::ZERO, |since| since.elapsed());
            if waited > probed.map_or(PROBE_AFTER, |at| at + PROBE_EVERY) {
                probed = Some(waited);
                self.probe(to, Probe { origin: self.pe, wait: self.waiting.number, hops: 0 });
            }
        };
        self.waiting.on = None;
        admitted
    }

    /// Whether `to` receives nothing any more, so that no credit comes back. If so, its debt is forgiven.
    fn has_closed(&mut self, to: Pe) -> bool {
        let closed = self.ends.to(self.pe, to).has_closed(to);
        if closed {
            self.inner.accounts.forgive(to);
        }
        closed
    }

    /// Sends a probe, if there is capacity: it is repeated anyway.
    fn probe(&mut self, to: Pe, probe: Probe) {
        let bytes = probe.encode();
        let mut fill = |body: &mut [std::mem::MaybeUninit<u8>]| write_bytes(body, &bytes);
        match self.ends.to(self.pe, to).inject(to, frame::imm(frame::PROBE, 0), bytes.len(), &mut fill) {
            Ok(()) | Err(PostError::Busy(())) => {}
            Err(_) => self.lost(to),
        }
    }

    /// A probe has arrived.
    pub(super) fn pass_on(&mut self, probe: Probe) {
        let Some(on) = self.waiting.on else { return };
        if probe.origin == self.pe {
            self.waiting.circle |= probe.wait == self.waiting.number;
        } else if probe.hops < self.layout.pes() {
            self.probe(on, Probe { hops: probe.hops + 1, ..probe });
        }
    }

    /// Keeps a message until there is credit for it.
    pub(super) fn hold(&mut self, to: Pe, held: Held) {
        self.inner.counters.backlogged += 1;
        self.plain = false;
        let number = self.waiting.count;
        self.waiting.count += 1;
        if let Some(noted) = &mut self.waiting.noted {
            noted.push(HeldId { to, number });
        }
        let queue = self.held.entry(to).or_default();
        queue.cost += held.cost();
        queue.messages.push_back((number, Instant::now(), held));
    }

    /// Sends the held messages that have credit now.
    pub(super) fn release_held(&mut self) {
        if self.held.is_empty() || self.waiting.forbidden {
            return;
        }
        let peers: Vec<Pe> = self.held.keys().copied().collect();
        let before = std::mem::replace(&mut self.waiting.forbidden, true);
        for to in peers {
            self.release_to(to);
        }
        self.waiting.forbidden = before;
        self.note_plain();
    }

    fn release_to(&mut self, to: Pe) {
        let closed = self.has_closed(to);
        while let Some(queue) = self.held.get_mut(&to) {
            let cost = match queue.messages.front() {
                Some((_, _, held)) => held.cost(),
                None => {
                    self.held.remove(&to);
                    return;
                }
            };
            if !(self.inner.accounts.charge(to, cost) || closed) {
                return;
            }
            queue.cost = queue.cost.saturating_sub(cost);
            let Some((_, _, Held { tag, charge, head, payloads, offer })) = queue.messages.pop_front() else { return };
            self.transmit(to, (tag, charge), head.len(), |body| write_bytes(body, &head), payloads, offer);
            if std::mem::take(&mut self.waiting.awaited) {
                self.early.push_back(PortEvent::Room);
            }
        }
    }

    /// From now on no send waits for credit: messages without credit are held. For a layer above that suspends the sender instead.
    pub fn hold_from_now(&mut self) {
        self.waiting.forbidden = true;
        self.waiting.noted = Some(Vec::new());
    }

    /// Ends [`Self::hold_from_now`]. Returns the messages that were held meanwhile.
    pub fn held_meanwhile(&mut self) -> Vec<HeldId> {
        self.waiting.forbidden = false;
        self.waiting.noted.take().unwrap_or_default()
    }

    /// Whether a message is still held. If so, a [`PortEvent::Room`] comes when some have left.
    pub fn is_held(&mut self, id: HeldId) -> bool {
        let first = self.held.get(&id.to).and_then(|queue| queue.messages.front());
        let held = first.is_some_and(|(number, ..)| *number <= id.number);
        self.waiting.awaited |= held;
        held
    }

    /// The PE's user has taken a message out of its queue: credit may go back to its sender.
    pub fn took(&mut self, message: &Incoming) {
        if self.inner.accounts.took(message) {
            self.give_credit_to(message.from);
        }
    }

    /// Sends the credit that is owed to `to`, bypassing the backlog.
    #[cold]
    pub fn give_credit_to(&mut self, to: Pe) {
        self.credits.push(to);
        self.give_credit();
    }

    /// Gives back all credit that is due.
    pub(super) fn give_credit(&mut self) {
        for to in std::mem::take(&mut self.credits) {
            let bytes = self.inner.accounts.due(to);
            let bytes_le = bytes.to_le_bytes();
            let mut fill = |body: &mut [std::mem::MaybeUninit<u8>]| write_bytes(body, &bytes_le);
            if bytes == 0 {
                continue;
            }
            match self.ends.to(self.pe, to).inject(to, frame::imm(frame::CREDIT, 0), bytes_le.len(), &mut fill) {
                Ok(()) => {}
                Err(PostError::Busy(())) => {
                    self.inner.accounts.take(to, bytes);
                    self.credits.push(to);
                }
                Err(_) => self.lost(to),
            }
        }
    }

    /// Updates whether small messages may use the direct path again.
    pub(super) fn note_plain(&mut self) {
        self.plain = self.backlog.is_empty() && self.held.is_empty() && self.options.faults.is_none();
    }

    /// The encoding of a message's weight. It is sent only between threads, where arguments are moved.
    pub(super) fn weighed(route: Route, charge: Charge) -> usize {
        if route == Route::Local && charge.is_heavy() { frame::WEIGHED | usize::from(charge.units()) } else { 0 }
    }
}
