//! Messages whose payloads several PEs may read: the messages up and down the trees of broadcasts and reductions.
//!
//! Inside a process the payloads are *shared*: a message there carries references to their memory, moved through its body in front of the serialized
//! bytes, and nothing is copied however many PEs it goes to. To another process they travel beside the message, like those of any other message; a
//! tree enters each process once, so they do too.

use std::sync::Arc;

use charm4rs_transport::port::{Incoming, Tag};
use charm4rs_transport::{Msg, Payloads, Pe, RegBuf};

use super::post::{Pack, pack_and_end};
use super::{Rt, class_of};
use crate::message::envelope::{HEADER, Header, MOVED, tag};
use crate::message::moved;
use crate::message::wire::{self, WireError};

/// The references in front of the bytes of a message inside a process.
pub(super) type Beside = Vec<Arc<RegBuf>>;

/// The offset of the bytes after it.
const BEHIND: usize = HEADER + moved::size::<Beside>();

/// The kinds of messages that are sent and opened here, and only here.
pub(super) fn is_shared(tag: Tag) -> bool {
    use tag::{BROADCAST, COUNTED, CREATE, EXCHANGE, PARTIAL, PIECE, RESULT, RESULT_PIECE, START, WAVE};
    matches!(tag, START | BROADCAST | WAVE | CREATE | COUNTED | PARTIAL | RESULT | PIECE | RESULT_PIECE | EXCHANGE)
}

/// Sends serialized bytes and payloads, to which the caller may keep references.
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

/// Serializes a value, drops it, and sends it: then its payloads' memory belongs to the message alone, unless other code keeps a reference.
pub(super) fn post<B: serde::Serialize>(rt: Rt, to: Pe, tag: Tag, header: &Header, value: B) -> Result<(), WireError> {
    let mut value = Some(value);
    post_packed(rt, to, tag, header, &mut |bytes| pack_and_end(&mut value, bytes))
}

/// The same, for a value whose type is not known.
pub(super) fn post_packed(rt: Rt, to: Pe, tag: Tag, header: &Header, pack: Pack<'_>) -> Result<(), WireError> {
    rt.with_scratch(|bytes| {
        let beside = pack(bytes)?;
        send(rt, to, tag, header, bytes, beside);
        Ok(())
    })
}

/// A message to this PE itself goes directly into the queue.
fn deliver(rt: Rt, to: Pe, tag: Tag, header: &Header, len: usize, fill: impl FnOnce(&mut [std::mem::MaybeUninit<u8>])) {
    if to == rt.sched.pe() {
        let msg = Msg::fill(rt.sched.slab(), len, fill);
        rt.sched.enqueue(Incoming::own(to, tag, msg, Payloads::default()), class_of(header));
    } else {
        rt.sched.send(to, tag, len, fill);
    }
}

/// The memory of a payload that leaves the process: the sender's own if there is no other reference, otherwise a copy from which a send needs no
/// further copy.
pub(super) fn leaving(rt: Rt, memory: Arc<RegBuf>) -> RegBuf {
    Arc::try_unwrap(memory).unwrap_or_else(|shared| rt.copy(&shared))
}

/// A message taken apart. By value, so that a moved value in it is read once.
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
            // SAFETY: all messages of these kinds are sent by `send`, which wrote a Beside in this process (the dispatcher has checked that); no
            // other code has the message, and only the bytes after it are read again.
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

    /// Takes the prefix of the serialized bytes.
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
