//! What operations need while libfabric has them: a context each, at a stable address, and the buffers of messages. All of it is
//! allocated once, with the endpoint. There are never more operations at a time than slots.
//!
//! The first [`RX`] slots receive messages; the next [`TX`] send them, each in its own piece of one block of memory. The remaining
//! [`RMA`] are for accesses to peers' memory, whose buffers belong to the user.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::rc::Rc;

use charm4rs_libfabric_sys::bindings as fi;

use super::fi::{Access, Errno, Lane, Mapped, Post, Region};
use super::wire::HEADER;
use charm4rs_transport_core::memory::RegBuf;
use charm4rs_transport_core::{OpId, TransportError};

/// Messages that may arrive before they are read.
const RX: usize = 128;
/// Messages that are being sent.
const TX: usize = 64;
/// Puts and gets in flight.
const RMA: usize = 128;
/// Slots of all kinds.
pub(super) const SLOTS: usize = RX + TX + RMA;
/// Bytes of a message with its header. Layered providers send this much without asking the receiver first.
pub(super) const FRAME: usize = 16 << 10;
/// Bytes of the block of messages, which is all that an endpoint registers for itself, for any number of peers.
const BLOCK: usize = (RX + TX) * FRAME;
/// Bytes of a message.
pub(super) const BODY: usize = FRAME - HEADER;

/// Memory for libfabric's own use while it has an operation.
#[repr(align(64))]
struct Context(UnsafeCell<[u64; 8]>);

const _: () = assert!(size_of::<Context>() == size_of::<fi::fi_context2>());

/// The current use of a slot.
#[derive(Debug)]
pub(super) enum Op {
    Free,
    /// Receives a message.
    Recv,
    /// Sends one to the peer of a link.
    Send {
        link: u32,
    },
    /// Accesses memory of the peer of a link.
    Rma(Rma),
    /// The user was told that it failed; the device still holds the buffer.
    Abandoned {
        _buf: RegBuf,
        _region: Option<Rc<Region>>,
        _mapped: Option<Rc<Mapped>>,
    },
}

/// An access to a peer's memory.
#[derive(Debug)]
pub(super) struct Rma {
    pub(super) link: u32,
    pub(super) op: OpId,
    pub(super) buf: RegBuf,
    pub(super) put: bool,
    /// The number of a put among those of its link.
    pub(super) number: u64,
    /// The buffer's registration, if one is needed.
    pub(super) region: Option<Rc<Region>>,
    /// The mapped number of the peer's key, if the key is raw.
    pub(super) mapped: Option<Rc<Mapped>>,
}

/// See the module's text.
pub(super) struct Slots {
    contexts: Box<[Context]>,
    ops: Vec<Op>,
    free_tx: Vec<usize>,
    free_rma: Vec<usize>,
    /// Lengths of the frames in slots that send.
    lens: [usize; TX],
    region: Option<Region>,
    block: RegBuf,
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slots").field("free_tx", &self.free_tx.len()).field("free_rma", &self.free_rma.len()).finish()
    }
}

impl Slots {
    #[cfg(test)]
    pub(super) fn registered(&self) -> usize {
        self.block.len()
    }

    /// Slots for the operations of a lane.
    pub(super) fn new(lane: &Lane) -> Result<Self, TransportError> {
        let block = RegBuf::try_heap(BLOCK).ok_or_else(|| TransportError::no_memory("messages", BLOCK))?;
        let region = if lane.info().mr_mode(fi::FI_MR_LOCAL) {
            // SAFETY: the block lives as long as the region, and does not move.
            let region = unsafe { lane.register(block.as_ptr(), block.len(), u64::from(fi::FI_SEND | fi::FI_RECV)) };
            Some(region.map_err(|e| super::memory::no_registration(lane, e, block.len()))?)
        } else {
            None
        };
        Ok(Self {
            contexts: (0..SLOTS).map(|_| Context(UnsafeCell::new([0; 8]))).collect(),
            ops: (0..SLOTS).map(|_| Op::Free).collect(),
            free_tx: (RX..RX + TX).rev().collect(),
            free_rma: (RX + TX..SLOTS).rev().collect(),
            lens: [0; TX],
            region,
            block,
        })
    }

    fn context(&self, slot: usize) -> *mut c_void {
        self.contexts[slot].0.get().cast()
    }

    /// The slot whose context has this address.
    pub(super) fn at(&self, context: usize) -> Option<usize> {
        let offset = context.checked_sub(self.contexts.as_ptr().addr())?;
        (offset % size_of::<Context>() == 0).then_some(offset / size_of::<Context>()).filter(|&slot| slot < SLOTS)
    }

    fn piece(&self, slot: usize) -> *mut u8 {
        assert!(slot < RX + TX);
        // SAFETY: within the block.
        unsafe { self.block.as_ptr().add(slot * FRAME) }
    }

    fn desc(&self) -> *mut c_void {
        self.region.as_ref().map_or(std::ptr::null_mut(), Region::desc)
    }

    // ---- messages that arrive --------------------------------------------------------------------------------

    /// The slots that take messages.
    pub(super) fn receivers(&self) -> std::ops::Range<usize> {
        0..RX
    }

    /// Posts a slot to receive the next message.
    pub(super) fn receive(&mut self, lane: &Lane, slot: usize) -> Post {
        assert!(slot < RX && matches!(self.ops[slot], Op::Free));
        // SAFETY: the piece and the context belong to this slot, which is free; they live until after the lane is closed.
        let posted = unsafe { lane.recv(self.piece(slot), FRAME, self.desc(), self.context(slot)) };
        if posted == Post::Taken {
            self.ops[slot] = Op::Recv;
        }
        posted
    }

    /// The bytes of the message that a slot received. The slot is then free, and the bytes stay until it receives again.
    pub(super) fn received(&mut self, slot: usize, len: usize) -> &[u8] {
        assert!(slot < RX && len <= FRAME && matches!(self.ops[slot], Op::Free), "an operation that has completed");
        // SAFETY: within the slot's piece, which libfabric has written and no longer uses.
        unsafe { std::slice::from_raw_parts(self.piece(slot), len) }
    }

    // ---- messages that leave ---------------------------------------------------------------------------------

    /// Whether there is a free slot for a message.
    pub(super) fn can_send(&self) -> bool {
        !self.free_tx.is_empty()
    }

    /// Writes a message into a free slot, to be sent. `fill` writes all of the `len` bytes of the body.
    pub(super) fn write(
        &mut self,
        header: [u8; HEADER],
        len: usize,
        fill: &mut dyn FnMut(&mut [MaybeUninit<u8>]),
    ) -> Option<usize> {
        assert!(len <= BODY);
        let slot = self.free_tx.pop()?;
        // SAFETY: within the slot's piece, which has no other user, since it was free. `MaybeUninit` requires less than bytes.
        let piece = unsafe { std::slice::from_raw_parts_mut(self.piece(slot).cast::<MaybeUninit<u8>>(), HEADER + len) };
        charm4rs_transport_core::memory::write_bytes(&mut piece[..HEADER], &header);
        fill(&mut piece[HEADER..]);
        self.lens[slot - RX] = HEADER + len;
        Some(slot)
    }

    fn frame(&self, slot: usize) -> &[u8] {
        // SAFETY: `write` wrote that many bytes there (or `fill` broke its promise, and they are old ones).
        unsafe { std::slice::from_raw_parts(self.piece(slot), self.lens[slot - RX]) }
    }

    /// Sends the message in a slot. A short message frees the slot at once. Returns whether it did, if the post was accepted.
    pub(super) fn send(&mut self, lane: &Lane, slot: usize, link: u32, to: u64, short: usize) -> (Post, bool) {
        assert!(matches!(self.ops[slot], Op::Free) && slot >= RX);
        let frame = self.frame(slot);
        if frame.len() <= short {
            let posted = lane.inject(frame, to);
            if posted == Post::Taken {
                self.free(slot);
            }
            return (posted, true);
        }
        // SAFETY: the frame and the context belong to this slot, which becomes free only when the operation has completed; they
        // live until after the lane is closed.
        let posted = unsafe { lane.send(frame, self.desc(), to, self.context(slot)) };
        if posted == Post::Taken {
            self.ops[slot] = Op::Send { link };
        }
        (posted, false)
    }

    // ---- accesses to memory ----------------------------------------------------------------------------------

    /// A free slot for an access.
    pub(super) fn take_rma(&mut self) -> Option<usize> {
        self.free_rma.pop()
    }

    /// Posts an access. Gives it back if the provider does not accept it.
    pub(super) fn access(
        &mut self,
        lane: &Lane,
        slot: usize,
        to: u64,
        there: (u64, u64),
        delivered: bool,
        rma: Rma,
    ) -> Result<(), (Post, Rma)> {
        assert!(slot >= RX + TX && matches!(self.ops[slot], Op::Free));
        let desc = rma.region.as_ref().map_or(std::ptr::null_mut(), |region| region.desc());
        let access =
            Access { at: rma.buf.as_ptr(), len: rma.buf.len(), desc, to, addr: there.0, key: there.1, delivered };
        // SAFETY: the buffer moves into the slot, which gives it back only once the operation has completed, or the lane is closed.
        match unsafe { lane.rma(&access, rma.put, self.context(slot)) } {
            Post::Taken => {
                self.ops[slot] = Op::Rma(rma);
                Ok(())
            }
            other => Err((other, rma)),
        }
    }

    // ---- completions -----------------------------------------------------------------------------------------

    /// The operation of a slot that has completed. [`Slots::free`] makes the slot available again.
    pub(super) fn complete(&mut self, slot: usize) -> Op {
        std::mem::replace(&mut self.ops[slot], Op::Free)
    }

    /// Frees a slot that sends or accesses.
    pub(super) fn free(&mut self, slot: usize) {
        match slot {
            RX.. if slot < RX + TX => self.free_tx.push(slot),
            _ if slot >= RX + TX => self.free_rma.push(slot),
            _ => {}
        }
    }

    /// Takes the operations that are in flight to or from a link's peer away from their users. Returns them, in the order of their slots.
    pub(super) fn abandon(&mut self, link: u32) -> Vec<OpId> {
        let mut ops = Vec::new();
        for slot in &mut self.ops {
            if let Op::Rma(rma) = slot
                && rma.link == link
                && let Op::Rma(rma) = std::mem::replace(slot, Op::Free)
            {
                ops.push(rma.op);
                *slot = Op::Abandoned { _buf: rma.buf, _region: rma.region, _mapped: rma.mapped };
            }
        }
        ops
    }

    /// Whether any operation is in flight.
    pub(super) fn is_busy(&self) -> bool {
        self.ops.iter().any(|op| matches!(op, Op::Send { .. } | Op::Rma(_)))
    }

    /// Leaks what operations use.
    #[expect(clippy::mem_forget, reason = "the device may still use its buffers")]
    pub(super) fn leak(&mut self) {
        let block = std::mem::replace(&mut self.block, RegBuf::heap(0));
        let ops: Vec<Op> = self.ops.drain(..).filter(|op| matches!(op, Op::Rma(_) | Op::Abandoned { .. })).collect();
        std::mem::forget((block, ops, std::mem::take(&mut self.contexts), self.region.take()));
    }

    /// Closes registrations. The domain can be closed only afterwards.
    pub(super) fn close_regions(&mut self) {
        self.region = None;
        for op in &mut self.ops {
            *op = Op::Free;
        }
    }

    pub(super) fn describe(lane: &Lane, error: Errno, call: &'static str) -> TransportError {
        let source = if error.0 < 256 {
            std::io::Error::from_raw_os_error(error.0)
        } else {
            std::io::Error::other(lane.describe(error))
        };
        TransportError::System { call, source }
    }
}
