//! The inbox: a ring of bytes with many writers and one reader. One per PE and kind of memory.
//!
//! It does not know whose memory it lies in, nor what its records mean.
//!
//! # The protocol
//! The ring has `n` slots of 64 bytes (a power of two), mapped twice back to back, so that every record is contiguous. A
//! record is a 16-byte header and a body, in as many slots as it needs. Positions count slots and never wrap.
//!
//! *Claim.* A sender loads `tail`, makes sure that the record ends at most `n` slots after `head` (at first it uses a cached value:
//! the real one is in another core's cache line), and moves `tail` over the record by compare-and-swap. From there on the slots
//! are its own. Senders contend nowhere else.
//!
//! *Publish.* It writes the body and the header's second word, then, with one release store, the header's first word, the
//! *commit word*: kind, length and immediate, and the parity of the lap. The reader looks only at the commit word of
//! the next record, and takes the record when the word is not 0 and its parity is that of the reader's own lap.
//!
//! *Why parity is enough.* Whenever the reader looks at a slot of lap `l`, its first word is one of three: the commit
//! word of lap `l - 1`, if a record began there, whose parity differs; 0, if the slot lay inside a record of lap `l - 1`
//! (the reader cleared it) or was never used; or the commit word of lap `l`. So the reader never writes a record of one slot, the usual
//! case, and its cache line travels once there and once back.
//!
//! *Free.* The reader copies a record's body out, or reads what it describes, and frees it before it looks at the next one: it clears the
//! first word of each of its slots but the first. It publishes its position (`head`, release) once an eighth of the ring has come free, or
//! when it finds nothing to read. A sender's acquire load of `head` therefore sees the clearing before it writes these slots again.
//!
//! *A sender that dies* between claim and publish stops the ring. Between threads, a panic in the middle publishes
//! a record to be skipped; between processes the job ends with any of its processes.

use std::cell::Cell;
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::Imm;
use crate::sync::Word;

/// Bytes of a slot: a cache line.
pub(crate) const SLOT: usize = 64;
/// Bytes of a record's header.
pub(crate) const HEADER: usize = 16;
/// Longest body of a record. It costs more to copy a longer one than to hand over a buffer.
pub const BODY_MAX: usize = 1024;
/// The most slots of a record.
const SLOTS_MAX: u64 = slots_for(BODY_MAX);
/// How many slots ahead of its writes a sender prefetches.
const AHEAD: u64 = 8;

/// The type of a record's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordKind {
    /// No body: the reader skips the record.
    Skip = 1,
    /// A message.
    Message = 2,
    /// The description of a buffer that is the message.
    Buffer = 3,
    /// The notice that a put has arrived.
    Put = 4,
}

/// The slots that a body of `len` bytes needs.
#[inline]
pub(crate) const fn slots_for(len: usize) -> u64 {
    ((HEADER + len).div_ceil(SLOT)) as u64
}

/// The memory of a ring.
pub(crate) trait RingMemory {
    /// The type of its words.
    type Word: Word;
    /// The number of slots: a power of two.
    fn slots(&self) -> u64;
    /// The first slot that no sender has claimed.
    fn tail(&self) -> &Self::Word;
    /// The oldest slot that is not free, as published.
    fn head(&self) -> &Self::Word;
    /// The first word of a slot.
    fn word(&self, slot: u64) -> &Self::Word;
    /// Announces that a slot will be written soon.
    fn prefetch(&self, _slot: u64) {}
}

/// Claims `n` slots. `None`: there is no room.
#[inline]
pub(crate) fn claim<P: RingMemory>(place: &P, head: &mut u64, n: u64) -> Option<u64> {
    let mut tail = place.tail().load(Ordering::Relaxed);
    loop {
        if tail.wrapping_add(n).wrapping_sub(*head) > place.slots() {
            *head = place.head().load(Ordering::Acquire);
            if tail.wrapping_add(n).wrapping_sub(*head) > place.slots() {
                return None;
            }
        }
        match place.tail().replace(tail, tail.wrapping_add(n), Ordering::Relaxed) {
            Ok(_) => return Some(tail),
            Err(now) => tail = now,
        }
    }
}

/// The low half. (A ring has fewer than 2^32 slots.)
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "only the low half is needed")]
fn low(word: u64) -> u32 {
    word as u32
}

/// Whether `n` slots could be claimed now.
pub(crate) fn has_room<P: RingMemory>(place: &P, head: &mut u64, n: u64) -> bool {
    let end = place.tail().load(Ordering::Relaxed).wrapping_add(n);
    if end.wrapping_sub(*head) > place.slots() {
        *head = place.head().load(Ordering::Acquire);
    }
    end.wrapping_sub(*head) <= place.slots()
}

#[inline]
fn lap(slot: u64, slots: u64) -> u64 {
    // The first lap is odd, so that a fresh ring of zeros holds nothing.
    u64::from(slot & slots == 0)
}

/// Publishes the record at `slot`.
#[inline]
pub(crate) fn publish<P: RingMemory>(place: &P, slot: u64, kind: RecordKind, len: usize, imm: Imm) {
    debug_assert!(len <= BODY_MAX);
    let word = lap(slot, place.slots()) << 63 | (kind as u64) << 56 | (len as u64) << 32 | u64::from(imm.0);
    place.word(slot).store(word, Ordering::Release);
    let next = slot.wrapping_add(slots_for(len));
    for ahead in 0..slots_for(len) {
        place.prefetch(next.wrapping_add(AHEAD).wrapping_add(ahead));
    }
}

/// Publishes any 63 bits as the record at `slot`.
#[cfg(any(fuzzing, feature = "faults"))]
pub(crate) fn publish_forged<P: RingMemory>(place: &P, slot: u64, word: u64) {
    place.word(slot).store(lap(slot, place.slots()) << 63 | word >> 1, Ordering::Release);
}

/// The words of a [`Raw`] ring that senders and the reader write, each on cache lines of its own (two, because of the prefetcher).
#[repr(C, align(128))]
pub(crate) struct Ends {
    tail: AtomicU64,
    _apart: [u64; 15],
    head: AtomicU64,
    _end: [u64; 15],
}

/// A ring in mapped memory. These are plain pointers: the holder keeps the mapping alive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw {
    slots: NonNull<u8>,
    ends: NonNull<Ends>,
    mask: u64,
}

impl Raw {
    /// A ring of `bytes` (a power of two) at `slots`, mapped twice.
    ///
    /// # Safety
    /// `slots` must be valid for reads and writes of twice `bytes`, the second half a mirror of the first, page aligned, zero
    /// before first use and touched only through a `Raw`; `ends` likewise; both for as long as any copy is used.
    pub(crate) unsafe fn new(slots: NonNull<u8>, bytes: usize, ends: NonNull<Ends>) -> Self {
        assert!(bytes.is_power_of_two() && bytes >= SLOT);
        Self { slots, ends, mask: (bytes / SLOT) as u64 - 1 }
    }

    #[inline]
    fn at(&self, slot: u64) -> NonNull<u8> {
        // SAFETY: masked, the offset is within the first mapping.
        unsafe { self.slots.add(low(slot & self.mask) as usize * SLOT) }
    }

    /// The body of the record at `slot`: at least [`BODY_MAX`] bytes can be addressed there.
    #[inline]
    pub(crate) fn body(&self, slot: u64) -> NonNull<u8> {
        // SAFETY: a record begins in the first mapping, and the second mapping makes its body contiguous.
        unsafe { self.at(slot).add(HEADER) }
    }

    /// The header's second word: the sender of the record.
    #[inline]
    pub(crate) fn from(&self, slot: u64) -> &AtomicU32 {
        // SAFETY: within the slot, 4-byte aligned, and accessed only as an atomic.
        unsafe { self.at(slot).add(8).cast().as_ref() }
    }
}

impl RingMemory for Raw {
    type Word = AtomicU64;
    #[inline]
    fn slots(&self) -> u64 {
        self.mask + 1
    }
    #[inline]
    fn tail(&self) -> &AtomicU64 {
        // SAFETY: `new`'s contract.
        unsafe { &self.ends.as_ref().tail }
    }
    #[inline]
    fn head(&self) -> &AtomicU64 {
        // SAFETY: `new`'s contract.
        unsafe { &self.ends.as_ref().head }
    }
    #[inline]
    fn word(&self, slot: u64) -> &AtomicU64 {
        // SAFETY: 64-byte aligned, in the mapping. The same bytes are written non-atomically as part of a body, but only by the
        // sender that claimed them, before it publishes and after the reader freed them.
        unsafe { self.at(slot).cast().as_ref() }
    }
    #[inline]
    fn prefetch(&self, slot: u64) {
        prefetch_for_write(self.at(slot).as_ptr());
    }
}

/// Requests ownership of a cache line that is written soon. A store that misses stalls the next locked instruction; this does not.
#[inline]
fn prefetch_for_write(at: *mut u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, for any address; processors without it ignore it. (The compiler's intrinsic falls back to a
    // prefetch for reading unless the target says otherwise.)
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a hint, for any address.
    unsafe {
        std::arch::asm!("prfm pstl1keep, [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

/// A record that has arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublishedRecord {
    pub(crate) slot: u64,
    /// The kind as the sender wrote it.
    pub(crate) kind: u8,
    pub len: usize,
    pub(crate) imm: Imm,
}

/// A commit word that no correct sender writes.
#[derive(Clone, Copy, Debug)]
pub struct BadLength(pub u64);

/// The reading end. Its state is private: nothing that decides where it reads or frees lies in shared memory.
pub(crate) struct Consumer<P> {
    pub place: P,
    /// The next slot to read.
    next: Cell<u64>,
    /// The value of `next` that the senders know.
    published: Cell<u64>,
}

impl<P: RingMemory> Consumer<P> {
    /// The reader of `place`, a ring that has not been read yet. There must be only one.
    pub(crate) fn new(place: P) -> Self {
        assert!(place.slots().is_power_of_two() && place.slots() >= 4 * SLOTS_MAX || cfg!(loom));
        Self { place, next: Cell::new(0), published: Cell::new(0) }
    }

    /// Whether a record has arrived.
    #[inline]
    pub(crate) fn ready(&self) -> bool {
        let next = self.next.get();
        let word = self.place.word(next).load(Ordering::Acquire);
        word != 0 && word >> 63 == lap(next, self.place.slots())
    }

    /// Looks at the next record, which stays the next one until [`Consumer::free`].
    #[inline]
    pub(crate) fn take(&self) -> Result<Option<PublishedRecord>, BadLength> {
        let slot = self.next.get();
        let word = self.place.word(slot).load(Ordering::Acquire);
        if word == 0 || word >> 63 != lap(slot, self.place.slots()) {
            if self.published.get() != slot {
                self.settle();
            }
            return Ok(None);
        }
        let len = low(word >> 32 & 0xff_ffff) as usize;
        if len > BODY_MAX {
            return Err(BadLength(len as u64));
        }
        let kind = u8::try_from(word >> 56 & 0x7f).expect("7 bits");
        Ok(Some(PublishedRecord { slot, kind, len, imm: Imm(low(word)) }))
    }

    /// Frees the slots of the record that `take` found.
    #[inline]
    pub(crate) fn free(&self, found: &PublishedRecord) {
        debug_assert_eq!(found.slot, self.next.get(), "a record is freed once, before the next is looked at");
        let n = slots_for(found.len);
        for inner in 1..n {
            self.place.word(found.slot.wrapping_add(inner)).store(0, Ordering::Relaxed);
        }
        let next = found.slot.wrapping_add(n);
        self.next.set(next);
        if next.wrapping_sub(self.published.get()) >= self.place.slots() / 8 {
            self.settle();
        }
    }

    /// The next slot to read.
    pub(crate) fn next(&self) -> u64 {
        self.next.get()
    }

    /// Publishes which slots are free.
    #[inline]
    pub(crate) fn settle(&self) {
        self.published.set(self.next.get());
        self.place.head().store(self.next.get(), Ordering::Release);
    }
}

impl<P> fmt::Debug for Consumer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("next", &self.next).finish_non_exhaustive()
    }
}
