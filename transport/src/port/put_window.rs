//! Put windows: memory that peers put into repeatedly, without a handshake.
//!
//! A put window is exposed once, by every backend that reaches any peer, and its [`PutWindowAddress`] has a key for each. A put writes into that memory and
//! carries 32 bits that name the put window. When these arrive, the owner receives the message that it specified when it opened the window (its *notice*), as
//! if the origin had sent it. If a backend cannot expose the memory, the origin sends the payload in a message, and the receiver copies it
//! ([`Port::fill_put_window`]).
//!
//! The layer above ensures that the owner and an origin do not access the memory at the same time: see [`PutWindowMemory::bytes`]. The port ensures that an
//! open put window can be put into, and that no put accesses memory outside of one.

use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::inner::Inner;
use super::puts::Target;
use super::{Port, Route, Tag, frame};
use charm4rs_transport_core::memory::{Home, write_bytes};
use charm4rs_transport_core::{Endpoint, Msg, Pe, RegBuf, RemoteKey, Window};

/// Names a put window within its port. No name is used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct PutWindowId {
    slot: u32,
    turn: u32,
}

impl PutWindowId {
    /// As a number.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        u64::from(self.slot) | u64::from(self.turn) << 32
    }

    /// The inverse of [`Self::to_bits`].
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        let [slot, turn] = [bits, bits >> 32].map(|half| u32::try_from(half & u64::from(u32::MAX)).expect("32 bits"));
        Self { slot, turn }
    }
}

/// The address of a put window: all that a peer needs to put into it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PutWindowAddress {
    /// Its owner.
    pub owner: Pe,
    /// Its name at the owner.
    pub id: PutWindowId,
    /// Its length, in bytes.
    pub len: u64,
    /// Its keys for `local`, for `shm`, and for the network.
    keys: [Option<RemoteKey>; 3],
}

impl PutWindowAddress {
    /// Whether `len` bytes at `offset` lie inside.
    #[must_use]
    pub fn holds(&self, offset: u64, len: usize) -> bool {
        offset.checked_add(len as u64).is_some_and(|end| end <= self.len)
    }
}

/// The memory of a put window, which is kept as long as there is a handle to it.
#[derive(Clone)]
pub struct PutWindowMemory(Arc<Whole>);

struct Whole {
    at: NonNull<u8>,
    len: usize,
    /// Owns the memory at `at`, and is not accessed otherwise.
    _owner: RegBuf,
    tag: u64,
}

// SAFETY: the buffer that owns the memory is `Send`. The bytes are accessed only through `PutWindowMemory::bytes`, whose callers promise that nothing else
// accesses them, and through windows.
unsafe impl Send for Whole {}
// SAFETY: as above.
unsafe impl Sync for Whole {}

// SAFETY: the block is valid and writable as long as `self` lives. The buffers of the other windows of this put window, and `bytes`, alias it. No two of them
// access it at the same time: a `Window` gives no access to its buffer, `Port::close_put_window` drops the buffer without a read, and the caller of `bytes`
// promises exclusive access.
unsafe impl Home for Whole {
    unsafe fn reclaim(&self, _: NonNull<u8>, _: usize) {}

    fn tag(&self) -> u64 {
        self.tag
    }
}

impl PutWindowMemory {
    fn new(mut buf: RegBuf) -> Self {
        buf.fill(0);
        let at = NonNull::new(buf.as_ptr()).expect("a buffer has an address");
        Self(Arc::new(Whole { at, len: buf.len(), tag: buf.tag(), _owner: buf }))
    }

    /// Its bytes.
    ///
    /// # Safety
    /// No PE puts into it while the slice is used: the caller has seen the arrival of the last put that it allowed, and has not
    /// allowed another one.
    #[must_use]
    pub unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: valid and initialized; the caller promises that there are no writes.
        unsafe { std::slice::from_raw_parts(self.0.at.as_ptr(), self.0.len) }
    }

    /// A copy of some of its bytes, for tests whose peers wait meanwhile.
    #[cfg(test)]
    pub(crate) fn copy_of(&self, range: std::ops::Range<usize>) -> Vec<u8> {
        // SAFETY: the test has seen the last put arrive, and has not told its peer so.
        let bytes = unsafe { self.bytes() };
        bytes[range].to_vec()
    }

    /// A put of this PE itself. Returns whether it lies inside.
    fn write(&self, offset: u64, bytes: &[u8]) -> bool {
        let Ok(offset) = usize::try_from(offset) else { return false };
        if offset.checked_add(bytes.len()).is_none_or(|end| end > self.0.len) {
            return false;
        }
        // SAFETY: inside, as was just checked; a reader has promised that there are no puts meanwhile (`PutWindowMemory::bytes`); the source is a
        // buffer of its own.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.at.as_ptr().add(offset), bytes.len()) };
        true
    }

    fn expose(&self, end: &mut dyn Endpoint) -> Option<Window> {
        let home: Arc<dyn Home> = self.0.clone();
        // SAFETY: valid and initialized as long as its home lives; `Home for Whole` describes the sharing.
        let alias = unsafe { RegBuf::from_raw(self.0.at, self.0.len, self.0.len, home) };
        match end.expose_for_long(alias) {
            Ok(window) => Some(window),
            Err((error, _)) => {
                tracing::debug!(%error, len = self.0.len, "a put window is reached by messages");
                None
            }
        }
    }
}

impl fmt::Debug for PutWindowMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PutWindowMemory({} bytes)", self.0.len)
    }
}

/// A put window of this PE.
#[derive(Debug)]
struct Open {
    memory: PutWindowMemory,
    windows: Vec<(Route, Window)>,
    tag: Tag,
    notice: Box<[u8]>,
}

/// The put windows of a PE.
#[derive(Default, Debug)]
pub(super) struct PutWindows {
    slots: Vec<(u32, Option<Open>)>,
    free: Vec<u32>,
}

impl PutWindows {
    /// The name of the next put window; `None`: there are too many.
    fn name(&mut self) -> Option<PutWindowId> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() > frame::ARG_MAX => return None,
            None => {
                self.slots.push((0, None));
                u32::try_from(self.slots.len() - 1).expect("24 bits")
            }
        };
        let turn = &mut self.slots[slot as usize].0;
        *turn = turn.wrapping_add(1);
        Some(PutWindowId { slot, turn: *turn })
    }

    fn get(&self, id: PutWindowId) -> Option<&Open> {
        self.slots.get(id.slot as usize).filter(|(turn, _)| *turn == id.turn)?.1.as_ref()
    }

    /// Writes bytes of a put that arrived as a message. Returns whether the key belongs to the put window, and the bytes lie inside.
    pub(super) fn write(&self, id: PutWindowId, write: &frame::Write<'_>) -> bool {
        self.get(id).is_some_and(|open| {
            open.windows.iter().any(|(_, window)| window.key == write.key)
                && open.memory.write(write.offset, write.bytes)
        })
    }

    fn close(&mut self, id: PutWindowId) -> Option<Open> {
        let (_, open) = self.slots.get_mut(id.slot as usize).filter(|(turn, _)| *turn == id.turn)?;
        let open = open.take()?;
        self.free.push(id.slot);
        Some(open)
    }

    /// How many are open.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.slots.iter().filter(|(_, open)| open.is_some()).count()
    }
}

impl Inner {
    /// The message that a put into this slot's put window is for its owner: its kind and its notice.
    pub(super) fn notice(&self, slot: usize) -> Option<(Tag, Msg)> {
        let open = self.put_windows.slots.get(slot)?.1.as_ref()?;
        Some((open.tag, Msg::fill(&self.slab, open.notice.len(), |to| write_bytes(to, &open.notice))))
    }
}

impl Port {
    /// Opens a put window of `len` zeros. Each put into it brings a message of kind `tag`, with the bytes of `notice`, from the origin of the put.
    ///
    /// # Panics
    /// If it would be the 2^24th.
    #[must_use]
    pub fn open_put_window(
        &mut self,
        len: usize,
        tag: Tag,
        notice: impl FnOnce(PutWindowId) -> Vec<u8>,
    ) -> (PutWindowAddress, PutWindowMemory) {
        debug_assert!(tag.0 < frame::FIRST, "tags from 0xF0 on are the port's own");
        let memory = PutWindowMemory::new(self.alloc(len));
        let id = self.inner.put_windows.name().expect("put windows are counted in 24 bits");
        let (mut keys, mut windows) = ([const { None }; 3], Vec::new());
        for route in [Route::Local, Route::Shm, Route::Net] {
            let Some(window) = self.ends.at(route).and_then(|end| memory.expose(end)) else { continue };
            keys[route as usize - 1] = Some(window.key.clone());
            windows.push((route, window));
        }
        let open = Open { memory: memory.clone(), windows, tag, notice: notice(id).into() };
        self.inner.put_windows.slots[id.slot as usize].1 = Some(open);
        (PutWindowAddress { owner: self.pe, id, len: len as u64, keys }, memory)
    }

    /// Closes a put window. Later puts fail at their origin, and may end the job there, so the owner must not allow any.
    pub fn close_put_window(&mut self, id: PutWindowId) {
        let Some(open) = self.inner.put_windows.close(id) else { return };
        for (route, window) in open.windows {
            if let Some(end) = self.ends.at(route) {
                drop(end.unexpose(window));
            }
        }
    }

    /// Writes `src` at `offset` of a put window. `notice`: the message, of kind `tag`, to send if only a message can reach the put window.
    ///
    /// # Panics
    /// If the range is outside the put window.
    pub fn put(&mut self, to: &PutWindowAddress, offset: u64, src: RegBuf, tag: Tag, notice: &[u8]) {
        assert!(to.holds(offset, src.len()), "{} bytes at {offset} of a put window of {} bytes", src.len(), to.len);
        let route = self.ends.route(self.pe, to.owner);
        if route == Route::Loopback {
            return self.put_here(to.id, offset, &src);
        }
        let Some(key) = &to.keys[route as usize - 1] else {
            let fill = |body: &mut [std::mem::MaybeUninit<u8>]| write_bytes(body, notice);
            return self.send_payloads(to.owner, tag, notice.len(), fill, vec![src], false);
        };
        self.inner.counters.sent[route as usize].add(src.len() as u64);
        let (imm, target) = (frame::imm(frame::PUT, to.id.slot as usize), Target::PutWindow(to.id));
        let posted = if self.puts.is_empty() && src.len() <= self.chunk(to.owner) {
            self.post_put(to.owner, src, (key, target), offset, Some(imm))
        } else {
            Ok(Some(src))
        };
        match posted {
            Ok(None) => {}
            Ok(Some(src)) => self.queue_put(to.owner, src, (&Rc::new(key.clone()), target), offset, imm),
            Err(error) => _ = self.fatal.get_or_insert(error),
        }
    }

    fn put_here(&mut self, id: PutWindowId, offset: u64, src: &[u8]) {
        if self.inner.put_windows.get(id).is_some_and(|open| open.memory.write(offset, src))
            && let Some((tag, msg)) = self.inner.notice(id.slot as usize)
        {
            self.inner.counters.sent[Route::Loopback as usize].add(src.len() as u64);
            self.deliver_here(tag, msg, Vec::new());
        }
    }

    /// Copies a payload that came as a message into a put window of this PE. Returns whether there is such a put window, and the range lies inside.
    pub fn fill_put_window(&mut self, id: PutWindowId, offset: u64, bytes: &[u8]) -> bool {
        self.inner.counters.copies += 1;
        self.inner.put_windows.get(id).is_some_and(|open| open.memory.write(offset, bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::super::tests::{KINDS, bytes, message, options, two};
    use super::*;

    /// Where they begin, and how long they are.
    const PUTS: [(u64, usize); 6] = [(0, 100_000), (99_999, 1), (100_000, 0), (1, 8), (3, 70_000), (0, 0)];

    #[test]
    fn puts_into_a_window_write_at_their_offset_and_bring_the_owner_its_notice() {
        for kind in KINDS {
            let (tell, told) = std::sync::mpsc::channel();
            two(
                "put windows",
                &options(kind),
                move |mut port| {
                    let address: PutWindowAddress = told.recv().unwrap();
                    let mut events = VecDeque::new();
                    for (turn, (at, len)) in PUTS.into_iter().enumerate() {
                        let mut src = port.alloc(len);
                        src.copy_from_slice(&bytes(len, turn));
                        port.put(&address, at, src, Tag(9), b"as a message");
                        assert_eq!(message(&mut port, &mut events).tag, Tag(2));
                    }
                    assert_eq!(port.counters().copies, 0);
                    for (at, len) in [(0, 100_001), (100_001, 0), (u64::MAX, 1)] {
                        let src = RegBuf::heap(len);
                        let outside = std::panic::AssertUnwindSafe(|| port.put(&address, at, src, Tag(9), b""));
                        assert!(std::panic::catch_unwind(outside).is_err());
                    }
                    port.close().unwrap();
                },
                move |mut port| {
                    let (address, memory) =
                        port.open_put_window(100_000, Tag(1), |id| id.to_bits().to_le_bytes().to_vec());
                    let (id, mut events, mut expected) = (address.id, VecDeque::new(), vec![0; 100_000]);
                    tell.send(address).unwrap();
                    for (turn, (at, len)) in PUTS.into_iter().enumerate() {
                        let m = message(&mut port, &mut events);
                        let name = PutWindowId::from_bits(u64::from_le_bytes((*m.msg).try_into().unwrap()));
                        assert_eq!((m.from, m.tag, name), (Pe(1), Tag(1), id));
                        let at = usize::try_from(at).unwrap();
                        expected[at..at + len].copy_from_slice(&bytes(len, turn));
                        assert!(memory.copy_of(0..100_000) == expected);
                        port.send(Pe(1), Tag(2), 0, |_| {});
                    }
                    port.close_put_window(id);
                    assert!(!port.fill_put_window(id, 0, b"late"));
                },
            );
        }
    }
}
