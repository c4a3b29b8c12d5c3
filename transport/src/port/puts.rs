//! Puts into windows of peers: in pieces, in order, and by messages where a device has no access to the memory.
//!
//! A payload is put in pieces of at most [`CHUNK`] bytes. Only the last piece has an immediate, which announces the whole (a FIN, or the number of a put
//! window). A piece that finds no room waits in a queue of the port.
//!
//! *By messages.* A device may have no registration left for the source or the destination (locked memory is limited). The sender then sends the bytes as WRITE
//! frames, which travel through registered memory of the endpoints. The receiver copies them to where the frame says. An empty put with the immediate
//! follows: it arrives after all earlier puts, and is sent after all WRITE frames.

use std::rc::Rc;

use super::frame::{self, Write};
use super::operations::Operation;
use super::put_window::PutWindowId;
use super::{Port, Route};
use charm4rs_transport_core::memory::write_bytes;
use charm4rs_transport_core::{Imm, Pe, PostError, Posted, RegBuf, RemoteKey, TransportError};

/// Payloads go over the network in puts of at most this length, so that others get a turn.
const CHUNK: usize = 4 << 20;

const UNREGISTERED: &str = "the network's device cannot register more memory (ulimit -l): payloads are copied";

/// The receiver's name for the memory that is put into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    /// A payload of a message that arrives by rendezvous.
    Payload {
        /// The message.
        slot: u32,
        /// The number of the payload.
        part: u32,
    },
    /// A put window.
    PutWindow(PutWindowId),
}

impl Target {
    pub(super) fn payload(slot: usize, part: usize) -> Self {
        let small = |n: usize| u32::try_from(n).expect("slots and payloads are counted in 24 bits");
        Self::Payload { slot: small(slot), part: small(part) }
    }
}

/// A put that has not been posted yet.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) to: Pe,
    src: RegBuf,
    key: Rc<RemoteKey>,
    target: Target,
    offset: u64,
    imm: Option<Imm>,
}

impl Port {
    /// The longest put to a peer.
    pub(super) fn chunk(&mut self, to: Pe) -> usize {
        let max = self.ends.to(self.pe, to).caps().put_max;
        if self.ends.route(self.pe, to) == Route::Net { max.min(CHUNK) } else { max }
    }

    /// Queues the puts of a payload at `offset` of a window. The last one carries `imm`.
    pub(super) fn queue_put(
        &mut self,
        to: Pe,
        payload: RegBuf,
        (key, target): (&Rc<RemoteKey>, Target),
        mut offset: u64,
        imm: Imm,
    ) {
        let pieces = payload.split(self.chunk(to));
        let last = pieces.len() - 1;
        for (i, src) in pieces.into_iter().enumerate() {
            let len = src.len() as u64;
            self.puts.push_back(Put { to, src, key: key.clone(), target, offset, imm: (i == last).then_some(imm) });
            offset += len;
        }
    }

    /// Posts queued puts as long as there is room.
    pub(super) fn flush_puts(&mut self) -> Result<(), TransportError> {
        while let Some(put) = self.puts.pop_front() {
            let Put { to, src, key, target, offset, imm } = put;
            if let Some(src) = self.post_put(to, src, (&key, target), offset, imm)? {
                self.puts.push_front(Put { to, src, key, target, offset, imm });
                break;
            }
        }
        Ok(())
    }

    /// Posts a put. Gives the buffer back if there is no room.
    pub(super) fn post_put(
        &mut self,
        to: Pe,
        src: RegBuf,
        (key, target): (&RemoteKey, Target),
        offset: u64,
        imm: Option<Imm>,
    ) -> Result<Option<RegBuf>, TransportError> {
        // An empty put may announce one that went by messages. Those leave first.
        if src.is_empty() && !self.clear_for(to) {
            return Ok(Some(src));
        }
        let network_bytes = if self.ends.route(self.pe, to) == Route::Net { src.len() as u64 } else { 0 };
        match self.ends.to(self.pe, to).put(to, src, key, offset, imm, self.operations.next()) {
            Ok(Posted::Pending) => self.operations.begin(Operation { message: None, network_bytes }),
            Ok(Posted::Done) => {}
            Err(PostError::Busy(src)) => return Ok(Some(src)),
            Err(PostError::PeerDown(pe, _)) => {
                return Err(TransportError::PeerDown { pe, why: "it accepts no more puts" });
            }
            Err(PostError::BadKey(_)) => {
                let what = "a destination that refuses a put";
                return Err(TransportError::Protocol { from: to, what, detail: offset });
            }
            Err(PostError::TooLarge { max, .. }) => unreachable!("puts are cut to {max} bytes"),
            Err(PostError::NoMemory(src)) => return self.put_by_messages(to, src, (key, target), offset, imm),
        }
        Ok(None)
    }

    /// Sends a put as messages; see the module's text. Gives back what is left if there is no room.
    #[cold]
    fn put_by_messages(
        &mut self,
        to: Pe,
        src: RegBuf,
        (key, target): (&RemoteKey, Target),
        offset: u64,
        imm: Option<Imm>,
    ) -> Result<Option<RegBuf>, TransportError> {
        if !self.clear_for(to) {
            return Ok(Some(src));
        }
        self.options.notices.tell_once(UNREGISTERED);
        self.inner.counters.copies += 1;
        let head = Write::head(target, key, offset).len();
        let most = self.ends.to(self.pe, to).caps().inject_max.saturating_sub(head).max(1);
        for (piece, at) in src.chunks(most).zip((offset..).step_by(most)) {
            let head = Write::head(target, key, at);
            let fill = |body: &mut [std::mem::MaybeUninit<u8>]| {
                let (front, rest) = body.split_at_mut(head.len());
                write_bytes(front, &head);
                write_bytes(rest, piece);
            };
            self.send_frame(to, frame::imm(frame::WRITE, 0), head.len() + piece.len(), fill, false);
        }
        match imm {
            Some(_) => self.post_put(to, RegBuf::heap(0), (key, target), offset, imm),
            None => Ok(None),
        }
    }
}
