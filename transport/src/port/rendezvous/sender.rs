//! The sending half of a rendezvous: messages whose payloads wait for a CTS.
//!
//! A message enters with [`Sender::ask`] and leaves with the receiver's answer: [`Sender::on_cts`] or [`Sender::on_refuse`]. An answer counts only if it
//! comes from the receiver of the RTS.

use std::collections::BTreeMap;

use super::super::Tag;
use super::super::frame::{self, Cts, Destination, Rts};
use charm4rs_transport_core::{Pe, RegBuf, TransportError};

/// A message whose payloads wait for a CTS.
#[derive(Debug)]
struct Waiting {
    to: Pe,
    tag: Tag,
    payloads: Vec<RegBuf>,
    /// The message's first bytes, for the report if it is refused.
    head: Box<[u8]>,
    /// Bytes of the whole message.
    bytes: u64,
    reserved: u64,
}

/// What to ask the receiver for.
#[derive(Debug)]
pub(in crate::port) struct Request {
    pub(in crate::port) to: Pe,
    pub(in crate::port) tag: Tag,
    pub(in crate::port) head: RegBuf,
    pub(in crate::port) payloads: Vec<RegBuf>,
    /// Whether the receiver's user chooses the destinations.
    pub(in crate::port) offer: bool,
    /// The longest head that fits into the RTS. A longer one travels as the first payload.
    pub(in crate::port) head_max: usize,
}

/// The receiver allows the transfer.
#[derive(Debug)]
pub(in crate::port) struct Cleared {
    pub(super) to: Pe,
    /// The receiver's number of the message.
    pub(super) slot: usize,
    /// Each payload, with the way it goes. Lengths fit.
    pub(super) transfers: Vec<(RegBuf, Destination)>,
    /// Bytes that were reserved for it.
    pub(super) reserved: u64,
}

/// The receiver has no memory for the message.
#[derive(Debug)]
pub(in crate::port) struct Refused {
    pub(super) to: Pe,
    pub(super) tag: Tag,
    pub(super) head: Box<[u8]>,
    pub(super) bytes: u64,
    pub(super) reserved: u64,
}

/// See the module's text.
#[derive(Default, Debug)]
pub(in crate::port) struct Sender {
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
}

impl Sender {
    /// Keeps the payloads of a message and returns its RTS frame, and the bytes to reserve on the network.
    pub(super) fn ask(&mut self, request: Request) -> (Vec<u8>, u64) {
        let Request { to, tag, head, mut payloads, offer, head_max } = request;
        let head_follows = head.len() > head_max;
        let bytes = payloads.iter().fold(head.len() as u64, |sum, payload| sum + payload.len() as u64);
        let first = head[..head.len().min(frame::Nack::HEAD_MAX)].into();
        let (inline, payloads) = if head_follows {
            payloads.insert(0, head);
            (None, payloads)
        } else {
            (Some(head), payloads)
        };
        let sizes: Vec<u64> = payloads.iter().map(|payload| payload.len() as u64).collect();
        // An offer waits for the receiver's user: progress of the network does not make it leave.
        let reserved = if offer { 0 } else { sizes.iter().sum() };
        let id = self.next;
        self.next += 1;
        let rts = Rts { id, tag: tag.0, offer, head_follows, sizes, head: inline.as_deref().unwrap_or_default() };
        let frame = rts.encode();
        self.waiting.insert(id, Waiting { to, tag, payloads, head: first, bytes, reserved });
        (frame, reserved)
    }

    /// A CTS arrived.
    pub(in crate::port) fn on_cts(&mut self, from: Pe, msg: &[u8]) -> Result<Cleared, TransportError> {
        let bad = |what| TransportError::Protocol { from, what, detail: msg.len() as u64 };
        let payloads =
            |id| self.waiting.get(&id).filter(|waiting| waiting.to == from).map(|waiting| waiting.payloads.len());
        let Cts { id, slot, destinations } =
            Cts::decode(msg, payloads).ok_or_else(|| bad("a CTS without an RTS of this PE"))?;
        let Waiting { to, payloads, reserved, .. } = self.waiting.remove(&id).expect("its payloads were just counted");
        let fits = |(payload, destination): (&RegBuf, &Destination)| match destination {
            Destination::Hand => true,
            Destination::Put(key) => key.len == payload.len() as u64,
        };
        if !payloads.iter().zip(&destinations).all(fits) {
            return Err(bad("a CTS whose destinations have other lengths than the payloads"));
        }
        let transfers = payloads.into_iter().zip(destinations).collect();
        Ok(Cleared { to, slot: slot as usize, transfers, reserved })
    }

    /// A REFUSE arrived.
    pub(in crate::port) fn on_refuse(&mut self, from: Pe, msg: &[u8]) -> Result<Refused, TransportError> {
        let bad =
            || TransportError::Protocol { from, what: "a refusal without an RTS of this PE", detail: msg.len() as u64 };
        let id = frame::decode_word(msg).ok_or_else(bad)?;
        self.waiting.get(&id).filter(|waiting| waiting.to == from).ok_or_else(bad)?;
        let Waiting { to, tag, head, bytes, reserved, .. } = self.waiting.remove(&id).ok_or_else(bad)?;
        Ok(Refused { to, tag, head, bytes, reserved })
    }

    /// A receiver that has not answered.
    pub(in crate::port) fn unanswered(&self) -> Option<Pe> {
        self.waiting.values().next().map(|waiting| waiting.to)
    }

    #[cfg(test)]
    pub(in crate::port) fn count(&self) -> usize {
        self.waiting.len()
    }
}
