//! A simulated PE's end of the network: it implements the seam with calls to the [`World`]. Knows nothing of wires and time.

use std::cell::RefCell;
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::config::Mode;
use super::packet::{Head, Packet};
use super::world::{Health, World};
use charm4rs_transport_core::memory::Slab;
use charm4rs_transport_core::seed::Rng;
use charm4rs_transport_core::{
    Caps, Endpoint, Event, Imm, Msg, OpId, Pe, PostError, Posted, RegBuf, RemoteKey, TransportError, Window, WindowId,
};

/// One PE's end.
pub(super) struct SimEndpoint {
    pe: Pe,
    caps: Caps,
    world: Rc<RefCell<World>>,
    slab: Slab,
    /// Names for windows: hard to guess, so that a wrong key is noticed.
    names: Rng,
}

impl fmt::Debug for SimEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimEndpoint").field("pe", &self.pe).finish_non_exhaustive()
    }
}

/// Why a post is refused, without its buffer.
enum Refusal {
    Busy,
    PeerDown,
    TooLarge(usize),
    BadKey,
}

impl Refusal {
    fn with<B>(self, to: Pe, buf: B) -> PostError<B> {
        match self {
            Self::Busy => PostError::Busy(buf),
            Self::PeerDown => PostError::PeerDown(to, buf),
            Self::TooLarge(max) => PostError::TooLarge { max, buf },
            Self::BadKey => PostError::BadKey(buf),
        }
    }
}

impl SimEndpoint {
    pub(super) fn new(pe: Pe, world: &Rc<RefCell<World>>) -> Self {
        let config = &world.borrow().config;
        let caps = Caps {
            name: "sim",
            inject_max: config.inject_max,
            send_max: config.send_max,
            put_max: config.put_max,
            ordered: config.ordered(),
            handover: config.handover,
            one_sided: true,
            wakes: true,
            latency_ns: u32::try_from(config.delay_ns.start).unwrap_or(u32::MAX),
            bandwidth_mb_s: u32::try_from(1_024_000 / config.kib_ns.max(1)).unwrap_or(u32::MAX),
        };
        let names = Rng::stream(config.seed, u64::from(pe.0));
        Self { pe, caps, world: world.clone(), slab: Slab::new(), names }
    }

    /// Checks that there is capacity for a packet of `len` bytes, and takes it.
    fn admit(&self, world: &mut World, to: Pe, len: usize, max: usize) -> Result<(), Refusal> {
        if len > max {
            return Err(Refusal::TooLarge(max));
        }
        if world.nodes[self.pe.index()].health == Health::Dead || world.link(self.pe, to).lost {
            return Err(Refusal::PeerDown);
        }
        let (capacity, capacity_bytes) = (world.config.capacity, world.config.capacity_bytes);
        let link = world.link(self.pe, to);
        // One packet may always be in flight, however long it is.
        if link.packets >= capacity || (link.packets > 0 && link.bytes + len > capacity_bytes) {
            link.starved = true;
            return Err(Refusal::Busy);
        }
        if world.refuse_by_chance(self.pe) {
            return Err(Refusal::Busy);
        }
        let link = world.link(self.pe, to);
        link.packets += 1;
        link.bytes += len;
        Ok(())
    }

    /// The window that a key names, if `len` bytes at `offset` are within the length that it claims.
    fn locate(key: &RemoteKey, offset: u64, len: usize) -> Result<u64, Refusal> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= key.len);
        match (end, <[u8; 8]>::try_from(&*key.bytes)) {
            (Some(_), Ok(name)) => Ok(u64::from_le_bytes(name)),
            _ => Err(Refusal::BadKey),
        }
    }

    fn packet(&self, to: Pe, head: Head, body: Option<Msg>) -> Packet {
        Packet { from: self.pe, to, head, body }
    }
}

impl Endpoint for SimEndpoint {
    fn pe(&self) -> Pe {
        self.pe
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn alloc(&mut self, len: usize) -> Option<RegBuf> {
        let world = self.world.borrow();
        let pool = &world.nodes[self.pe.index()].pool;
        (pool.live() < world.config.pool).then(|| RegBuf::try_heap(len).map(|buf| pool.wrap(buf))).flatten()
    }

    fn inject(
        &mut self,
        to: Pe,
        imm: Imm,
        len: usize,
        fill: &mut dyn FnMut(&mut [MaybeUninit<u8>]),
    ) -> Result<(), PostError<()>> {
        let admitted = self.admit(&mut self.world.borrow_mut(), to, len, self.caps.inject_max);
        admitted.map_err(|refusal| refusal.with(to, ()))?;
        // The world is not borrowed while the caller's code runs.
        let msg = Msg::fill(&self.slab, len, fill);
        self.world.borrow_mut().transmit(self.packet(to, Head::Message { imm }, Some(msg)));
        Ok(())
    }

    fn send(&mut self, to: Pe, imm: Imm, buf: RegBuf, op: OpId) -> Result<Posted, PostError<RegBuf>> {
        let world = &mut *self.world.borrow_mut();
        if let Err(refusal) = self.admit(world, to, buf.len(), self.caps.send_max) {
            return Err(refusal.with(to, buf));
        }
        let head = Head::Message { imm };
        // A vector of the user may have any alignment; a message must be aligned.
        let aligned = (buf.as_ptr() as usize).is_multiple_of(16);
        if self.caps.handover && aligned {
            world.transmit(self.packet(to, head, Some(buf.into())));
            return Ok(Posted::Done);
        }
        // All that the seam allows: consumed at once, given to the receiver later, or given back later.
        let choice = world.rng.below(3);
        let by_datagrams = matches!(world.config.mode, Mode::Datagram { .. });
        if choice < 2 && !by_datagrams && aligned {
            world.transmit(self.packet(to, head, Some(buf.into())));
            if choice == 0 {
                return Ok(Posted::Done);
            }
            let serial = world.link(self.pe, to).pend(op, None);
            world.leave_later(self.pe, to, serial);
            return Ok(Posted::Pending);
        }
        world.transmit(self.packet(to, head, Some(RegBuf::copy_of(&buf).into())));
        if choice == 0 {
            return Ok(Posted::Done);
        }
        let serial = world.link(self.pe, to).pend(op, Some(buf));
        world.leave_later(self.pe, to, serial);
        Ok(Posted::Pending)
    }

    fn expose(&mut self, buf: RegBuf) -> Result<Window, (TransportError, RegBuf)> {
        let name = self.names.next_u64();
        let key = RemoteKey { len: buf.len() as u64, bytes: name.to_le_bytes().into() };
        // The network keeps the memory, and writes into it; the window only names it.
        self.world.borrow_mut().nodes[self.pe.index()].windows.insert(name, buf);
        Ok(Window::new(WindowId(name), key, RegBuf::heap(0)))
    }

    fn unexpose(&mut self, window: Window) -> RegBuf {
        let taken = self.world.borrow_mut().nodes[self.pe.index()].windows.remove(&window.id.0);
        // The windows of a killed PE are gone, and nothing reads this buffer.
        taken.unwrap_or_else(|| window.into_buf())
    }

    fn put(
        &mut self,
        to: Pe,
        src: RegBuf,
        dst: &RemoteKey,
        offset: u64,
        imm: Option<Imm>,
        op: OpId,
    ) -> Result<Posted, PostError<RegBuf>> {
        let world = &mut *self.world.borrow_mut();
        let window = Self::locate(dst, offset, src.len())
            .and_then(|window| self.admit(world, to, src.len(), self.caps.put_max).map(|()| window));
        let window = match window {
            Ok(window) => window,
            Err(refusal) => return Err(refusal.with(to, src)),
        };
        let body = RegBuf::copy_of(&src).into();
        let serial = world.link(self.pe, to).pend(op, Some(src));
        world.transmit(self.packet(to, Head::Put { serial, window, offset, imm }, Some(body)));
        Ok(Posted::Pending)
    }

    fn get(
        &mut self,
        from: Pe,
        src: &RemoteKey,
        offset: u64,
        dst: RegBuf,
        op: OpId,
    ) -> Result<Posted, PostError<RegBuf>> {
        let world = &mut *self.world.borrow_mut();
        let len = dst.len();
        let window = Self::locate(src, offset, len).and_then(|window| {
            if len > self.caps.put_max {
                return Err(Refusal::TooLarge(self.caps.put_max));
            }
            self.admit(world, from, 0, 0).map(|()| window)
        });
        let window = match window {
            Ok(window) => window,
            Err(refusal) => return Err(refusal.with(from, dst)),
        };
        let serial = world.link(self.pe, from).pend(op, Some(dst));
        world.transmit(self.packet(from, Head::Get { serial, window, offset, len: len as u64 }, None));
        Ok(Posted::Pending)
    }

    fn progress(&mut self, out: &mut Vec<Event>, max: usize) -> Result<usize, TransportError> {
        let world = &mut *self.world.borrow_mut();
        let node = &mut world.nodes[self.pe.index()];
        if node.health != Health::Alive {
            return Ok(0);
        }
        let count = node.inbox.len().min(max);
        let first = out.len();
        out.extend(node.inbox.drain(..count));
        for event in &out[first..] {
            if let Event::Recv { from, msg, .. } = event {
                world.credit(*from, self.pe, msg.len());
            }
        }
        Ok(count)
    }

    fn has_closed(&mut self, peer: Pe) -> bool {
        self.world.borrow().nodes[peer.index()].health == Health::Closed
    }

    fn arm(&mut self) -> bool {
        self.world.borrow().nodes[self.pe.index()].inbox.is_empty()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn close(self: Box<Self>) -> Result<(), TransportError> {
        // Posted packets are on the wire, and the network delivers them.
        self.world.borrow_mut().bury(self.pe, Health::Closed);
        Ok(())
    }
}
