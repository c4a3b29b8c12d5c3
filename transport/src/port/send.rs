//! Sends: the direct path for small messages to peers of this host, and all other paths.

use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use super::credit::Charge;
use super::frame::{self, Eager};
use super::held::Held;
use super::inner::Inner;
use super::operations::Operation;
use super::rendezvous::{Offered, Source};
use super::{Fate, Incoming, Port, PortEvent, Route, Tag};
use crate::shmem::{self, ShmemEndpoint};
use charm4rs_transport_core::fast_path::FastPath;
use charm4rs_transport_core::memory::write_bytes;
use charm4rs_transport_core::ring::BODY_MAX;
use charm4rs_transport_core::{Imm, Msg, Pe, PostError, Posted, RegBuf, TransportError};

/// A message that found no capacity.
#[derive(Debug)]
pub(super) struct Queued {
    imm: Imm,
    buf: RegBuf,
    /// Polls (or rounds of a waiting send) before it is sent.
    delay: u32,
    since: Instant,
}

/// After how long a waiting send is reported.
const STALL: Duration = Duration::from_secs(10);
/// How often a waiting send checks again before it lets other threads run.
const SPINS: u32 = 64;
/// A send that has waited this long sleeps briefly in each round.
const NAP_AFTER: Duration = Duration::from_millis(1);
const NAP: Duration = Duration::from_micros(50);

/// After how many checks of the backlog its age is checked.
const FLUSHES: u32 = 1024;

/// The state of a waiting send.
#[derive(Debug, Default)]
pub(super) struct Wait {
    rounds: u32,
    /// When it began to let other threads run.
    pub(super) since: Option<Instant>,
}

/// Sends a small message to a peer of this host, if there are credit and space for it; otherwise gives `fill` back.
#[inline(always)]
fn send_shmem<L: shmem::Lane, F: FnOnce(&mut [MaybeUninit<u8>])>(
    shmem: &mut Option<ShmemEndpoint<L>>,
    inner: &mut Inner,
    route: Route,
    (to, imm, cost): (Pe, Imm, u64),
    len: usize,
    fill: F,
) -> Result<(), F> {
    let Some(shmem) = shmem else { return Err(fill) };
    if !inner.accounts.charge(to, cost) {
        return Err(fill);
    }
    shmem.try_send(to, imm, len, fill).map(|()| inner.counters.sent[route as usize].add(len as u64)).inspect_err(|_| {
        inner.accounts.refund(to, cost);
    })
}

impl Port {
    /// Sends a message of `len` bytes that `fill` writes (all of them). Any length. It never fails, and never blocks without end:
    /// if the peer has no space, or this PE no credit, it receives meanwhile, without delivering. An error comes out of the next poll.
    #[inline]
    pub fn send(&mut self, to: Pe, tag: Tag, len: usize, fill: impl FnOnce(&mut [MaybeUninit<u8>])) {
        self.send_charged(to, tag, tag.charge(), len, fill);
    }

    /// As [`Port::send`], for a message that may own memory besides its bytes. To a PE of the same process that memory counts; to others, where
    /// nothing is moved, it does not.
    #[inline]
    pub fn send_charged(
        &mut self,
        to: Pe,
        tag: Tag,
        charge: Charge,
        len: usize,
        fill: impl FnOnce(&mut [MaybeUninit<u8>]),
    ) {
        debug_assert!(tag.0 < frame::FIRST, "tags from 0xF0 on are the port's own");
        debug_assert!(charge.is_heavy() || charge == tag.charge());
        let mut fill = fill;
        if len <= BODY_MAX && self.plain && !charge.is_heavy() {
            let (imm, cost, inner) = (frame::imm(tag.0, 0), charge.cost(len as u64), &mut self.inner);
            let sent = match self.ends.route(self.pe, to) {
                Route::Local => send_shmem(&mut self.ends.local, inner, Route::Local, (to, imm, cost), len, fill),
                Route::Shm => send_shmem(&mut self.ends.shm, inner, Route::Shm, (to, imm, cost), len, fill),
                Route::Loopback | Route::Net => Err(fill),
            };
            match sent {
                Ok(()) => return,
                Err(unused) => fill = unused,
            }
        }
        self.send_otherwise(to, (tag, charge), len, fill);
    }

    /// Sends a message with payloads out of band; across a network small ones are part of it. With `offer` the receiver says where they go;
    /// otherwise they arrive in pooled memory.
    pub fn send_payloads(
        &mut self,
        to: Pe,
        tag: Tag,
        len: usize,
        fill: impl FnOnce(&mut [MaybeUninit<u8>]),
        payloads: Vec<RegBuf>,
        offer: bool,
    ) {
        if payloads.is_empty() {
            return self.send(to, tag, len, fill);
        }
        debug_assert!(!tag.is_system(), "system messages have no payloads");
        let n = payloads.len();
        assert!(n <= frame::PAYLOADS_MAX, "{n} payloads in one message");
        let route = self.ends.route(self.pe, to);
        let bytes = payloads.iter().map(|p| p.len() as u64).sum::<u64>();
        self.inner.counters.sent[route as usize].add(bytes + len as u64);
        if route == Route::Loopback {
            let head = Msg::fill(&self.inner.slab, len, fill);
            if offer {
                let sizes = payloads.iter().map(|p| p.len() as u64).collect();
                let source = Source::Own(payloads);
                let offered = Offered { from: to, tag, head, sizes, head_follows: false, source };
                let id = self.inner.rendezvous.receiver.offer(offered);
                self.inner.show_offer(id, &mut self.early);
            } else {
                self.deliver_here(tag, head, payloads);
            }
            return;
        }
        if self.is_too_long(route, bytes + len as u64) {
            return self.refuse_too_long(to, tag, len, fill, bytes + len as u64);
        }
        match self.fate(to, tag, len) {
            Fate::Drop | Fate::Kill => return,
            Fate::Pass | Fate::Delay(_) => {}
        }
        let charge = tag.charge();
        if !self.admit(to, charge.cost(bytes + len as u64)) {
            return self.hold(to, Held { tag, charge, head: filled(len, fill), payloads, offer });
        }
        if route == Route::Net && self.operations.has_much() {
            self.ease(to);
        }
        self.transmit(to, (tag, charge), len, fill, payloads, offer);
    }

    /// Sends a message that has been charged, by the right protocol for it.
    pub(super) fn transmit(
        &mut self,
        to: Pe,
        (tag, charge): (Tag, Charge),
        len: usize,
        fill: impl FnOnce(&mut [MaybeUninit<u8>]),
        payloads: Vec<RegBuf>,
        offer: bool,
    ) {
        let (route, n) = (self.ends.route(self.pe, to), payloads.len());
        if payloads.is_empty() {
            return self.send_frame(to, frame::imm(tag.0, Self::weighed(route, charge)), len, fill, true);
        }
        let whole = Eager::len(len, &payloads).filter(|_| route == Route::Net && !offer);
        if let Some(whole) = whole.filter(|&whole| whole <= self.ends.to(self.pe, to).caps().inject_max) {
            let imm = frame::imm(frame::EAGER, 0);
            self.send_frame(to, imm, whole, |body| Eager::write(body, tag.0, &payloads, fill), true);
        } else if !offer && payloads.iter().all(|p| self.can_hand(to, p.len())) && self.can_hand(to, len) {
            for payload in payloads {
                self.send_buf(to, frame::imm(frame::PAYLOAD, 0), payload, true);
            }
            self.send_frame(to, frame::imm(tag.0, n), len, fill, true);
        } else {
            self.send_rts(to, tag, filled(len, fill), payloads, offer);
        }
    }

    /// Whether a message has more bytes, with its payloads, than may pass between processes.
    fn is_too_long(&self, route: Route, bytes: u64) -> bool {
        bytes > self.options.message_max && matches!(route, Route::Shm | Route::Net)
    }

    /// A message that is too long comes back to its sender, like one for which there is no memory.
    #[cold]
    fn refuse_too_long(&mut self, to: Pe, tag: Tag, len: usize, fill: impl FnOnce(&mut [MaybeUninit<u8>]), bytes: u64) {
        let head = RegBuf::try_heap(len).map_or_else(Box::default, |mut buf| {
            buf.fill_with(fill);
            buf[..len.min(frame::Nack::HEAD_MAX)].into()
        });
        self.early.push_back(PortEvent::Refused { to, tag, head, bytes });
    }

    /// Whether a payload of `len` bytes can be sent ahead to `to`, without a destination.
    pub(super) fn can_hand(&mut self, to: Pe, len: usize) -> bool {
        let caps = self.ends.to(self.pe, to).caps();
        caps.handover && caps.ordered && len <= caps.send_max
    }

    /// Delivers a message to this PE itself.
    pub(super) fn deliver_here(&mut self, tag: Tag, msg: Msg, payloads: Vec<RegBuf>) {
        let bytes = msg.len() as u64 + payloads.iter().map(|p| p.len() as u64).sum::<u64>();
        self.inner.counters.received[Route::Loopback as usize].add(bytes);
        self.early.push_back(PortEvent::Message(Incoming::own(self.pe, tag, msg, payloads.into())));
    }

    #[cold]
    fn fate(&mut self, to: Pe, tag: Tag, len: usize) -> Fate {
        let Some(faults) = &self.options.faults else { return Fate::Pass };
        let fate = faults.fate(self.pe, to, tag, len);
        if fate == Fate::Kill {
            self.fatal = Some(TransportError::PeerDown { pe: to, why: "a fault was injected" });
        }
        fate
    }

    #[cold]
    #[inline(never)]
    fn send_otherwise(
        &mut self,
        to: Pe,
        (tag, charge): (Tag, Charge),
        len: usize,
        fill: impl FnOnce(&mut [MaybeUninit<u8>]),
    ) {
        let route = self.ends.route(self.pe, to);
        // A weight is sent only where arguments are moved.
        let charge = if route == Route::Local { charge } else { tag.charge() };
        self.inner.counters.sent[route as usize].add(len as u64);
        if route == Route::Loopback {
            let msg = Msg::fill(&self.inner.slab, len, fill);
            return self.deliver_here(tag, msg, Vec::new());
        }
        if self.is_too_long(route, len as u64) {
            return self.refuse_too_long(to, tag, len, fill, len as u64);
        }
        let cost = charge.cost(len as u64);
        match self.fate(to, tag, len) {
            Fate::Pass if self.admit(to, cost) => self.transmit(to, (tag, charge), len, fill, Vec::new(), false),
            Fate::Pass => {
                let held = Held { tag, charge, head: filled(len, fill), payloads: Vec::new(), offer: false };
                self.hold(to, held);
            }
            Fate::Drop | Fate::Kill => {}
            Fate::Delay(polls) => {
                self.inner.accounts.charge_anyway(to, cost);
                self.queue(to, frame::imm(tag.0, Self::weighed(route, charge)), filled(len, fill), polls);
            }
        }
    }

    /// Sends a message of any length. If there is no capacity it waits, if allowed, or goes to the backlog.
    pub(super) fn send_frame<F: FnOnce(&mut [MaybeUninit<u8>])>(
        &mut self,
        to: Pe,
        imm: Imm,
        len: usize,
        fill: F,
        may_wait: bool,
    ) {
        let small = match self.ends.route(self.pe, to) {
            Route::Net => self.ends.to(self.pe, to).caps().inject_max,
            _ => BODY_MAX,
        };
        if len > small {
            let mut buf = self.alloc_for(to, len);
            buf.fill_with(fill);
            return self.send_buf(to, imm, buf, may_wait);
        }
        let (mut fill, mut wait) = (Some(fill), Wait::default());
        loop {
            if self.clear_for(to) {
                match self.try_small(to, imm, len, &mut fill) {
                    Ok(()) => return,
                    Err(PostError::Busy(())) => {}
                    Err(_) => return self.lost(to),
                }
            }
            if !(may_wait && self.wait(&mut wait, to)) {
                break;
            }
        }
        let mut buf = RegBuf::heap(len);
        if let Some(fill) = fill {
            buf.fill_with(fill);
        }
        self.queue(to, imm, buf, 0);
    }

    fn try_small<F: FnOnce(&mut [MaybeUninit<u8>])>(
        &mut self,
        to: Pe,
        imm: Imm,
        len: usize,
        fill: &mut Option<F>,
    ) -> Result<(), PostError<()>> {
        self.ends.to(self.pe, to).inject(to, imm, len, &mut |body| {
            let fill = fill.take().expect("a body is filled once");
            fill(body);
        })
    }

    /// A buffer that the backend to `to` sends at the lowest cost.
    fn alloc_for(&mut self, to: Pe, len: usize) -> RegBuf {
        match self.ends.route(self.pe, to) {
            Route::Net => self.ends.to(self.pe, to).alloc(len).unwrap_or_else(|| RegBuf::heap(len)),
            _ => self.alloc(len),
        }
    }

    /// Sends a buffer.
    pub(super) fn send_buf(&mut self, to: Pe, mut imm: Imm, mut buf: RegBuf, may_wait: bool) {
        if buf.len() > self.ends.to(self.pe, to).caps().send_max {
            // Only messages without payloads: for others the receiver was asked for destinations at once.
            return self.rendezvous_whole(to, Tag(frame::tag(imm)), buf);
        }
        let mut wait = Wait::default();
        loop {
            if self.clear_for(to) {
                match self.post(to, &mut imm, buf) {
                    Ok(()) => return,
                    Err(back) => buf = back,
                }
            }
            if !(may_wait && self.wait(&mut wait, to)) {
                return self.queue(to, imm, buf, 0);
            }
        }
    }

    /// Posts a buffer. If there is no capacity it gives back the buffer, or, if there is no memory to send it, the
    /// notice that replaces it.
    fn post(&mut self, to: Pe, imm: &mut Imm, mut buf: RegBuf) -> Result<(), RegBuf> {
        let (route, mut len) = (self.ends.route(self.pe, to), buf.len());
        let op = self.operations.next();
        let mut posted = self.ends.to(self.pe, to).send(to, *imm, buf, op);
        if let Err(PostError::NoMemory(whole)) = posted {
            if let Err(error) = self.inner.came_back(to, *imm, &whole, &mut self.early) {
                self.fatal.get_or_insert(error);
                return Ok(());
            }
            buf = RegBuf::copy_of(&frame::Missed { imm: *imm, len: len as u64 }.encode());
            *imm = frame::imm(frame::MISSED, 0);
            len = buf.len();
            drop(whole);
            posted = self.ends.to(self.pe, to).send(to, *imm, buf, op);
        }
        match posted {
            Ok(posted) => {
                if posted == Posted::Pending {
                    let network_bytes = if route == Route::Net { len as u64 } else { 0 };
                    self.operations.begin(Operation { message: Some(*imm), network_bytes });
                }
                Ok(())
            }
            Err(PostError::Busy(buf)) => Err(buf),
            Err(PostError::PeerDown(..)) => {
                self.lost(to);
                Ok(())
            }
            Err(PostError::TooLarge { max, .. }) => unreachable!("{len} bytes were compared to the limit of {max}"),
            Err(PostError::BadKey(_)) => unreachable!("a message has no key"),
            Err(PostError::NoMemory(_)) => unreachable!("a notice is small"),
        }
    }

    pub(super) fn lost(&mut self, to: Pe) {
        self.fatal.get_or_insert(TransportError::PeerDown { pe: to, why: "it accepts no more messages" });
    }

    fn queue(&mut self, to: Pe, imm: Imm, buf: RegBuf, delay: u32) {
        self.inner.counters.backlogged += 1;
        self.plain = false;
        self.backlog.entry(to).or_default().push_back(Queued { imm, buf, delay, since: Instant::now() });
    }

    /// Whether nothing for `to` is in the backlog, which it tries to send first.
    pub(super) fn clear_for(&mut self, to: Pe) -> bool {
        self.backlog.is_empty() || self.flush_to(to, false)
    }

    /// Sends as much of the backlog as it can. `polled`: a poll has passed.
    pub(super) fn flush(&mut self, polled: bool) {
        let peers: Vec<Pe> = self.backlog.keys().copied().collect();
        for to in peers {
            self.flush_to(to, polled);
        }
        self.flushes = self.flushes.wrapping_add(1);
        if self.flushes.is_multiple_of(FLUSHES) {
            let backlog = self.backlog.iter().filter_map(|(to, queue)| Some((*to, queue.front()?.since)));
            let held = self.held.iter().filter_map(|(to, queue)| Some((*to, queue.since()?)));
            let oldest: Vec<_> = backlog.chain(held).collect();
            oldest.into_iter().for_each(|(to, since)| self.report_stall(to, since));
        }
    }

    /// Reports that a peer receives no messages, if a message has waited for it for long.
    fn report_stall(&mut self, to: Pe, since: Instant) {
        if since.elapsed() > STALL && self.stalled.insert(to) {
            let seconds = STALL.as_secs();
            let text =
                format!("PE {} has waited for {seconds} s to send to PE {to}, which receives no messages", self.pe);
            self.options.notices.tell(text);
        }
    }

    /// Sends as much of the backlog for `to` as it can, in order. Returns whether that was all.
    fn flush_to(&mut self, to: Pe, polled: bool) -> bool {
        let Some(mut queue) = self.backlog.remove(&to) else { return true };
        while let Some(mut queued) = queue.pop_front() {
            if queued.delay > 0 {
                queued.delay -= u32::from(polled);
            } else {
                match self.post(to, &mut queued.imm, queued.buf) {
                    Ok(()) => continue,
                    Err(back) => queued.buf = back,
                }
            }
            queue.push_front(queued);
            self.backlog.insert(to, queue);
            return false;
        }
        self.note_plain();
        true
    }

    /// Makes some progress, since much is in flight. Otherwise a burst of payloads would start to leave only when its sender has finished it,
    /// and by then they would no longer be in any cache. It does not take long, and is not repeated while nothing moves: the sender may have better work
    /// than to wait for a peer that computes.
    #[cold]
    fn ease(&mut self, to: Pe) {
        let rounds = if self.operations.set_stuck() { 1 } else { SPINS - 1 };
        let mut wait = Wait::default();
        for _ in 0..rounds {
            if !self.operations.has_much() || !self.wait(&mut wait, to) {
                break;
            }
        }
    }

    /// Waits briefly for capacity at `to`, and receives meanwhile. `false`: do not wait, use the backlog.
    #[cold]
    pub(super) fn wait(&mut self, wait: &mut Wait, to: Pe) -> bool {
        if !self.options.may_block || self.waiting.forbidden || self.fatal.is_some() {
            return false;
        }
        let mut early = std::mem::take(&mut self.early);
        let received =
            self.receive_shmem(&mut early, SPINS as usize).and_then(|_| self.receive_net(&mut early, SPINS as usize));
        early.append(&mut self.early);
        self.early = early;
        if let Err(error) = received.and_then(|_| self.run_todo()) {
            self.fatal = Some(error);
            return false;
        }
        if !self.backlog.is_empty() {
            self.flush(true);
        }
        wait.rounds = wait.rounds.wrapping_add(1);
        if !wait.rounds.is_multiple_of(SPINS) {
            std::hint::spin_loop();
            return true;
        }
        std::thread::yield_now();
        let since = *wait.since.get_or_insert_with(|| {
            self.inner.counters.waits += 1;
            Instant::now()
        });
        if since.elapsed() > NAP_AFTER {
            std::thread::sleep(NAP);
        }
        self.report_stall(to, since);
        true
    }

    /// Sends a frame of the port itself. Never waits.
    pub(super) fn control(&mut self, to: Pe, imm: Imm, bytes: &[u8]) {
        self.send_frame(to, imm, bytes.len(), |body| write_bytes(body, bytes), false);
    }
}

/// A buffer of `len` bytes that `fill` writes.
fn filled(len: usize, fill: impl FnOnce(&mut [MaybeUninit<u8>])) -> RegBuf {
    let mut buf = RegBuf::heap(len);
    buf.fill_with(fill);
    buf
}
