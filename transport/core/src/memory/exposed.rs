//! Memory that peers write and read by the number of its window. For backends whose owner does the writing and reading for its peers. (`window` has the
//! windows in memory that both sides map.)
//!
//! A window's number is its index in a table and a generation. Generations start at a random value and are never used twice, so a key that is stale, forged
//! or of another PE matches no window. The highest bit says that the window is persistent, and that puts into it are not answered. Without answers a damaged
//! key would go unnoticed, so such a key also has its number inverted. The bytes of a peer are put into a window only here, after a lookup in this table, and
//! within the window's bounds. So a window that was taken back cannot be written, even by a peer that still believes it open.
//!
//! Bytes that are written by something else than this PE, such as a library that fetches them from the sender, take time to arrive. Meanwhile
//! their put is *inside* the window. The owner gets the memory back only when no put is inside.

use std::ptr::NonNull;

use super::RegBuf;
use crate::{RemoteKey, WindowId};

/// In a generation: the window is persistent.
const LASTS: u32 = 1 << 31;

/// See the module's text.
#[derive(Debug)]
pub struct Windows {
    slots: Vec<Slot>,
    free: Vec<u32>,
    generation: u32,
}

#[derive(Debug)]
struct Slot {
    /// 0: free.
    generation: u32,
    memory: NonNull<u8>,
    len: usize,
    open: bool,
    inside: u32,
}

/// A part of a window that a put is inside of.
#[derive(Debug)]
pub struct Part {
    pub(crate) window: u64,
    /// The first byte.
    pub memory: NonNull<u8>,
    /// Length, in bytes.
    pub len: usize,
}

impl Windows {
    /// A table without windows. Generations start after `generation`.
    pub fn new(generation: u32) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), generation: generation & !LASTS }
    }

    /// Makes memory reachable until [`Windows::remove`]. Until then the caller keeps the memory and does not access it. `lasts`: the window
    /// stays open as long as any peer may put into it.
    pub fn add(&mut self, buf: &RegBuf, lasts: bool) -> (WindowId, RemoteKey) {
        self.generation = if self.generation < LASTS - 1 { self.generation + 1 } else { 1 };
        let generation = self.generation | if lasts { LASTS } else { 0 };
        let memory = NonNull::new(buf.as_ptr()).expect("a buffer has an address");
        let slot = Slot { generation, memory, len: buf.len(), open: true, inside: 0 };
        let index = if let Some(index) = self.free.pop() {
            self.slots[index as usize] = slot;
            index
        } else {
            self.slots.push(slot);
            u32::try_from(self.slots.len() - 1).expect("windows are counted in 32 bits")
        };
        let number = u64::from(index) | u64::from(generation) << 32;
        let words = [number, !number].map(u64::to_le_bytes);
        let bytes = if lasts { words.as_flattened() } else { &words[0] };
        (WindowId(number), RemoteKey { len: buf.len() as u64, bytes: bytes.into() })
    }

    /// The number in a key, if its range has `len` bytes at `offset`.
    pub fn number(key: &RemoteKey, offset: u64, len: usize) -> Option<u64> {
        let (number, rest) = key.bytes.split_first_chunk::<8>()?;
        let number = u64::from_le_bytes(*number);
        let is_whole = if Self::lasts(number) { *rest == (!number).to_le_bytes() } else { rest.is_empty() };
        if !is_whole {
            return None;
        }
        (offset.checked_add(len as u64)? <= key.len).then_some(number)
    }

    /// Whether the window of this number is persistent.
    pub fn lasts(number: u64) -> bool {
        number >> 32 >= u64::from(LASTS)
    }

    fn slot(&mut self, number: u64) -> Option<&mut Slot> {
        let index = usize::try_from(number & u64::from(u32::MAX)).ok()?;
        let generation = number >> 32;
        self.slots.get_mut(index).filter(|slot| generation != 0 && u64::from(slot.generation) == generation)
    }

    /// The slot of an open window, and the address of `len` bytes at `offset` in it.
    fn range(&mut self, number: u64, offset: u64, len: usize) -> Option<(&mut Slot, NonNull<u8>)> {
        let slot = self.slot(number).filter(|slot| slot.open)?;
        let offset = usize::try_from(offset).ok()?;
        if offset.checked_add(len)? > slot.len {
            return None;
        }
        // SAFETY: within the window's memory, or at its end.
        let at = unsafe { slot.memory.add(offset) };
        Some((slot, at))
    }

    /// `len` bytes at `offset` of a window, if it is open and contains them.
    pub fn memory(&mut self, number: u64, offset: u64, len: u64) -> Option<&mut [u8]> {
        let len = usize::try_from(len).ok()?;
        let (_, at) = self.range(number, offset, len)?;
        // SAFETY: `Window` owns the memory and gives no access to it until `unexpose`, which removes the slot first; the
        // range lies inside, and the table is borrowed for as long as the slice.
        Some(unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), len) })
    }

    /// Enters a window, to fetch bytes into it. `None`: the window is closed, or the range is outside.
    pub fn enter(&mut self, number: u64, offset: u64, len: usize) -> Option<Part> {
        let (slot, memory) = self.range(number, offset, len)?;
        slot.inside += 1;
        Some(Part { window: number, memory, len })
    }

    /// Leaves the window.
    pub fn leave(&mut self, part: &Part) {
        if let Some(slot) = self.slot(part.window) {
            slot.inside -= 1;
        }
    }

    /// Closes a window, so that no put enters any more. Returns whether none is inside.
    pub fn close(&mut self, id: WindowId) -> bool {
        self.slot(id.0).is_none_or(|slot| {
            slot.open = false;
            slot.inside == 0
        })
    }

    /// Removes a window.
    pub fn remove(&mut self, id: WindowId) {
        if let Some(slot) = self.slot(id.0) {
            slot.generation = 0;
            self.free.push(u32::try_from(id.0 & u64::from(u32::MAX)).expect("windows are counted in 32 bits"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_inside_of_a_live_window_can_be_reached() {
        let mut windows = Windows::new(u32::MAX - 1);
        let buf = RegBuf::heap(100);
        let (id, key) = windows.add(&buf, false);
        for (offset, len, found) in
            [(0, 100, true), (100, 0, true), (99, 1, true), (100, 1, false), (0, 101, false), (u64::MAX, 2, false)]
        {
            assert_eq!(Windows::number(&key, offset, len), found.then_some(id.0), "{len} at {offset}");
            let memory = windows.memory(id.0, offset, len as u64);
            assert_eq!(memory.map(|memory| memory.len()), found.then_some(len), "{len} at {offset}");
            assert_eq!(windows.enter(id.0, offset, len).map(|part| windows.leave(&part)).is_some(), found);
        }
        assert!(windows.close(id));
        windows.remove(id);
        assert!(windows.memory(id.0, 0, 0).is_none());
        let (again, key) = windows.add(&buf, true);
        assert_eq!(Windows::number(&key, 0, 100), Some(again.0));
        for at in 0..key.bytes.len() {
            let mut damaged = key.clone();
            damaged.bytes[at] ^= 0x80;
            assert_eq!(Windows::number(&damaged, 0, 100), None);
            let bytes = key.bytes[..at].into();
            assert_eq!(Windows::number(&RemoteKey { bytes, ..damaged }, 0, 100), None);
        }
        assert!(Windows::lasts(again.0) && !Windows::lasts(id.0));
        assert!(again != id && windows.memory(id.0, 0, 1).is_none() && windows.memory(again.0, 0, 1).is_some());
        for forged in [0, u64::MAX, again.0 & 0xffff_ffff, again.0 ^ 1 << 63] {
            assert!(windows.memory(forged, 0, 0).is_none());
        }
    }

    #[test]
    fn a_closing_window_admits_no_put_and_waits_for_those_inside() {
        let mut windows = Windows::new(7);
        let buf = RegBuf::heap(100);
        let (id, _) = windows.add(&buf, false);
        let parts = [windows.enter(id.0, 0, 50).unwrap(), windows.enter(id.0, 50, 50).unwrap()];
        assert!(!windows.close(id));
        assert!(windows.enter(id.0, 0, 1).is_none() && windows.memory(id.0, 0, 1).is_none());
        windows.leave(&parts[0]);
        assert!(!windows.close(id));
        windows.leave(&parts[1]);
        assert!(windows.close(id));
    }
}
