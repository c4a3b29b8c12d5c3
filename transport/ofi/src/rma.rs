//! Puts and gets.
//!
//! # Permission
//! A provider refuses an access with a key that is closed or wrong; but tcp and verbs refuse it by closing the connection. So a put with such
//! a key must not be posted:
//! - The owner seals a key (`wire`): a forged key, or one that claims more than it covers, is refused where it is used.
//! - A *fresh* key, up to and including the first announced put with it, is used at once. The owner that gives a key away keeps its window open
//!   until then (the port does: it takes a receive window back when the announcement has come). If it does not, the device
//!   still refuses, no memory is touched, and the connection of the pair is lost.
//! - A key of a persistent window (`expose_for_long`) is always used at once: its owner keeps it open as long as any peer may put.
//! - For any other put, and for every get, the peer is asked first, by a message. So an origin that uses a window again learns from the window's owner that
//!   it was taken back.
//!
//! Posts to one peer keep their order, also while one of them waits for its answer.
//!
//! # Announcements
//! An announcement is a message after the put: 32 bits of remote completion data, which are all that a verbs device has, could hold the immediate but not the
//! origin. If the provider promises that a message does not overtake a put (`FI_ORDER_SAW`), the announcement follows at once. Otherwise it follows when all
//! earlier puts are complete, and then completion must mean that their bytes have arrived. A put without announcement always completes that late, since its
//! origin may tell the target in other ways that it is complete.
//!
//! # Short puts
//! A short put that is announced, and need not ask, is itself a message: its bytes come with the announcement, and the target copies them into its window.
//! That is one message instead of a put, the provider's answer to it if any, and a message. The put is complete as soon as the message has left. Its order
//! relative to earlier accesses that were not announced is undefined, as on a device: if they overlap, either may be the last.

use super::endpoint::OfiEndpoint;
use super::fi::{Errno, Post};
use super::link::{Control, Waiting};
use super::memory::{BY_MESSAGES, LASTS, is_limit};
use super::slots::{BODY, Rma};
use super::wire::{PacketKind, Question};
use charm4rs_transport_core::loopback;
use charm4rs_transport_core::memory::{RegBuf, write_bytes};
use charm4rs_transport_core::{Event, Imm, OpId, Pe, PostError, Posted, RemoteKey, TransportError, Window, WindowId};

/// Announced puts up to this length go as messages: three copies of so little cost less than an access followed by a message (measured over
/// tcp and shm; the costs are equal at about 6 KiB).
const FILL_MAX: usize = 4 << 10;
const _: () = assert!(FILL_MAX + Question::LEN <= BODY);

/// The errors of providers for an access that the peer's device refuses.
const REFUSALS: [i32; 6] = [libc::EACCES, libc::EPERM, libc::EKEYREJECTED, libc::EREMOTEIO, libc::EINVAL, 266];

impl OfiEndpoint {
    pub(super) fn open_window(&mut self, mut buf: RegBuf, lasts: bool) -> Result<Window, (TransportError, RegBuf)> {
        match self.windows.open(&self.lane, &mut buf, lasts) {
            Ok((key, raw)) => {
                let remote = self.shared.sealer.key(self.pe, buf.len() as u64, key, &raw);
                Ok(Window::new(WindowId(key.window), remote, buf))
            }
            Err(error) => Err((super::memory::no_registration(&self.lane, error, buf.len()), buf)),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a put has this many parameters")]
    pub(super) fn access(
        &mut self,
        to: Pe,
        buf: RegBuf,
        key: &RemoteKey,
        offset: u64,
        op: OpId,
        put: bool,
        imm: Option<Imm>,
    ) -> Result<Posted, PostError<RegBuf>> {
        let len = buf.len() as u64;
        if buf.len() > self.caps.put_max {
            return Err(PostError::TooLarge { max: self.caps.put_max, buf });
        }
        let inside = offset.checked_add(len).is_some_and(|end| end <= key.len);
        let Some((window, raw)) = self.shared.sealer.open(to, key).filter(|_| inside) else {
            return Err(PostError::BadKey(buf));
        };
        let question = Question { window: window.window, offset, len };
        if to == self.pe {
            let memory = self.windows.memory(question);
            return if put {
                loopback::put(memory, buf, to, imm, op, &mut self.ready)
            } else {
                loopback::get(memory, buf, op, &mut self.ready)
            };
        }
        let (index, buf) = self.open_link(to, buf)?;
        let link = &self.links[index];
        let lasts = window.window & LASTS != 0;
        let fresh = put && (lasts || !link.is_spent(window.window));
        if let Some(Imm(imm)) = imm
            && fresh
            && buf.len() <= FILL_MAX
            && !link.has_unsent()
            && link.waiting.is_empty()
            && (self.ordered || link.done == link.puts)
        {
            return self.fill(index, question, lasts, imm, buf);
        }
        if window.window & BY_MESSAGES != 0 && !buf.is_empty() {
            return Err(PostError::NoMemory(buf));
        }
        let Some(slot) = self.slots.take_rma() else { return Err(PostError::Busy(buf)) };
        let region = match self.sources.register(&self.lane, &buf) {
            Ok(region) => region,
            Err(error) => {
                self.slots.free(slot);
                if is_limit(error) {
                    return Err(PostError::NoMemory(buf));
                }
                let error = Box::new(super::memory::no_registration(&self.lane, error, buf.len()));
                self.ready.push(Event::Failed { op, buf: Some(buf), error });
                return Ok(Posted::Pending);
            }
        };
        let mut mapped = None;
        if self.lane.has_raw_keys() && !buf.is_empty() {
            match self.keys.of(&self.lane, index, window.window, raw) {
                Ok(key) => mapped = Some(key),
                Err(error) => {
                    self.slots.free(slot);
                    tracing::debug!(error = self.lane.describe(error), "fi_mr_map_raw");
                    return Err(PostError::BadKey(buf));
                }
            }
        }
        let link = &mut self.links[index];
        if fresh && imm.is_some() && !lasts {
            link.spend(window.window);
        }
        let number = u32::try_from(index).expect("links are counted in 32 bits");
        let there = (window.addr.wrapping_add(offset), mapped.as_ref().map_or(window.key, |mapped| mapped.key()));
        let rma = Rma { link: number, op, buf, put, number: 0, region, mapped };
        let delivered = imm.is_none() || !self.ordered;
        link.waiting.push_back(Waiting { slot, rma, there, imm, asked: !fresh, delivered });
        if fresh {
            self.flush_waiting(index);
            if self.links[index].has_unsent() {
                self.list(index);
            }
        } else {
            self.say(index, Control { question: Some(question), ..Control::of(PacketKind::Ask) });
        }
        Ok(Posted::Pending)
    }

    /// Sends a short put as a message.
    fn fill(
        &mut self,
        index: usize,
        place: Question,
        lasts: bool,
        imm: u32,
        buf: RegBuf,
    ) -> Result<Posted, PostError<RegBuf>> {
        let head = place.encode();
        let sent = self.message(index, PacketKind::Fill, imm, head.len() + buf.len(), &mut |body| {
            let (front, rest) = body.split_at_mut(head.len());
            write_bytes(front, &head);
            write_bytes(rest, &buf);
        });
        if !sent {
            return Err(PostError::Busy(buf));
        }
        if !lasts {
            self.links[index].spend(place.window);
        }
        Ok(Posted::Done)
    }

    /// Posts the waiting accesses of a link, in order, as far as they are allowed and there is capacity.
    pub(super) fn flush_waiting(&mut self, index: usize) {
        while self.links[index].waiting.front().is_some_and(|waiting| !waiting.asked) {
            let Some(to) = self.address(index) else { return self.lose(index, "its address cannot be used") };
            let link = &mut self.links[index];
            let Some(Waiting { slot, mut rma, there, imm, delivered, .. }) = link.waiting.pop_front() else { return };
            if rma.buf.is_empty() {
                self.slots.free(slot);
                self.ready.push(if rma.put {
                    Event::Sent { op: rma.op, buf: Some(rma.buf) }
                } else {
                    Event::Got { op: rma.op, buf: rma.buf }
                });
            } else {
                rma.number = link.puts + u64::from(rma.put);
                let put = rma.put;
                match self.slots.access(&self.lane, slot, to, there, delivered, rma) {
                    Ok(()) if put => _ = self.links[index].count_put(),
                    Ok(()) => {}
                    Err((Post::Failed(error), rma)) => {
                        self.slots.free(slot);
                        self.access_failed(rma, error);
                        continue;
                    }
                    Err((_, rma)) => {
                        let waiting = Waiting { slot, rma, there, imm, asked: false, delivered };
                        return self.links[index].waiting.push_front(waiting);
                    }
                }
            }
            if let Some(Imm(imm)) = imm {
                let after = self.links[index].puts;
                self.say(index, Control { imm, after, ..Control::of(PacketKind::Announce) });
            }
        }
    }

    /// The peer has answered the oldest question.
    pub(super) fn answered(&mut self, index: usize, granted: bool) -> Result<(), TransportError> {
        let link = &mut self.links[index];
        let pe = link.peer;
        let Some(at) = link.waiting.iter().position(|waiting| waiting.asked) else {
            return Err(TransportError::Protocol {
                from: pe,
                what: "an answer without a question",
                detail: u64::from(granted),
            });
        };
        if granted {
            link.waiting[at].asked = false;
        } else if let Some(waiting) = link.waiting.remove(at) {
            self.slots.free(waiting.slot);
            let error = Box::new(TransportError::WindowRefused { pe });
            self.ready.push(Event::Failed { op: waiting.rma.op, buf: Some(waiting.rma.buf), error });
        }
        self.flush_waiting(index);
        if self.links[index].has_unsent() {
            self.list(index);
        }
        Ok(())
    }

    /// An access is complete.
    pub(super) fn access_done(&mut self, rma: Rma) {
        let Rma { link, op, buf, put, number, .. } = rma;
        if put {
            self.ready.push(Event::Sent { op, buf: Some(buf) });
            let index = link as usize;
            self.links[index].mark_put(number);
            if !self.links[index].control.is_empty() {
                self.flush(index);
            }
        } else {
            self.ready.push(Event::Got { op, buf });
        }
    }

    #[cold]
    pub(super) fn access_failed(&mut self, rma: Rma, error: Errno) {
        let Rma { link, op, buf, put, number, .. } = rma;
        let index = link as usize;
        let pe = self.links[index].peer;
        if REFUSALS.contains(&error.0) {
            if put {
                self.links[index].mark_put(number);
            }
            let error = Box::new(TransportError::WindowRefused { pe });
            return self.ready.push(Event::Failed { op, buf: Some(buf), error });
        }
        let why = "its connection broke";
        let error = Box::new(TransportError::PeerDown { pe, why });
        self.ready.push(Event::Failed { op, buf: Some(buf), error });
        self.lose(index, why);
    }
}
