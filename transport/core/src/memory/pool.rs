//! A PE's pool: it hands out blocks of the PE's arena. Any thread or process may fill, send, read and drop them.
//!
//! # Who can hold a block
//! A pool can grow to the sum of these. There are no other holders.
//! - the user and the PE's own unsent messages: unbounded, as for any allocator;
//! - on the way to a peer, or received by it and not yet taken: the peer's credit (64 MiB by default) for each peer;
//! - received and kept by the peer's user: unbounded, as above;
//! - returned but not yet noticed: on the return stack, counted above already;
//! - free: at most what was in use at once, by class.
//!
//! An allocation takes from the free lists, then from the return stack, then from fresh arena. So a pool never
//! waits, and cannot deadlock.
//!
//! # The return stack
//! The thread or process that drops a block returns it: it writes the offset of the stack's top into the
//! block's first word and makes the block the top (compare-and-swap, release). The owner takes the whole stack at once (swap,
//! acquire). Single blocks are never taken, so a top that was replaced in between and came back does no harm (no ABA). Links
//! lie in shared memory: the owner accepts only those that its private notes confirm.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::map::{HUGE, PAGE};
use super::segment::Segment;
use super::{Home, RegBuf};
use crate::sync::Word;
use crate::{Pe, TransportError};

/// Puts `unit` on a stack; `link` writes the block's link.
pub(crate) fn push<W: Word>(top: &W, unit: u64, link: impl Fn(u64)) {
    let mut old = top.load(Ordering::Relaxed);
    loop {
        link(old);
        match top.replace(old, unit + 1, Ordering::Release) {
            Ok(_) => return,
            Err(now) => old = now,
        }
    }
}

/// Takes a whole stack, and returns the link to its first block.
pub(crate) fn take_all<W: Word>(top: &W) -> u64 {
    if top.load(Ordering::Relaxed) == 0 {
        return 0;
    }
    top.swap(0, Ordering::Acquire)
}

/// The first of 2^32 tags ([`Home::tag`]) that no other memory of this process has had, or will have.
pub fn fresh_tags() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed) << 32
}

/// The arena of a segment as a home of buffers. It may be the arena of a peer.
pub struct Arena {
    segment: Arc<Segment>,
    tag: u64,
}

impl Arena {
    /// The arena of `segment`; `tag` distinguishes it from all others of this process.
    pub fn new(segment: Arc<Segment>, tag: u64) -> Self {
        Self { segment, tag }
    }

    /// The offset of a block, if `ptr` is in the arena.
    pub fn offset_of(&self, ptr: *const u8) -> Option<usize> {
        (ptr as usize).checked_sub(self.segment.arena().as_ptr() as usize).filter(|&o| o < self.segment.arena_len())
    }

    /// The address of the `len` bytes at `offset`, if the arena contains them.
    pub fn range(&self, offset: u64, len: u64) -> Option<NonNull<u8>> {
        let end = offset.checked_add(len)?;
        if end > self.segment.arena_len() as u64 {
            return None;
        }
        // SAFETY: within the arena.
        Some(unsafe { self.segment.arena().add(usize::try_from(offset).ok()?) })
    }

    fn link(&self, unit: u64) -> &AtomicU64 {
        let at = usize::try_from(unit).expect("within the arena") * PAGE;
        assert!(at < self.segment.arena_len());
        // SAFETY: within the arena, page aligned; the block is free, so its first word is a link, touched atomically.
        unsafe { self.segment.arena().add(at).cast().as_ref() }
    }
}

// SAFETY: a block is given to one RegBuf at a time: by the pool that owns the arena, which notes it, and by the
// receiver of a hand-over, whose sender forgot it.
unsafe impl Home for Arena {
    unsafe fn reclaim(&self, block: NonNull<u8>, _cap: usize) {
        let offset = self.offset_of(block.as_ptr()).expect("a block lies in its arena");
        let unit = (offset / PAGE) as u64;
        push(&self.segment.header().returned.0, unit, |old| self.link(unit).store(old, Ordering::Relaxed));
    }

    fn tag(&self) -> u64 {
        self.tag
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("tag", &self.tag).finish_non_exhaustive()
    }
}

/// Classes double from a page to 1 MiB, then there are four to a doubling, so that at most a fifth of a large block is waste.
const DOUBLING: usize = 9;
const CLASSES: usize = DOUBLING + 4 * 27;
/// Blocks up to this size are carved from slabs of a huge page.
const CARVED_MAX: usize = 256 << 10;
const OUT: u8 = 0x80;

/// The class for `len` bytes; `None`: larger than any arena.
fn class_of(len: usize) -> Option<usize> {
    let last = len.max(PAGE) - 1;
    let log = last.ilog2() as usize;
    let class =
        if log < 20 { (log + 1).saturating_sub(12) } else { DOUBLING + (log - 20) * 4 + (last >> (log - 2) & 3) };
    (class < CLASSES).then_some(class)
}

/// Bytes of a block of a class.
fn size_of_class(class: usize) -> usize {
    match class.checked_sub(DOUBLING) {
        None => PAGE << class,
        Some(large) => (5 + large % 4) << (18 + large / 4),
    }
}

/// The owner's end of an arena. Not shared: one PE allocates.
pub struct Pool {
    owner: Pe,
    arena: Arc<Arena>,
    home: Arc<dyn Home>,
    /// Free blocks of each class, by unit (page), the warmest last.
    free: Vec<Vec<u32>>,
    /// For each page up to `used`: the class + 1 of the block that begins there, and whether it is out.
    notes: Vec<u8>,
    /// Bytes of the arena that have ever been used.
    used: usize,
    /// The rest of the slab that is being carved.
    slab: std::ops::Range<usize>,
}

impl Pool {
    /// The pool of `owner` over its arena, which must be unused.
    pub fn new(owner: Pe, arena: Arc<Arena>) -> Self {
        let home = arena.clone();
        Self { owner, arena, home, free: vec![Vec::new(); CLASSES], notes: Vec::new(), used: 0, slab: 0..0 }
    }

    /// A block for `len` bytes. Its bytes are initialized but arbitrary.
    ///
    /// # Errors
    /// If there is no memory, or a peer wrote an invalid link to the return stack.
    pub fn alloc(&mut self, len: usize) -> Result<RegBuf, TransportError> {
        let too_large = || TransportError::Resource {
            what: "pool memory",
            need: format!("{len} bytes in one buffer"),
            advice: "send it in parts",
        };
        let class = class_of(len).ok_or_else(too_large)?;
        let unit = match self.free[class].pop() {
            Some(unit) => unit,
            None => self.refill(class)?,
        };
        let size = self.size(unit);
        self.notes[unit as usize] |= OUT;
        let ptr = self.arena.range(unit as u64 * PAGE as u64, size as u64).expect("a block lies in its arena");
        // SAFETY: the block is reserved memory of the arena, page aligned, and noted as out: it has no other owner.
        Ok(unsafe { RegBuf::from_raw(ptr, len, size, self.home.clone()) })
    }

    fn size(&self, unit: u32) -> usize {
        size_of_class(usize::from((self.notes[unit as usize] & !OUT) - 1))
    }

    #[cold]
    fn refill(&mut self, class: usize) -> Result<u32, TransportError> {
        self.drain()?;
        // For a large block, a slightly larger free block is better than a new one.
        let classes = if class < DOUBLING { class..=class } else { class..=(class + 2).min(CLASSES - 1) };
        if let Some(unit) = classes.into_iter().find_map(|class| self.free[class].pop()) {
            return Ok(unit);
        }
        let size = size_of_class(class);
        let at = if size <= CARVED_MAX {
            if self.slab.len() < size {
                self.slab = self.grow(HUGE)?;
            }
            let at = self.slab.start;
            self.slab.start += size;
            at
        } else {
            self.grow(size)?.start
        };
        let unit = at / PAGE;
        self.notes[unit] = u8::try_from(class + 1).expect("there are fewer classes");
        Ok(u32::try_from(unit).expect("arenas have less than 2^32 pages"))
    }

    /// Takes at least `len` fresh bytes of the arena.
    fn grow(&mut self, len: usize) -> Result<std::ops::Range<usize>, TransportError> {
        let start = if len >= HUGE { self.used.next_multiple_of(HUGE) } else { self.used };
        self.arena.range(start as u64, len as u64).ok_or_else(|| TransportError::Resource {
            what: "pool memory",
            need: format!("{len} bytes more than the {} in use", self.used),
            advice: "use fewer or smaller messages at a time, or more memory",
        })?;
        self.arena.segment.reserve(start, len)?;
        self.used = start + len;
        self.notes.resize(self.used.div_ceil(PAGE), 0);
        Ok(start..start + len)
    }

    /// Sorts returned blocks into the free lists.
    fn drain(&mut self) -> Result<(), TransportError> {
        let mut link = take_all(&self.arena.segment.header().returned.0);
        while link != 0 {
            let bad = TransportError::Protocol {
                from: self.owner,
                what: "an invalid offset on the return stack",
                detail: link,
            };
            let Ok(unit) = u32::try_from(link - 1) else { return Err(bad) };
            match self.notes.get_mut(unit as usize) {
                Some(note) if *note & OUT != 0 => {
                    *note &= !OUT;
                    link = self.arena.link(u64::from(unit)).load(Ordering::Relaxed);
                    self.free[usize::from(*note) - 1].push(unit);
                }
                _ => return Err(bad),
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("owner", &self.owner).field("used", &self.used).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        let segment = Arc::new(Segment::private(1 << 16, 256 << 20).unwrap());
        Pool::new(Pe(3), Arc::new(Arena::new(segment, 1)))
    }

    #[test]
    fn a_new_pool_at_the_address_of_an_old_one_has_another_tag() {
        let tags = (0..8).map(|_| {
            let segment = Arc::new(Segment::private(1 << 16, 256 << 20).unwrap());
            let buf = Pool::new(Pe(3), Arc::new(Arena::new(segment, fresh_tags()))).alloc(100_000).unwrap();
            (buf.tag(), buf.as_ptr() as usize)
        });
        let (tags, places): (Vec<_>, std::collections::BTreeSet<_>) = tags.unzip();
        assert!(tags.iter().all(|tag| *tag != 0) && tags.is_sorted_by(|a, b| a < b));
        assert!(places.len() < 8, "the system maps it again where it was");
    }

    #[test]
    fn a_class_holds_the_lengths_it_serves_and_wastes_little() {
        let sizes =
            (0..46).flat_map(|log| [(1usize << log) - 1, 1 << log, (1 << log) + 1, (1 << log) + (1 << log) / 3]);
        for len in sizes {
            let class = class_of(len).unwrap();
            assert!(size_of_class(class) >= len, "{len}");
            assert!(class == 0 || size_of_class(class - 1) < len, "{len}");
            assert!(len < 1 << 20 || size_of_class(class) - len <= len / 4 + 1, "{len}");
        }
        assert_eq!(class_of(1 << 50), None);
    }

    #[test]
    fn a_block_dropped_by_another_thread_is_used_again() {
        let mut pool = pool();
        for len in [1, 5000, 300_000, 3 << 20] {
            let buf = pool.alloc(len).unwrap();
            let at = buf.as_ptr() as usize;
            assert!(buf.len() == len && buf.capacity() >= len);
            std::thread::spawn(move || drop(buf)).join().unwrap();
            assert_eq!(pool.alloc(len).unwrap().as_ptr() as usize, at);
        }
    }

    #[test]
    fn blocks_in_use_never_overlap() {
        let mut pool = pool();
        let mut out: Vec<RegBuf> = Vec::new();
        for round in 0..2000usize {
            out.push(pool.alloc((round * 7919) % 200_000 + 1).unwrap());
            if round % 3 == 0 {
                out.swap_remove(round % out.len());
            }
            if round % 100 == 0 {
                let mut ranges: Vec<_> = out.iter().map(|b| (b.as_ptr() as usize, b.capacity())).collect();
                ranges.sort_unstable();
                assert!(ranges.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0));
            }
            if out.len() > 400 {
                out.clear();
            }
        }
    }

    #[test]
    fn a_forged_link_on_the_return_stack_is_an_error_and_not_followed() {
        for link in [1 << 40, 77, u64::MAX] {
            let mut pool = pool();
            let kept = pool.alloc(4096).unwrap();
            pool.arena.segment.header().returned.0.store(link, Ordering::Relaxed);
            assert!(matches!(pool.alloc(4096), Err(TransportError::Protocol { .. })));
            drop(kept);
        }
    }

    #[test]
    fn a_block_returned_twice_is_an_error() {
        let mut pool = pool();
        drop(pool.alloc(4096).unwrap());
        let returned = &pool.arena.segment.header().returned.0;
        // The block's link points to itself.
        pool.arena.link(0).store(returned.load(Ordering::Relaxed), Ordering::Relaxed);
        assert!(matches!(pool.alloc(4096), Err(TransportError::Protocol { .. })));
    }

    #[test]
    fn an_allocation_larger_than_the_arena_is_an_error_that_says_so() {
        let mut pool = pool();
        assert!(matches!(pool.alloc(257 << 20), Err(TransportError::Resource { .. })));
        assert!(pool.alloc(100 << 20).is_ok());
    }
}
