//! A PE's inbox as its reader and its senders hold it: the ring, and the segment that keeps the ring alive.

use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::msg::Msg;
use super::segment::Segment;
use super::slab::Slab;
use crate::ring::{BadLength, Consumer, PublishedRecord, Raw, RecordKind, claim, has_room, publish, slots_for};
use crate::{Imm, Pe};

/// The reading end.
pub struct Inbox {
    consumer: Consumer<Raw>,
    segment: Arc<Segment>,
}

/// A record that has arrived. It must be freed before the next one is taken.
#[derive(Debug)]
pub struct Record {
    found: PublishedRecord,
    /// The sender.
    pub from: u32,
}

impl Inbox {
    /// The reader of `segment`'s ring. There must be only one.
    pub fn new(segment: Arc<Segment>) -> Self {
        Self { consumer: Consumer::new(segment.ring()), segment }
    }

    /// The segment that contains it.
    #[inline]
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Whether a record has arrived.
    #[inline]
    pub fn ready(&self) -> bool {
        self.consumer.ready()
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// The sender according to the record, and the impossible length.
    #[inline]
    pub fn take(&self) -> Result<Option<Record>, (u32, BadLength)> {
        match self.consumer.take() {
            Ok(None) => Ok(None),
            Ok(Some(found)) => {
                let from = self.consumer.place.from(found.slot).load(Ordering::Relaxed);
                Ok(Some(Record { found, from }))
            }
            Err(bad) => Err((self.consumer.place.from(self.consumer.next()).load(Ordering::Relaxed), bad)),
        }
    }

    /// The record's body, readable until it is freed.
    #[inline]
    pub fn body(&self, record: &Record) -> NonNull<u8> {
        self.consumer.place.body(record.found.slot)
    }

    /// Frees a record.
    #[inline]
    pub fn free(&self, record: &Record) {
        self.consumer.free(&record.found);
    }

    /// Moves a record's body into a block of `slab`, and frees the record.
    #[inline]
    pub fn moved_out(&self, record: &Record, slab: &Slab) -> Msg {
        // SAFETY: the body has that many bytes, written by its sender, and lies in the ring, of which 64 bytes can be read from
        // any slot on; the record is freed below, once.
        let msg = unsafe { Msg::copied(slab, self.body(record), record.found.len) };
        self.free(record);
        msg
    }
}

impl Record {
    /// The kind that the sender wrote, which need not be a [`RecordKind`].
    #[inline]
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.found.kind
    }
    /// Length of the body, in bytes.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a record is not a container")]
    pub fn len(&self) -> usize {
        self.found.len
    }
    /// The sender's 32 bits.
    #[inline]
    #[must_use]
    pub fn imm(&self) -> Imm {
        self.found.imm
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.consumer.fmt(f)
    }
}

/// The sending end: one for each sender and inbox.
#[derive(Debug)]
pub struct Outbox {
    ring: Raw,
    /// The inbox's head, when last loaded.
    head: u64,
    segment: Arc<Segment>,
}

// SAFETY: the ring's pointers point into the segment, which any thread may use.
unsafe impl Send for Outbox {}

/// Slots of a ring that belong to the sender. If it is dropped (in a panic) it publishes a record that the reader skips.
#[derive(Debug)]
pub struct Claim<'a> {
    /// A copy, which writes to the body cannot change: its addresses are computed once.
    ring: Raw,
    _outbox: PhantomData<&'a Raw>,
    slot: u64,
    len: usize,
}

impl Outbox {
    /// The sending end of the inbox of `segment`.
    pub fn new(segment: Arc<Segment>) -> Self {
        Self { ring: segment.ring(), head: 0, segment }
    }

    /// The segment that contains it.
    #[inline]
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Claims room for a body of `len` bytes, at most [`BODY_MAX`](crate::ring::BODY_MAX).
    #[inline]
    pub fn claim(&mut self, len: usize) -> Option<Claim<'_>> {
        let slot = claim(&self.ring, &mut self.head, slots_for(len))?;
        Some(Claim { ring: self.ring, _outbox: PhantomData, slot, len })
    }

    /// Whether a body of `len` bytes would fit now.
    pub fn has_room(&mut self, len: usize) -> bool {
        has_room(&self.ring, &mut self.head, slots_for(len))
    }

    /// The inbox's word that says whether its reader has closed.
    pub fn closed(&self) -> u32 {
        self.segment.header().closed.load(Ordering::Relaxed)
    }
}

impl Claim<'_> {
    /// The body.
    #[inline]
    pub fn body(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: the slots belong to this sender until they are published, and are contiguous.
        unsafe { std::slice::from_raw_parts_mut(self.ring.body(self.slot).as_ptr().cast(), self.len) }
    }

    /// Publishes the record. The body must have been written.
    #[inline]
    pub fn publish(self, from: Pe, kind: RecordKind, imm: Imm) {
        self.ring.from(self.slot).store(from.0, Ordering::Relaxed);
        publish(&self.ring, self.slot, kind, self.len, imm);
        #[expect(clippy::mem_forget, reason = "its drop is for claims that were not published")]
        std::mem::forget(self);
    }
}

/// What no sender of this project does, but a faulty process can do, since it has the memory.
#[cfg(any(fuzzing, feature = "faults"))]
impl Claim<'_> {
    /// Publishes a record whose commit word (but for the lap) and sender are these.
    pub fn publish_forged(self, from: u32, word: u64) {
        self.ring.from(self.slot).store(from, Ordering::Relaxed);
        crate::ring::publish_forged(&self.ring, self.slot, word);
        #[expect(clippy::mem_forget, reason = "its drop is for claims that were not published")]
        std::mem::forget(self);
    }
}

impl Drop for Claim<'_> {
    #[cold]
    fn drop(&mut self) {
        publish(&self.ring, self.slot, RecordKind::Skip, self.len, Imm(0));
    }
}
