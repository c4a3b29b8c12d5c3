//! Memory that peers may write and read, by number, and the operations of this PE that wait for an answer.
//!
//! A window's number is its place in a table and a generation. Generations start at a random value and are never used
//! twice, so a key that is stale, forged or another PE's finds nothing.

use std::collections::HashMap;

use crate::memory::RegBuf;
use crate::{OpId, Pe, RemoteKey};

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
    memory: *mut u8,
    len: usize,
}

/// A window's number, as it travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WindowKey(pub(super) u64);

impl WindowKey {
    pub(super) fn of(key: &RemoteKey) -> Option<Self> {
        Some(Self(u64::from_le_bytes((*key.bytes).try_into().ok()?)))
    }

    fn split(self) -> (usize, u32) {
        let low = self.0 & u64::from(u32::MAX);
        (usize::try_from(low).expect("32 bits fit a pointer"), u32::try_from(self.0 >> 32).expect("shifted to 32 bits"))
    }
}

impl Windows {
    pub(super) fn new(generation: u32) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), generation }
    }

    /// Makes memory reachable, until [`Windows::remove`]: so long the caller keeps it.
    pub(super) fn add(&mut self, buf: &RegBuf) -> (WindowKey, RemoteKey) {
        self.generation = self.generation.wrapping_add(1).max(1);
        let slot = Slot { generation: self.generation, memory: buf.as_ptr(), len: buf.len() };
        let index = if let Some(index) = self.free.pop() {
            self.slots[index as usize] = slot;
            index
        } else {
            self.slots.push(slot);
            u32::try_from(self.slots.len() - 1).expect("windows are counted in 32 bits")
        };
        let key = WindowKey(u64::from(index) | u64::from(self.generation) << 32);
        (key, RemoteKey { len: buf.len() as u64, bytes: key.0.to_le_bytes().into() })
    }

    pub(super) fn remove(&mut self, key: WindowKey) {
        let (index, generation) = key.split();
        if let Some(slot) = self.slots.get_mut(index)
            && slot.generation == generation
            && generation != 0
        {
            slot.generation = 0;
            self.free.push(u32::try_from(index).expect("windows are counted in 32 bits"));
        }
    }

    /// `len` bytes at `offset` of a window, if it is still there and holds them.
    pub(super) fn memory(&mut self, key: WindowKey, offset: u64, len: u64) -> Option<&mut [u8]> {
        let (index, generation) = key.split();
        let slot = self.slots.get(index).filter(|slot| slot.generation == generation && generation != 0)?;
        let end = offset.checked_add(len)?;
        if end > slot.len as u64 {
            return None;
        }
        let (offset, len) = (usize::try_from(offset).ok()?, usize::try_from(len).ok()?);
        // SAFETY: `Window` owns the memory and gives no access to it until `unexpose`, which removes the slot first; the
        // range lies inside, and the table is borrowed for as long as the slice.
        Some(unsafe { std::slice::from_raw_parts_mut(slot.memory.add(offset), len) })
    }
}

/// An operation that waits for a peer's answer.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) op: OpId,
    pub(super) peer: Pe,
    /// The source of a put, once acknowledged; the destination of a get, unless it is being filled.
    pub(super) buf: Option<RegBuf>,
    /// Bytes of a get that arrived.
    pub(super) received: usize,
    pub(super) is_get: bool,
}

/// The pending operations of a PE, by a number that is never used twice.
#[derive(Debug, Default)]
pub(super) struct Operations {
    pending: HashMap<u64, Pending>,
    last: u64,
}

impl Operations {
    pub(super) fn add(&mut self, pending: Pending) -> u64 {
        self.last += 1;
        self.pending.insert(self.last, pending);
        self.last
    }

    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut Pending> {
        self.pending.get_mut(&key)
    }

    pub(super) fn remove(&mut self, key: u64) -> Option<Pending> {
        self.pending.remove(&key)
    }

    /// Takes out all that wait for `peer`, in the order in which they were posted.
    pub(super) fn remove_all_of(&mut self, peer: Pe) -> Vec<Pending> {
        let mut of_peer: Vec<_> = self.pending.extract_if(|_, pending| pending.peer == peer).collect();
        of_peer.sort_unstable_by_key(|(key, _)| *key);
        of_peer.into_iter().map(|(_, pending)| pending).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_inside_of_a_live_window_can_be_reached() {
        let mut windows = Windows::new(u32::MAX - 1);
        let buf = RegBuf::heap(100);
        let (key, remote) = windows.add(&buf);
        assert_eq!(WindowKey::of(&remote), Some(key));
        for (offset, len, found) in
            [(0, 100, true), (100, 0, true), (99, 1, true), (100, 1, false), (0, 101, false), (u64::MAX, 2, false)]
        {
            assert_eq!(windows.memory(key, offset, len).is_some(), found, "{len} at {offset}");
        }
        windows.remove(key);
        assert!(windows.memory(key, 0, 1).is_none());
        let (again, _) = windows.add(&buf);
        assert!(again != key && windows.memory(key, 0, 1).is_none() && windows.memory(again, 0, 1).is_some());
        for forged in [0, u64::MAX, again.0 & 0xffff_ffff] {
            assert!(windows.memory(WindowKey(forged), 0, 0).is_none());
        }
    }
}
