//! The ranges of message tags: one for each part that sends messages. A tag is one byte; the part that owns a range names its tags.
//!
//! | range | owner | its tags are in | handled |
//! |---|---|---|---|
//! | [`OBJECTS`] | the object model: calls, replies, collections | `chare/src/message/envelope.rs` | from the PE's queue |
//! | [`SCHEDULER`] | the scheduler: quiescence | `scheduler/src/quiescence.rs` | while the PE polls |
//! | [`OBJECTS_SYSTEM`] | the object model: exit, deadlock | `chare/src/message/envelope.rs` | while the PE polls |
//! | [`PORT`] | the port: payloads, rendezvous, credit | `frame.rs` | by the port |
//!
//! Messages of the two middle ranges are *system messages*: they need no credit, and may overtake messages that wait for some.

use std::ops::Range;

/// Messages of the object model that wait in the queue of their PE.
pub const OBJECTS: Range<u8> = 0x00..0xE0;
/// System messages of the scheduler.
pub const SCHEDULER: Range<u8> = 0xE0..0xE8;
/// System messages of the object model.
pub const OBJECTS_SYSTEM: Range<u8> = 0xE8..0xF0;
/// Frames of the port, which no layer above sees. They go up to 0xFF.
pub const PORT: u8 = 0xF0;

/// Whether a tag lies in a range, for assertions of constants.
#[must_use]
pub const fn is_in(tag: u8, range: &Range<u8>) -> bool {
    range.start <= tag && tag < range.end
}

const _: () =
    assert!(OBJECTS.end == SCHEDULER.start && SCHEDULER.end == OBJECTS_SYSTEM.start && OBJECTS_SYSTEM.end == PORT);
