//! Windows in shared memory: what peers of the same process or host may put into and get from.
//!
//! # The protocol
//! Every PE has a table of windows in its segment's header. A window's *state* word is its generation, whether it is
//! open, and the number of peers inside. A peer enters by adding itself to the state (compare-and-swap) if the window is open and its
//! generation is that of the key. It copies, and leaves by subtracting itself (release). The owner closes by clearing the open bit
//! (then no peer enters any more), waits until no peer is inside (acquire), and moves on to the next generation, so that an
//! old key never matches again. So a put with a stale key fails at its origin, and touches nothing.
//!
//! A peer that dies inside never leaves. So an owner that waits for long asks whether a peer is gone, and then gives up. It cannot
//! know whether that peer was inside, so neither the memory nor the window is used again, and the job ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::segment::{Segment, WINDOWS, WindowSlot};
use crate::sync::Word;

/// How long the owner that closes a window waits for peers inside before it asks whether they are alive. The largest copy takes less.
/// (A fuzzer's peers never leave.)
const PATIENCE: Duration = Duration::from_millis(if cfg!(fuzzing) { 1 } else { 1000 });
const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;

/// Enters the window, if it is open in this generation.
pub(crate) fn enter<W: Word>(state: &W, generation: u32) -> bool {
    let mut now = state.load(Ordering::Relaxed);
    loop {
        if now >> 32 != u64::from(generation) || now & OPEN == 0 || now & INSIDE == INSIDE {
            return false;
        }
        match state.replace(now, now + 1, Ordering::Acquire) {
            Ok(_) => return true,
            Err(other) => now = other,
        }
    }
}

/// Leaves the window.
pub(crate) fn leave<W: Word>(state: &W) {
    let mut now = state.load(Ordering::Relaxed);
    while let Err(other) = state.replace(now, now.wrapping_sub(1), Ordering::Release) {
        now = other;
    }
}

/// Opens a closed window. Its description must have been written.
pub(crate) fn open<W: Word>(state: &W) -> u32 {
    let generation = state.load(Ordering::Relaxed) >> 32;
    state.store(generation << 32 | OPEN, Ordering::Release);
    u32::try_from(generation).expect("32 bits")
}

/// Closes an open window, and returns once no peer is inside. While it waits it calls `relax`, which may give up. Then a peer may
/// be inside, the window must not be used again, and the result is false.
pub(crate) fn close<W: Word>(state: &W, mut relax: impl FnMut() -> bool) -> bool {
    let mut now = state.load(Ordering::Relaxed);
    while let Err(other) = state.replace(now, now & !OPEN, Ordering::Relaxed) {
        now = other;
    }
    while state.load(Ordering::Acquire) & INSIDE != 0 {
        if !relax() {
            return false;
        }
    }
    state.store((((now >> 32) + 1) & 0xffff_ffff) << 32, Ordering::Relaxed);
    true
}

/// Describes a window to peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WindowAddress {
    /// Identifies the memory; the backend defines the values.
    pub whose: u64,
    /// The address in that memory.
    pub addr: u64,
    /// The length, in bytes.
    pub len: u64,
}

/// A peer inside a window. Leaves when dropped.
#[derive(Debug)]
pub struct Inside<'a> {
    slot: &'a WindowSlot,
    /// The address of its memory.
    pub place: WindowAddress,
}

impl<'a> Inside<'a> {
    /// Enters window `index` of the PE that owns the segment.
    pub fn enter(segment: &'a Segment, index: u32, generation: u32) -> Option<Self> {
        let slot = segment.header().windows.get(index as usize)?;
        if !enter(&slot.state, generation) {
            return None;
        }
        let place = WindowAddress {
            whose: slot.place.load(Ordering::Relaxed),
            addr: slot.addr.load(Ordering::Relaxed),
            len: slot.len.load(Ordering::Relaxed),
        };
        Some(Self { slot, place })
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        leave(&self.slot.state);
    }
}

/// The owner's end of the table.
#[derive(Debug)]
pub struct Windows {
    segment: Arc<Segment>,
    free: Vec<u32>,
}

impl Windows {
    /// The table of this PE's segment.
    pub fn new(segment: Arc<Segment>) -> Self {
        Self { segment, free: (0..u32::try_from(WINDOWS).expect("few")).rev().collect() }
    }

    /// Opens a window, and returns its index and generation. `None`: the table is full.
    pub fn open(&mut self, place: WindowAddress) -> Option<(u32, u32)> {
        let index = self.free.pop()?;
        let slot = &self.segment.header().windows[index as usize];
        slot.place.store(place.whose, Ordering::Relaxed);
        slot.addr.store(place.addr, Ordering::Relaxed);
        slot.len.store(place.len, Ordering::Relaxed);
        Some((index, open(&slot.state)))
    }

    /// Closes all open windows.
    pub fn close_all(&mut self, mut a_peer_is_gone: impl FnMut() -> bool) {
        let states = self.segment.header().windows.iter().map(|slot| slot.state.load(Ordering::Relaxed));
        let open: Vec<_> = (0..).zip(states).filter(|(_, state)| state & OPEN != 0).map(|(index, _)| index).collect();
        for index in open {
            self.close(index, &mut a_peer_is_gone);
        }
    }

    /// Closes a window. Returns whether no peer is inside. If that takes long, it gives up once `a_peer_is_gone`.
    pub fn close(&mut self, index: u32, mut a_peer_is_gone: impl FnMut() -> bool) -> bool {
        let mut ask_at = None;
        let closed = close(&self.segment.header().windows[index as usize].state, || {
            std::thread::yield_now();
            let now = Instant::now();
            if now < *ask_at.get_or_insert(now + PATIENCE) {
                return true;
            }
            ask_at = Some(now + PATIENCE);
            !a_peer_is_gone()
        });
        if closed {
            self.free.push(index);
        }
        closed
    }
}

impl std::fmt::Debug for WindowSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WindowSlot").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_peer_enters_a_window_whose_owner_is_gone() {
        let segment = Arc::new(Segment::private(1 << 16, 1 << 21).unwrap());
        let mut windows = Windows::new(segment.clone());
        let place = WindowAddress { whose: 0, addr: 4096, len: 10 };
        let names: Vec<_> = (0..3).map(|_| windows.open(place).unwrap()).collect();
        assert!(windows.close(names[1].0, || false));
        let enters = |(index, generation)| Inside::enter(&segment, index, generation).is_some();
        assert_eq!(names.iter().map(|name| enters(*name)).collect::<Vec<_>>(), [true, false, true]);
        windows.close_all(|| false);
        assert!(!names.into_iter().any(enters));
    }
}
