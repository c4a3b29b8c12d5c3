//! Messages whose payloads several PEs may read: what goes up and down the trees of broadcasts and reductions.
//!
//! Inside a process the payloads are *shared*: a message there carries references to their memory, moved through its
//! body in front of the serialized bytes, and nothing is copied however many PEs it goes to. To another process they travel
//! beside the message, as those of any other; a tree enters each process once, so they do.

use std::sync::Arc;

use charm4rs_transport::port::{Incoming, Tag};
use charm4rs_transport::{Msg, Payloads, Pe, RegBuf};

use super::post::{Pack, pack_and_end};
use super::{Rt, class_of};
use crate::envelope::{HEADER, Header, MOVED, tag};
use crate::moved;
use crate::wire::{self, WireError};

/// What a message inside a process carries in front of its bytes.
pub(super) type Beside = Vec<Arc<RegBuf>>;

/// Where the bytes begin behind it.
const BEHIND: usize = HEADER + moved::size::<Beside>();

/// The kinds of messages that are sent and opened here, and only here.
pub(super) fn is_shared(tag: Tag) -> bool {
    use tag::{BROADCAST, COUNTED, CREATE, EXCHANGE, PARTIAL, PIECE, RESULT, RESULT_PIECE, WAVE};
    matches!(tag, BROADCAST | WAVE | CREATE | COUNTED | PARTIAL | RESULT | PIECE | RESULT_PIECE | EXCHANGE)
}

/// Sends serialized bytes and payloads, of which the caller may keep shares.
pub(super) fn send(rt: Rt, to: Pe, tag: Tag, header: &Header, bytes: &[u8], beside: Beside) {
    debug_assert!(is_shared(tag));
    let mut header = *header;
    header.flags &= !MOVED;
    let here = rt.sched.pe();
    if beside.is_empty() {
        let len = HEADER + bytes.len();
        return deliver(rt, to, tag, &header, len, |room| header.fill(bytes, room));
    }
    if rt.same_process(to) {
        header.flags |= MOVED;
        return deliver(rt, to, tag, &header, BEHIND + bytes.len(), |room| {
            moved::put_pod(room, 0, &header);
            moved::write(beside, &mut room[HEADER..]);
            moved::put_bytes(room, BEHIND, bytes);
        });
    }
    debug_assert!(to != here);
    let payloads = beside.into_iter().map(|memory| leaving(rt, memory)).collect();
    rt.sched.send_payloads(to, tag, HEADER + bytes.len(), |room| header.fill(bytes, room), payloads, false);
}

/// Serializes a value, ends it, and sends it: then its payloads' memory belongs to the message alone, unless somebody keeps a
/// share.
pub(super) fn post<B: serde::Serialize>(rt: Rt, to: Pe, tag: Tag, header: &Header, value: B) -> Result<(), WireError> {
    let mut value = Some(value);
    post_packed(rt, to, tag, header, &mut |bytes| pack_and_end(&mut value, bytes))
}

/// The same, of a value whose type is not known.
pub(super) fn post_packed(rt: Rt, to: Pe, tag: Tag, header: &Header, pack: Pack<'_>) -> Result<(), WireError> {
    rt.with_scratch(|bytes| {
        let beside = pack(bytes)?;
        send(rt, to, tag, header, bytes, beside);
        Ok(())
    })
}

/// To this PE itself a message goes straight into the queue.
fn deliver(rt: Rt, to: Pe, tag: Tag, header: &Header, len: usize, fill: impl FnOnce(&mut [std::mem::MaybeUninit<u8>])) {
    if to == rt.sched.pe() {
        let msg = Msg::fill(rt.sched.slab(), len, fill);
        rt.sched.enqueue(Incoming::own(to, tag, msg, Payloads::default()), class_of(header));
    } else {
        rt.sched.send(to, tag, len, fill);
    }
}

/// The memory of a payload that leaves the process: the sender's own if nobody else holds it, else a copy from which a
/// send needs none.
pub(super) fn leaving(rt: Rt, memory: Arc<RegBuf>) -> RegBuf {
    Arc::try_unwrap(memory).unwrap_or_else(|shared| rt.copy(&shared))
}

/// A message taken apart. By value, so that what was moved into it is read once.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) from: Pe,
    pub(super) tag: Tag,
    msg: Msg,
    behind: usize,
    pub(super) beside: Beside,
}

impl Opened {
    /// Of a message that [`send`] sent.
    pub(super) fn new(header: &Header, incoming: Incoming) -> Self {
        assert!(is_shared(incoming.tag));
        let Incoming { from, tag, msg, payloads, .. } = incoming;
        if header.is_moved() {
            // SAFETY: all messages of these kinds are sent by `send`, which wrote a Beside in this process (the
            // dispatcher has checked that); the message is ours alone, and only its bytes behind that are read again.
            let beside = unsafe { moved::read::<Beside>(msg.as_ptr().wrapping_add(HEADER).cast_const()) };
            Self { from, tag, msg, behind: BEHIND, beside }
        } else {
            Self { from, tag, msg, behind: HEADER, beside: payloads.into_iter().map(Arc::new).collect() }
        }
    }

    /// The serialized bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.msg[self.behind..]
    }

    /// Takes what stands in front of the serialized bytes.
    pub(super) fn split_front<P: bytemuck::AnyBitPattern>(&mut self) -> Option<P> {
        let front = bytemuck::pod_read_unaligned(self.bytes().get(..size_of::<P>())?);
        self.behind += size_of::<P>();
        Some(front)
    }

    /// Reads the value that was packed.
    pub(super) fn read<B: serde::de::DeserializeOwned>(&mut self) -> Result<B, WireError> {
        wire::unpack(&self.msg[self.behind..], std::mem::take(&mut self.beside))
    }
}
