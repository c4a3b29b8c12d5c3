//! Memory that peers may write and read, by number. Knows no UCX.
//!
//! A window's number is its place in a table and a generation. Generations start at a random value and are never used twice, so a
//! key that is stale, forged or another PE's finds nothing. What a peer sends is put into a window only here, after this table was asked,
//! within the window's bounds: so a window that was taken back cannot be written, whatever anybody still believes of it.
//!
//! Bytes that are collected from their sender take time to arrive. Meanwhile their put is *inside* of the window, whose owner gets its
//! memory back only when nothing is inside any more.

use std::ptr::NonNull;

use crate::memory::RegBuf;
use crate::{RemoteKey, WindowId};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Windows {
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

/// A part of a window, which somebody is inside of.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) window: u64,
    pub(super) memory: NonNull<u8>,
    pub(super) len: usize,
}

impl Windows {
    /// No windows. Generations start after `generation`.
    pub(super) fn new(generation: u32) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), generation }
    }

    /// Makes memory reachable, until [`Windows::remove`]: so long the caller keeps it, and keeps off it.
    pub(super) fn add(&mut self, buf: &RegBuf) -> (WindowId, RemoteKey) {
        self.generation = self.generation.wrapping_add(1).max(1);
        let memory = NonNull::new(buf.as_ptr()).expect("a buffer has an address");
        let slot = Slot { generation: self.generation, memory, len: buf.len(), open: true, inside: 0 };
        let index = if let Some(index) = self.free.pop() {
            self.slots[index as usize] = slot;
            index
        } else {
            self.slots.push(slot);
            u32::try_from(self.slots.len() - 1).expect("windows are counted in 32 bits")
        };
        let number = u64::from(index) | u64::from(self.generation) << 32;
        (WindowId(number), RemoteKey { len: buf.len() as u64, bytes: number.to_le_bytes().into() })
    }

    /// The number in a key, if its range has `len` bytes at `offset`.
    pub(super) fn number(key: &RemoteKey, offset: u64, len: usize) -> Option<u64> {
        let number = u64::from_le_bytes((*key.bytes).try_into().ok()?);
        (offset.checked_add(len as u64)? <= key.len).then_some(number)
    }

    fn slot(&mut self, number: u64) -> Option<&mut Slot> {
        let index = usize::try_from(number & u64::from(u32::MAX)).ok()?;
        let generation = number >> 32;
        self.slots.get_mut(index).filter(|slot| generation != 0 && u64::from(slot.generation) == generation)
    }

    /// `len` bytes at `offset` of a window that is open, and where they are.
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

    /// Writes bytes at `offset` of a window. `false`: they may not be there.
    pub(super) fn write(&mut self, number: u64, offset: u64, bytes: &[u8]) -> bool {
        let Some((_, at)) = self.range(number, offset, bytes.len()) else { return false };
        // SAFETY: `Window` owns the memory and gives no access to it until `unexpose`, which removes the slot first; the
        // range lies inside.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at.as_ptr(), bytes.len()) };
        true
    }

    /// Reads bytes at `offset` of a window. `false`: they may not be read.
    pub(super) fn read(&mut self, number: u64, offset: u64, to: &mut [u8]) -> bool {
        let Some((_, at)) = self.range(number, offset, to.len()) else { return false };
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(at.as_ptr(), to.as_mut_ptr(), to.len()) };
        true
    }

    /// Enters a window, to collect bytes into it. `None`: they may not be there.
    pub(super) fn enter(&mut self, number: u64, offset: u64, len: usize) -> Option<Part> {
        let (slot, memory) = self.range(number, offset, len)?;
        slot.inside += 1;
        Some(Part { window: number, memory, len })
    }

    /// Leaves it.
    pub(super) fn leave(&mut self, part: &Part) {
        if let Some(slot) = self.slot(part.window) {
            slot.inside -= 1;
        }
    }

    /// Lets nobody enter any more. Whether nobody is inside.
    pub(super) fn close(&mut self, id: WindowId) -> bool {
        self.slot(id.0).is_none_or(|slot| {
            slot.open = false;
            slot.inside == 0
        })
    }

    /// Forgets a window.
    pub(super) fn remove(&mut self, id: WindowId) {
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
        let (id, key) = windows.add(&buf);
        for (offset, len, found) in
            [(0, 100, true), (100, 0, true), (99, 1, true), (100, 1, false), (0, 101, false), (u64::MAX, 2, false)]
        {
            assert_eq!(Windows::number(&key, offset, len), found.then_some(id.0), "{len} at {offset}");
            assert_eq!(windows.write(id.0, offset, &vec![1; len]), found, "{len} at {offset}");
            assert_eq!(windows.read(id.0, offset, &mut vec![0; len]), found, "{len} at {offset}");
            assert_eq!(windows.enter(id.0, offset, len).map(|part| windows.leave(&part)).is_some(), found);
        }
        assert!(windows.close(id));
        windows.remove(id);
        assert!(!windows.write(id.0, 0, &[]));
        let (again, _) = windows.add(&buf);
        assert!(again != id && !windows.write(id.0, 0, &[1]) && windows.write(again.0, 0, &[1]));
        for forged in [0, u64::MAX, again.0 & 0xffff_ffff] {
            assert!(!windows.write(forged, 0, &[]));
        }
    }

    #[test]
    fn a_window_that_closes_lets_nobody_in_and_waits_for_who_is_inside() {
        let mut windows = Windows::new(7);
        let buf = RegBuf::heap(100);
        let (id, _) = windows.add(&buf);
        let parts = [windows.enter(id.0, 0, 50).unwrap(), windows.enter(id.0, 50, 50).unwrap()];
        assert!(!windows.close(id));
        assert!(windows.enter(id.0, 0, 1).is_none() && !windows.write(id.0, 0, &[1]));
        windows.leave(&parts[0]);
        assert!(!windows.close(id));
        windows.leave(&parts[1]);
        assert!(windows.close(id));
    }
}
