//! The receiving half of a rendezvous: offers that have no answer yet, and messages whose payloads arrive.
//!
//! An offer enters with [`Receiver::on_rts`] and leaves with [`Receiver::take_offer`], when its destinations are chosen. If there is memory for them, the
//! message takes a *slot* ([`Receiver::expect`]), whose number goes out in the CTS. Each payload ends with one frame that names the slot:
//! [`Receiver::on_fin`], [`Receiver::on_handed`] or [`Receiver::on_missed`]. The last of them frees the slot and returns the message.
//!
//! A frame counts only if it comes from the sender of the RTS, and only as often as payloads of its kind are outstanding.

use std::collections::HashMap;

use super::super::frame::{self, Rts};
use super::super::{Offer, OfferId, Tag};
use charm4rs_transport_core::memory::{Slab, write_bytes};
use charm4rs_transport_core::{Msg, Pe, RegBuf, TransportError, Window};

/// An offer that has no answer yet.
#[derive(Debug)]
pub(in crate::port) struct Offered {
    pub(in crate::port) from: Pe,
    pub(in crate::port) tag: Tag,
    pub(in crate::port) head: Msg,
    pub(in crate::port) sizes: Vec<u64>,
    /// Whether the first payload is the message itself.
    pub(in crate::port) head_follows: bool,
    pub(in crate::port) source: Source,
}

/// Where an offer's payloads are.
#[derive(Debug)]
pub(in crate::port) enum Source {
    /// At the sender, which names the offer so.
    Peer(u64),
    /// Here: the PE has sent the message to itself.
    Own(Vec<RegBuf>),
}

/// A payload on its way.
#[derive(Debug)]
pub(in crate::port) enum Part {
    /// It is put into a window.
    Window(Window),
    /// It comes as a message. If the user has chosen a destination, that gets a copy.
    Hand(Option<RegBuf>),
    /// It came as a message.
    Here(RegBuf),
}

/// A message whose payloads arrive.
#[derive(Debug)]
pub(in crate::port) struct Arriving {
    pub(in crate::port) from: Pe,
    pub(in crate::port) tag: Tag,
    /// `None`: the first payload is the message itself.
    pub(in crate::port) head: Option<Msg>,
    pub(in crate::port) parts: Vec<Part>,
    /// Bytes of the whole message.
    pub(in crate::port) bytes: u64,
    /// Whether there was no memory for a payload: then the message is dropped when all have ended.
    pub(in crate::port) missed: bool,
    /// Payloads that have not ended: those that are put, and those that come as messages.
    puts_left: usize,
    hands_left: usize,
}

/// See the module's text.
#[derive(Default, Debug)]
pub(in crate::port) struct Receiver {
    next: u64,
    offers: HashMap<u64, Offered>,
    /// `None`: the slot is free.
    slots: Vec<Option<Arriving>>,
    free: Vec<usize>,
}

/// There are as many messages on their way as an immediate can number.
#[derive(Debug)]
pub(super) struct NoSlot(pub(super) Vec<Part>);

impl Receiver {
    /// An RTS arrived. Returns the offer's number, and whether the user chooses the destinations.
    pub(in crate::port) fn on_rts(&mut self, from: Pe, rts: Rts<'_>, slab: &Slab) -> (u64, bool) {
        let head = Msg::fill(slab, rts.head.len(), |to| write_bytes(to, rts.head));
        let user_chooses = rts.offer && !rts.head_follows;
        let (tag, source) = (Tag(rts.tag), Source::Peer(rts.id));
        let offered = Offered { from, tag, head, sizes: rts.sizes, head_follows: rts.head_follows, source };
        (self.offer(offered), user_chooses)
    }

    /// Keeps an offer. Returns its number.
    pub(in crate::port) fn offer(&mut self, offered: Offered) -> u64 {
        let id = self.next;
        self.next += 1;
        self.offers.insert(id, offered);
        id
    }

    /// What the user sees of an offer.
    pub(in crate::port) fn shown(&self, id: u64, slab: &Slab) -> Option<Offer> {
        let Offered { from, tag, head, sizes, .. } = self.offers.get(&id)?;
        let head = Msg::fill(slab, head.len(), |to| write_bytes(to, head));
        Some(Offer { id: OfferId(id), from: *from, tag: *tag, head, sizes: sizes.clone() })
    }

    /// The offer's destinations are chosen: it leaves the table. `None`: it has been answered.
    pub(super) fn take_offer(&mut self, id: u64) -> Option<Offered> {
        self.offers.remove(&id)
    }

    /// Takes a slot for a message whose payloads arrive as `parts` say.
    pub(super) fn expect(
        &mut self,
        (from, tag): (Pe, Tag),
        head: Option<Msg>,
        bytes: u64,
        parts: Vec<Part>,
    ) -> Result<u32, NoSlot> {
        let place = self.free.last().copied().unwrap_or(self.slots.len());
        let Some(slot) = u32::try_from(place).ok().filter(|_| place <= frame::ARG_MAX) else {
            return Err(NoSlot(parts));
        };
        let hands_left = parts.iter().filter(|part| matches!(part, Part::Hand(_))).count();
        let puts_left = parts.len() - hands_left;
        let arriving = Arriving { from, tag, head, parts, bytes, missed: false, puts_left, hands_left };
        if self.free.pop().is_some() {
            self.slots[place] = Some(arriving);
        } else {
            self.slots.push(Some(arriving));
        }
        Ok(slot)
    }

    fn arriving(&mut self, from: Pe, slot: usize) -> Result<&mut Arriving, TransportError> {
        let found = self.slots.get_mut(slot).and_then(Option::as_mut).filter(|arriving| arriving.from == from);
        found.ok_or(TransportError::Protocol { from, what: "a payload without a message", detail: slot as u64 })
    }

    /// A FIN arrived: the put of a payload is complete. Returns the message if that was the last one.
    pub(in crate::port) fn on_fin(&mut self, from: Pe, slot: usize) -> Result<Option<Arriving>, TransportError> {
        let arriving = self.arriving(from, slot)?;
        let Some(left) = arriving.puts_left.checked_sub(1) else {
            let what = "the end of a put that was not expected";
            return Err(TransportError::Protocol { from, what, detail: slot as u64 });
        };
        arriving.puts_left = left;
        Ok(self.completed(slot))
    }

    /// A payload arrived as a message. Payloads come in order. Returns the message if that was the last one.
    pub(in crate::port) fn on_handed(
        &mut self,
        from: Pe,
        slot: usize,
        payload: RegBuf,
        copies: &mut u64,
    ) -> Result<Option<Arriving>, TransportError> {
        let arriving = self.arriving(from, slot)?;
        let Some((left, part)) = arriving
            .hands_left
            .checked_sub(1)
            .zip(arriving.parts.iter_mut().find(|part| matches!(part, Part::Hand(_))))
        else {
            let what = "a payload that was not expected as a message";
            return Err(TransportError::Protocol { from, what, detail: slot as u64 });
        };
        arriving.hands_left = left;
        let destination = match std::mem::replace(part, Part::Hand(None)) {
            Part::Hand(destination) => destination,
            Part::Window(_) | Part::Here(_) => None,
        };
        *part = Part::Here(match destination {
            Some(mut destination) if destination.len() == payload.len() => {
                destination.copy_from_slice(&payload);
                *copies += 1;
                destination
            }
            _ => payload,
        });
        Ok(self.completed(slot))
    }

    /// In place of a payload that found no memory, here or at the sender.
    pub(in crate::port) fn on_missed(&mut self, from: Pe, slot: usize) -> Result<Option<Arriving>, TransportError> {
        self.arriving(from, slot)?.missed = true;
        self.on_handed(from, slot, RegBuf::heap(0), &mut 0)
    }

    /// Bytes of a put arrived as a message. Whether the key is that of the payload's window, and the bytes lie inside.
    pub(in crate::port) fn write(&mut self, from: Pe, (slot, part): (u32, u32), write: &frame::Write<'_>) -> bool {
        let part = self.arriving(from, slot as usize).ok().and_then(|arriving| arriving.parts.get_mut(part as usize));
        match part {
            Some(Part::Window(window)) if window.key == write.key => window.write(write.offset, write.bytes),
            _ => false,
        }
    }

    /// Frees a slot whose payloads have all ended, and returns its message.
    fn completed(&mut self, slot: usize) -> Option<Arriving> {
        let arriving = self.slots.get_mut(slot)?;
        if arriving.as_ref().is_some_and(|arriving| arriving.puts_left + arriving.hands_left > 0) {
            return None;
        }
        self.free.push(slot);
        arriving.take()
    }

    /// Offers without an answer, and messages whose payloads arrive.
    #[cfg(test)]
    pub(in crate::port) fn counts(&self) -> [usize; 2] {
        [self.offers.len(), self.slots.iter().flatten().count()]
    }
}
