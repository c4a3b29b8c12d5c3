//! Rendezvous: the payloads stay at the sender until the receiver has memory for them.
//!
//! # Protocol
//! ```text
//! sender                                       receiver
//! ask        ── RTS: sizes, head ──────────▶   on_rts     offered
//!                                              answer     chooses memory (or the user does: `Port::accept`)
//! on_cts     ◀─ CTS: slot, a key a payload ──             arriving
//! transfer   ── puts; the last one of each ─▶  on_fin
//!               payload carries a FIN
//!            ── HANDED: a payload as a message ▶ on_handed
//!                                              deliver    all payloads have ended: windows close, the user gets the message
//! ```
//! The receiver chooses for each payload whether it is put (the CTS has the key of a window) or comes as a message (the backend passes buffers).
//!
//! Each message ends once, in one of four ways:
//! - All payloads arrive: the receiver delivers it.
//! - The receiver has no memory: it answers with a REFUSE. The sender gets its credit back and reports the message ([`PortEvent::Refused`]).
//! - A payload that goes as a message finds no memory (MISSED in its place): the receiver drops the message when all payloads have ended, returns the credit,
//!   and answers with a NACK, by which the sender reports it.
//! - A peer is lost, or breaks the protocol: the job ends.
//!
//! A FIN names the message and not the payload: the receiver counts. Puts of different payloads may complete in any order, and a window is closed only when
//! all have. So no put reaches memory that the receiver has taken back.
//!
//! # Parts
//! [`sender`] and [`receiver`] are the two state machines. They move no bytes and call no endpoint. A frame may arrive while this PE sends, so what it asks for
//! is an [`Action`], which waits in the port's list of things to do. `model` runs both machines through every order of events.

#[cfg(test)]
mod model;
mod receiver;
mod sender;

use std::collections::VecDeque;
use std::rc::Rc;

pub(super) use receiver::{Arriving, Offered, Receiver, Source};
use receiver::{NoSlot, Part};
use sender::{Cleared, Refused};
pub(super) use sender::{Request, Sender};

use super::frame::{self, Cts, Destination, Rts};
use super::puts::Target;
use super::{OfferId, Port, PortEvent, Tag};
use charm4rs_transport_core::memory::write_bytes;
use charm4rs_transport_core::{Msg, Pe, RegBuf, TransportError};

/// What a frame asks this PE to do.
#[derive(Debug)]
pub(super) enum Action {
    /// Choose memory for the payloads of an offer, and answer it.
    Answer(u64),
    /// Send the payloads of a message that the receiver cleared.
    Transfer(Cleared),
    /// Report a message that the receiver refused.
    Refund(Refused),
    /// Deliver a message whose payloads have all ended, or drop it.
    Deliver(Arriving),
}

/// Both halves of this PE's rendezvous.
#[derive(Default, Debug)]
pub(super) struct Rendezvous {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
}

impl Port {
    /// Sends an RTS for a message.
    pub(super) fn send_rts(&mut self, to: Pe, tag: Tag, head: RegBuf, payloads: Vec<RegBuf>, offer: bool) {
        let head_max = self.ends.to(self.pe, to).caps().send_max.saturating_sub(Rts::len(payloads.len()));
        let request = Request { to, tag, head, payloads, offer, head_max };
        let (rts, reserved) = self.inner.rendezvous.sender.ask(request);
        self.operations.reserve(reserved);
        self.send_frame(to, frame::imm(frame::RTS, 0), rts.len(), |body| write_bytes(body, &rts), true);
    }

    /// Sends a message that is longer than its backend can send.
    pub(super) fn rendezvous_whole(&mut self, to: Pe, tag: Tag, message: RegBuf) {
        self.send_rts(to, tag, message, Vec::new(), false);
    }

    /// Chooses where an offer's payloads arrive, in order. `None`, or a destination of another length, stands for pooled memory. The
    /// message follows as [`PortEvent::Message`], with the destinations as its payloads.
    pub fn accept(&mut self, id: OfferId, destinations: Vec<Option<RegBuf>>) {
        self.answer(id.0, destinations);
    }

    fn answer(&mut self, id: u64, destinations: Vec<Option<RegBuf>>) {
        let Some(offered) = self.inner.rendezvous.receiver.take_offer(id) else { return };
        let mut destinations: VecDeque<Option<RegBuf>> = destinations.into();
        let Offered { from, tag, head, sizes, head_follows, source } = offered;
        let theirs = match source {
            Source::Peer(theirs) => theirs,
            Source::Own(payloads) => return self.deliver_own(tag, head, payloads, destinations),
        };
        let (mut parts, mut keys) = (Vec::new(), Vec::new());
        for &size in &sizes {
            let destination = destinations.pop_front().flatten().filter(|l| l.len() as u64 == size);
            let Some((part, key)) = self.destination(from, size, destination) else {
                return self.refuse(from, theirs, parts);
            };
            parts.push(part);
            keys.push(key);
        }
        let head = (!head_follows).then_some(head);
        let bytes = sizes.iter().sum::<u64>().wrapping_add(head.as_ref().map_or(0, |head| head.len() as u64));
        match self.inner.rendezvous.receiver.expect((from, tag), head, bytes, parts) {
            Ok(slot) => {
                let cts = Cts { id: theirs, slot, destinations: keys }.encode();
                self.control(from, frame::imm(frame::CTS, 0), &cts);
            }
            Err(NoSlot(parts)) => self.refuse(from, theirs, parts),
        }
    }

    /// Refuses an offer; `parts` were prepared for it.
    fn refuse(&mut self, from: Pe, theirs: u64, parts: Vec<Part>) {
        for part in parts {
            if let Part::Window(window) = part {
                drop(self.ends.to(self.pe, from).unexpose(window));
            }
        }
        self.control(from, frame::imm(frame::REFUSE, 0), &theirs.to_le_bytes());
    }

    /// Delivers an offer of this PE to itself.
    fn deliver_own(&mut self, tag: Tag, head: Msg, mut payloads: Vec<RegBuf>, destinations: VecDeque<Option<RegBuf>>) {
        for (payload, destination) in payloads.iter_mut().zip(destinations) {
            if let Some(mut destination) = destination.filter(|destination| destination.len() == payload.len()) {
                destination.copy_from_slice(payload);
                *payload = destination;
            }
        }
        self.deliver_here(tag, head, payloads);
    }

    /// Memory for a payload of `from`, and how it is named to `from`. `None`: there is not enough.
    fn destination(&mut self, from: Pe, size: u64, destination: Option<RegBuf>) -> Option<(Part, Destination)> {
        let len = usize::try_from(size).ok()?;
        let can_hand = self.can_hand(from, len);
        let window = match destination {
            None if can_hand => return Some((Part::Hand(None), Destination::Hand)),
            None => {
                let end = self.ends.to(self.pe, from);
                let memory = match end.alloc(len) {
                    Some(memory) => memory,
                    None => RegBuf::try_heap(len)?,
                };
                end.expose(memory)
            }
            Some(destination) => self.ends.to(self.pe, from).expose(destination),
        };
        match window {
            Ok(window) => {
                let key = Destination::Put(window.key.clone());
                Some((Part::Window(window), key))
            }
            Err((_, destination)) if can_hand => Some((Part::Hand(Some(destination)), Destination::Hand)),
            Err((error, _)) => {
                tracing::warn!(%error, size, "a destination cannot be exposed");
                None
            }
        }
    }

    /// Does what a frame asked for.
    pub(super) fn act(&mut self, action: Action) -> Result<(), TransportError> {
        match action {
            Action::Answer(id) => self.answer(id, Vec::new()),
            Action::Transfer(cleared) => self.transfer(cleared)?,
            Action::Refund(refused) => self.refund(refused),
            Action::Deliver(arriving) => self.deliver(arriving),
        }
        Ok(())
    }

    /// Sends the payloads of a message that the receiver cleared.
    fn transfer(&mut self, cleared: Cleared) -> Result<(), TransportError> {
        let Cleared { to, slot, transfers, reserved } = cleared;
        self.operations.unreserve(reserved);
        for (part, (payload, destination)) in transfers.into_iter().enumerate() {
            match destination {
                Destination::Hand if self.can_hand(to, payload.len()) => {
                    self.send_buf(to, frame::imm(frame::HANDED, slot), payload, false);
                }
                Destination::Hand => {
                    let (what, detail) = ("a CTS for a message that this backend cannot send", payload.len() as u64);
                    return Err(TransportError::Protocol { from: to, what, detail });
                }
                Destination::Put(key) => {
                    let target = Target::payload(slot, part);
                    self.queue_put(to, payload, (&Rc::new(key), target), 0, frame::imm(frame::FIN, slot));
                }
            }
        }
        self.flush_puts()
    }

    fn refund(&mut self, refused: Refused) {
        let Refused { to, tag, head, bytes, reserved } = refused;
        self.operations.unreserve(reserved);
        self.inner.accounts.refund(to, tag.charge().cost(bytes));
        self.early.push_back(PortEvent::Refused { to, tag, head, bytes });
    }

    /// Delivers a message whose payloads have all ended. If one found no memory, the message is dropped, and its sender reports it.
    fn deliver(&mut self, arriving: Arriving) {
        let Arriving { from, tag, head, parts, bytes, missed, .. } = arriving;
        let mut payloads = Vec::new();
        for part in parts {
            match part {
                Part::Window(window) => payloads.push(self.ends.to(self.pe, from).unexpose(window)),
                Part::Here(payload) => payloads.push(payload),
                Part::Hand(_) => unreachable!("all payloads have ended"),
            }
        }
        if missed {
            let head = head.as_deref().or(payloads.first().map(|payload| &**payload));
            self.inner.owe(from, tag.charge().cost(bytes));
            return self.send_nack(from, tag, head, bytes);
        }
        let msg = head.unwrap_or_else(|| payloads.remove(0).into());
        let reach = self.layout.reach(self.pe, from);
        self.inner.message(reach, (from, tag, tag.charge()), msg, payloads, &mut self.early);
    }

    /// Tells the sender of a message that there is no memory for it.
    pub(super) fn send_nack(&mut self, to: Pe, tag: Tag, head: Option<&[u8]>, len: u64) {
        let nack = frame::Nack { tag: tag.0, len, head: head.unwrap_or_default() }.encode();
        self.control(to, frame::imm(frame::NACK, 0), &nack);
    }
}
