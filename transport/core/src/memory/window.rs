//! Windows in near memory: what peers of the same process or host may put into and get from.
//!
//! # The protocol
//! Every PE has a table of windows in its segment's header. A window's *state* word is its generation, whether it is
//! open, and the number of peers inside. A peer enters by adding itself to the state (compare-and-swap) if it is open and the
//! generation is the key's; it copies, and leaves by subtracting itself (release). The owner closes by clearing the open bit
//! (then nobody enters any more), waits until nobody is inside (acquire), and moves on to the next generation, so that an
//! old key never fits again. A put with a stale key therefore fails where it starts, and touches nothing.
//!
//! A peer that dies inside never leaves. So an owner that waits for long asks whether a peer is gone, and then gives up: nobody
//! knows that it was this one, so the memory is never used again, nor the window, and the job ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::segment::{Segment, WINDOWS, WindowSlot};
use crate::sync::Word;

/// How long peers may be inside a window that is being closed before it is asked whether they live. The largest copy takes less.
/// (A fuzzer's peers never leave.)
const PATIENCE: Duration = Duration::from_millis(if cfg!(fuzzing) { 1 } else { 1000 });
const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;

/// Enters, if the window is open in this generation.
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

/// Leaves what was entered.
pub(crate) fn leave<W: Word>(state: &W) {
    let mut now = state.load(Ordering::Relaxed);
    while let Err(other) = state.replace(now, now.wrapping_sub(1), Ordering::Release) {
        now = other;
    }
}

/// Opens a closed window; its description has been written.
pub(crate) fn open<W: Word>(state: &W) -> u32 {
    let generation = state.load(Ordering::Relaxed) >> 32;
    state.store(generation << 32 | OPEN, Ordering::Release);
    u32::try_from(generation).expect("32 bits")
}

/// Closes an open window; returns once nobody is inside. `relax` is called while it waits, and may give up: then somebody may
/// be inside, the window is of no use any more, and the answer is false.
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

/// What a window is, as its peers read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WindowAddress {
    /// The backend's own word for whose memory it is.
    pub whose: u64,
    /// Where in it.
    pub addr: u64,
    /// How many bytes.
    pub len: u64,
}

/// A peer inside a window. Leaves when dropped.
#[derive(Debug)]
pub struct Inside<'a> {
    slot: &'a WindowSlot,
    /// Where its memory is.
    pub place: WindowAddress,
}

impl<'a> Inside<'a> {
    /// Enters window `index` of the PE whose segment this is.
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

    /// Opens a window: its index and generation. `None`: the table is full.
    pub fn open(&mut self, place: WindowAddress) -> Option<(u32, u32)> {
        let index = self.free.pop()?;
        let slot = &self.segment.header().windows[index as usize];
        slot.place.store(place.whose, Ordering::Relaxed);
        slot.addr.store(place.addr, Ordering::Relaxed);
        slot.len.store(place.len, Ordering::Relaxed);
        Some((index, open(&slot.state)))
    }

    /// Closes all that are open.
    pub fn close_all(&mut self, mut a_peer_is_gone: impl FnMut() -> bool) {
        let states = self.segment.header().windows.iter().map(|slot| slot.state.load(Ordering::Relaxed));
        let open: Vec<_> = (0..).zip(states).filter(|(_, state)| state & OPEN != 0).map(|(index, _)| index).collect();
        for index in open {
            self.close(index, &mut a_peer_is_gone);
        }
    }

    /// Closes it. Whether nobody is inside any more: where that takes long, it is given up once `a_peer_is_gone`.
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
    fn nobody_enters_a_window_whose_owner_is_gone() {
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
