//! The header of every message of the object layer, and the kinds of such messages.

use std::mem::MaybeUninit;

use charm4rs_scheduler::{Class, Order};
use charm4rs_transport::Pe;
use charm4rs_transport::port::{Incoming, PutWindowId, Tag};

use crate::message::CollectionId;
use crate::message::moved;

/// The kinds of messages of this layer.
pub(crate) mod tag {
    use charm4rs_transport::port::tags;

    use super::Tag;

    /// A call of one element. Body: index and arguments.
    pub(crate) const CALL: Tag = Tag(1);
    /// A call of all elements, on its way down a tree. Body: arguments.
    pub(crate) const BROADCAST: Tag = Tag(2);
    /// A value for a future. Body: the value.
    pub(crate) const REPLY: Tag = Tag(3);
    /// An error for a future. Body: the error.
    pub(crate) const FAILURE: Tag = Tag(4);
    /// The results of a broadcast, on their way up its tree.
    pub(crate) const WAVE: Tag = Tag(5);
    /// A new collection, on its way down a tree.
    pub(crate) const CREATE: Tag = Tag(6);
    /// A new single chare.
    pub(crate) const SOLO: Tag = Tag(7);
    /// A new element of a sparse array.
    pub(crate) const INSERT: Tag = Tag(8);
    /// The location of an element, and the PE that requests it.
    pub(crate) const LOCATION: Tag = Tag(9);
    /// The elements of a subtree have been counted.
    pub(crate) const COUNTED: Tag = Tag(10);
    /// A partial result of a reduction, on its way up.
    pub(crate) const PARTIAL: Tag = Tag(11);
    /// The result of a reduction for every contributor, on its way down.
    pub(crate) const RESULT: Tag = Tag(12);
    /// A value for a future, behind the calls that arrived before it. Body: the value.
    pub(crate) const IN_TURN: Tag = Tag(13);
    /// A sparse array is complete: a question down, answers up, the verdict down.
    pub(crate) const CENSUS: Tag = Tag(14);
    /// A piece of a large partial result, on its way up.
    pub(crate) const PIECE: Tag = Tag(16);
    /// A piece of a large result for every contributor, or all of it, on its way down.
    pub(crate) const RESULT_PIECE: Tag = Tag(17);
    /// A step of a section's creation.
    pub(crate) const SECTION: Tag = Tag(19);
    /// A PE's part of a reduction whose parts PEs exchange.
    pub(crate) const EXCHANGE: Tag = Tag(20);
    /// A put has arrived in a put window, or is in this message. Body: the offset in the put window.
    pub(crate) const PUT: Tag = Tag(21);
    /// From a put window's owner to the putter: the put was read, or the put window is gone.
    pub(crate) const READ: Tag = Tag(22);
    /// To a put window's owner: the put handle was dropped.
    pub(crate) const UNUSED: Tag = Tag(23);
    /// A collection is destroyed. Body: whether it comes down a tree.
    pub(crate) const DESTROY: Tag = Tag(24);
    /// The values that `main` has set, on their way down a tree; to PE 0: a request for them by another PE.
    pub(crate) const START: Tag = Tag(25);
    /// The job ends. A system message.
    pub(crate) const EXIT: Tag = Tag(0xE8);
    /// Whether the job is in a deadlock: a question down a tree, answers up. A system message.
    pub(crate) const DEADLOCK: Tag = Tag(0xE9);

    const fn queued(tag: Tag) -> bool {
        tags::is_in(tag.0, &tags::OBJECTS)
    }
    const fn system(tag: Tag) -> bool {
        tags::is_in(tag.0, &tags::OBJECTS_SYSTEM)
    }
    const _: () = assert!(queued(CALL) && queued(START) && system(EXIT) && system(DEADLOCK));
}

/// The destination of a call's answer: a future's slot on a PE.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct FutureId {
    pub(crate) pe: Pe,
    pub(crate) slot: u32,
    /// Distinguishes successive uses of the slot; never 0.
    pub(crate) turn: u32,
}

impl FutureId {
    pub(crate) const NONE: Self = Self { pe: Pe(0), slot: 0, turn: 0 };

    #[inline]
    pub(crate) fn wanted(self) -> Option<Self> {
        (self.turn != 0).then_some(self)
    }
}

/// How a call is queued at its receiver.
#[derive(Clone, Copy, Default, Debug)]
pub struct CallOptions {
    pub(crate) flags: u16,
    pub(crate) priority: i32,
}

impl CallOptions {
    #[inline]
    pub(crate) fn priority(self, priority: i32) -> Self {
        Self { priority, flags: self.flags | PRIORITY }
    }

    #[inline]
    pub(crate) fn lifo(self) -> Self {
        Self { flags: self.flags | LIFO | PRIORITY, ..self }
    }

    #[inline]
    pub(crate) fn expedited(self) -> Self {
        Self { flags: self.flags | EXPEDITED, ..self }
    }

    #[inline]
    pub(crate) fn class(self) -> Class {
        if self.flags & (PRIORITY | LIFO | EXPEDITED) == 0 {
            Class::Default
        } else if self.flags & EXPEDITED != 0 {
            Class::Expedited
        } else {
            Class::Priority(self.priority, if self.flags & LIFO != 0 { Order::Lifo } else { Order::Fifo })
        }
    }
}

/// The first 32 bytes of a message.
///
/// All kinds share the flags, the sender's PE, a future, and a number from the registry. The meaning of two more fields depends on the kind; they are
/// accessed by that meaning:
///
/// | kind | `target` | `argument` |
/// |---|---|---|
/// | calls, creation, and all that concerns a collection | [`Header::collection`] | [`Header::priority`] of a call |
/// | `PUT`, `READ`, `UNUSED` | [`Header::put_window`] | [`Header::outcome`] of a put |
/// | `EXIT` | | [`Header::exit_code`] |
/// | replies, failures, waves | | |
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct Header {
    target: u64,
    /// The number of an entry method, or of a chare type, in the registry.
    pub(crate) method: u16,
    pub(crate) flags: u16,
    argument: i32,
    reply_pe: u32,
    reply_slot: u32,
    reply_turn: u32,
    /// The PE that made the message; others may forward it.
    pub(crate) source: u32,
}

pub(crate) const HEADER: usize = size_of::<Header>();
const _: () = assert!(HEADER == 32 && HEADER.is_multiple_of(moved::BODY_ALIGN));

/// The body holds a moved value instead of serialized bytes.
pub(crate) const MOVED: u16 = 1;
/// `priority` is valid.
pub(crate) const PRIORITY: u16 = 2;
/// Last in, first out among equal priorities.
pub(crate) const LIFO: u16 = 4;
/// Ahead of every priority.
pub(crate) const EXPEDITED: u16 = 8;
/// It came through a PE that does not have the element.
pub(crate) const PASSED: u16 = 16;

/// A number precedes the body of a broadcast ([`crate::runtime`]'s `casts.rs`).
pub(crate) const NUMBERED: u16 = 32;

impl Header {
    fn new(target: u64, source: Pe) -> Self {
        Self { target, method: 0, flags: 0, argument: 0, reply_pe: 0, reply_slot: 0, reply_turn: 0, source: source.0 }
    }

    /// Of a message that concerns a collection.
    pub(crate) fn of_collection(id: CollectionId, source: Pe) -> Self {
        Self::new(id.0, source)
    }

    /// Of a message that concerns a put window.
    pub(crate) fn of_put_window(id: PutWindowId, source: Pe) -> Self {
        Self::new(id.to_bits(), source)
    }

    /// Of a value or an error for a future, or of a message that concerns only the job.
    pub(crate) fn of_job(source: Pe) -> Self {
        Self::new(0, source)
    }

    #[inline]
    pub(crate) fn collection(&self) -> CollectionId {
        CollectionId(self.target)
    }

    pub(crate) fn put_window(&self) -> PutWindowId {
        PutWindowId::from_bits(self.target)
    }

    /// Valid with the flag [`PRIORITY`].
    #[inline]
    pub(crate) fn priority(&self) -> i32 {
        self.argument
    }

    #[inline]
    pub(crate) fn with_priority(mut self, priority: i32) -> Self {
        self.argument = priority;
        self
    }

    /// What became of a put.
    pub(crate) fn outcome(&self) -> i32 {
        self.argument
    }

    pub(crate) fn with_outcome(mut self, outcome: i32) -> Self {
        self.argument = outcome;
        self
    }

    /// The status with which the job ends.
    pub(crate) fn exit_code(&self) -> i32 {
        self.argument
    }

    pub(crate) fn with_exit_code(mut self, code: i32) -> Self {
        self.argument = code;
        self
    }

    pub(crate) fn with_reply(mut self, to: FutureId) -> Self {
        (self.reply_pe, self.reply_slot, self.reply_turn) = (to.pe.0, to.slot, to.turn);
        self
    }

    #[inline]
    pub(crate) fn reply(&self) -> FutureId {
        FutureId { pe: Pe(self.reply_pe), slot: self.reply_slot, turn: self.reply_turn }
    }

    /// The header of a message whose body is moved.
    #[inline]
    pub(crate) fn moved(mut self) -> Self {
        self.flags |= MOVED;
        self
    }

    #[inline]
    pub(crate) fn is_moved(&self) -> bool {
        self.flags & MOVED != 0
    }

    /// Reads the header of a message; `None` if it is too short for one.
    #[inline]
    pub(crate) fn of(msg: &Incoming) -> Option<Self> {
        msg.msg.get(..HEADER).map(bytemuck::pod_read_unaligned)
    }

    /// Writes the header and then serialized bytes.
    #[inline]
    pub(crate) fn fill(&self, bytes: &[u8], room: &mut [MaybeUninit<u8>]) {
        let at = moved::put_pod(room, 0, self);
        moved::put_bytes(room, at, bytes);
    }
}
