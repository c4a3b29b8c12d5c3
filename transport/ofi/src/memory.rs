//! Registered memory: what peers may access, and what the device reads for us.
//!
//! # Windows
//! A window has a registration of its own, made by `expose` and closed by `unexpose`, for any kind of memory. After that the device
//! refuses peers that still have the key. (The memory of a pool could be registered once, under one key; but then a put
//! to a window that was taken back could not be refused. A registration costs about a microsecond on tcp and shm, and on verbs some more for each
//! page.) It grants remote access only, to that memory only. If the device takes no more memory, the window stays unregistered: a bit in its
//! number tells peers to send messages.
//!
//! # Sources
//! Some devices need registrations of local memory too. A buffer of a pool comes back again and again at the same address, and its memory stays mapped
//! as long as a buffer has its tag, which no other memory ever gets: so its registration is kept. Any other buffer is registered for one
//! operation, and its registration is closed before the buffer is given back. So no registration outlives its memory.

use std::collections::HashMap;
use std::rc::Rc;

use charm4rs_libfabric_sys::{Library, bindings as fi};

use super::fi::{Errno, Lane, Mapped, Region};
use super::wire::{Question, WindowKey};
use charm4rs_transport_core::memory::RegBuf;
use charm4rs_transport_core::{TransportError, auth};

/// Registrations of pool memory that are kept, and mapped keys.
const KEPT: usize = 1024;

/// In the number of a window that is not registered: peers write to it by messages.
pub(super) const BY_MESSAGES: u64 = 1 << 62;
/// In the number of a window into which peers put again and again without asking. (Numbers begin below 2^56.)
pub(super) const LASTS: u64 = 1 << 63;

/// The smallest page size.
const PAGE: usize = 4096;

/// Whether the error means that a limit prevents the registration.
pub(super) fn is_limit(error: Errno) -> bool {
    matches!(error.0, libc::ENOMEM | libc::EAGAIN | libc::EPERM)
}

/// The error for memory that the device did not register.
pub(super) fn no_registration(lane: &Lane, error: Errno, len: usize) -> TransportError {
    if !is_limit(error) {
        return super::slots::Slots::describe(lane, error, "fi_mr_reg");
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let limit = limit.map_or_else(|| "unlimited".to_owned(), |limit| format!("{limit} bytes"));
    TransportError::Resource {
        what: "memory that can be registered with a device",
        need: format!("{len} bytes (locked memory is limited to {limit})"),
        advice: "raise the limit: ulimit -l unlimited",
    }
}

/// The error for a call of libfabric for which the system lacked a resource.
pub(super) fn lack(library: &Library, error: Errno, call: &str) -> TransportError {
    match error.0 {
        libc::EMFILE | libc::ENFILE => TransportError::Resource {
            what: "file descriptors",
            need: format!("some for each peer ({call})"),
            advice: "raise the limit: ulimit -n",
        },
        _ => TransportError::no_memory(&format!("libfabric ({call}: {})", library.describe(error.0)), WANTED),
    }
}

/// An estimate of the memory that libfabric needed: it does not report the amount.
const WANTED: usize = 32 << 20;

/// Registrations that are closed before their memory is freed; see the module's text.
#[derive(Debug, Default)]
pub(super) struct Sources {
    kept: HashMap<(u64, usize), Kept>,
    uses: u64,
}

#[derive(Debug)]
struct Kept {
    region: Rc<Region>,
    len: usize,
    used: u64,
}

impl Sources {
    #[cfg(test)]
    pub(super) fn registered(&self) -> usize {
        self.kept.values().map(|kept| kept.len).sum()
    }

    /// The registration that the device needs for a buffer, if it needs one.
    pub(super) fn register(&mut self, lane: &Lane, buf: &RegBuf) -> Result<Option<Rc<Region>>, Errno> {
        if !lane.info().mr_mode(fi::FI_MR_LOCAL) || buf.is_empty() {
            return Ok(None);
        }
        self.uses += 1;
        let (key, len) = ((buf.tag(), buf.as_ptr().addr()), buf.capacity().max(buf.len()));
        if let Some(kept) = self.kept.get_mut(&key).filter(|kept| kept.len >= buf.len()) {
            kept.used = self.uses;
            return Ok(Some(kept.region.clone()));
        }
        let pooled = buf.tag() != 0;
        let access = u64::from(fi::FI_READ | fi::FI_WRITE);
        let make = || {
            // SAFETY: a pooled buffer's memory stays while its tag is in use, and the region is looked up by the tag. Any other buffer is
            // held beside the region by its operation, which drops the region first or closed the lane.
            unsafe { lane.register(buf.as_ptr(), if pooled { len } else { buf.len() }, access) }
        };
        let region = match make() {
            Err(_) if !self.kept.is_empty() => {
                self.kept.clear();
                make()?
            }
            made => made?,
        };
        let region = Rc::new(region);
        if pooled {
            if self.kept.len() >= KEPT
                && let Some(oldest) = self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key)
            {
                self.kept.remove(&oldest);
            }
            self.kept.insert(key, Kept { region: region.clone(), len, used: self.uses });
        }
        Ok(Some(region))
    }

    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }
}

/// Keys of peers' windows that a lane has mapped. No two windows of an owner have the same number, so no entry is ever stale.
#[derive(Debug, Default)]
pub(super) struct Keys {
    kept: HashMap<(usize, u64), (Rc<Mapped>, u64)>,
    uses: u64,
}

impl Keys {
    /// The mapped number of the raw key of a window of a link's peer.
    pub(super) fn of(&mut self, lane: &Rc<Lane>, link: usize, window: u64, raw: &[u8]) -> Result<Rc<Mapped>, Errno> {
        self.uses += 1;
        if let Some((mapped, used)) = self.kept.get_mut(&(link, window)) {
            *used = self.uses;
            return Ok(mapped.clone());
        }
        if self.kept.len() >= KEPT
            && let Some(oldest) = self.kept.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key)
        {
            self.kept.remove(&oldest);
        }
        let mapped = Rc::new(lane.map(raw)?);
        self.kept.insert((link, window), (mapped.clone(), self.uses));
        Ok(mapped)
    }

    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }
}

/// The memory of a window, for its owner.
#[derive(Debug)]
struct Open {
    at: *mut u8,
    len: usize,
    region: Option<Region>,
}

/// The windows of a PE; see the module's text.
#[derive(Debug)]
pub(super) struct Windows {
    open: HashMap<u64, Open>,
    /// The next number. No number is used twice.
    next: u64,
}

impl Windows {
    #[cfg(test)]
    pub(super) fn registered(&self) -> usize {
        self.open.values().map(|open| open.len).sum()
    }

    pub(super) fn new() -> Result<Self, TransportError> {
        Ok(Self { open: HashMap::new(), next: auth::random_u64()? >> 8 })
    }

    /// Makes a buffer accessible. Returns its key, and the provider's raw key.
    pub(super) fn open(&mut self, lane: &Lane, buf: &mut RegBuf, lasts: bool) -> Result<(WindowKey, Vec<u8>), Errno> {
        let (mut region, mut number) = (None, self.next | if lasts { LASTS } else { 0 });
        let mut raw = Vec::new();
        if !buf.is_empty() {
            if lane.info().mr_mode(fi::FI_MR_ALLOCATED) {
                // Memory that was never touched has no pages yet.
                (0..buf.len()).step_by(PAGE).for_each(|at| buf[at] = std::hint::black_box(buf[at]));
            }
            let access = u64::from(fi::FI_REMOTE_READ | fi::FI_REMOTE_WRITE);
            // SAFETY: the window holds the buffer until it is taken back, which closes the region first.
            match unsafe { lane.register(buf.as_ptr(), buf.len(), access) } {
                Ok(registered) => {
                    if lane.has_raw_keys() {
                        raw = lane.raw_key(&registered)?;
                    }
                    region = Some(registered);
                }
                Err(error) if is_limit(error) => number |= BY_MESSAGES,
                Err(error) => return Err(error),
            }
        }
        self.next += 1;
        let addr = if lane.info().mr_mode(fi::FI_MR_VIRT_ADDR) { buf.as_ptr().addr() as u64 } else { 0 };
        let key = region.as_ref().map_or(0, Region::key);
        self.open.insert(number, Open { at: buf.as_ptr(), len: buf.len(), region });
        Ok((WindowKey { window: number, addr, key }, raw))
    }

    /// A window that is not registered, with a number that is easy to guess.
    #[cfg(any(test, fuzzing))]
    pub(super) fn open_by_messages(&mut self, number: u64, buf: &mut RegBuf) {
        self.open.insert(number, Open { at: buf.as_ptr(), len: buf.len(), region: None });
    }

    /// Closes a window: it can no longer be accessed.
    pub(super) fn close(&mut self, number: u64) {
        if let Some(open) = self.open.remove(&number) {
            drop(open.region);
        }
    }

    /// Whether there is such a window, and the range lies inside.
    pub(super) fn allows(&self, asked: Question) -> bool {
        let end = asked.offset.checked_add(asked.len);
        self.open.get(&asked.window).is_some_and(|open| end.is_some_and(|end| end <= open.len as u64))
    }

    /// A part of a window of this PE.
    pub(super) fn memory(&mut self, asked: Question) -> Option<&mut [u8]> {
        if !self.allows(asked) {
            return None;
        }
        let open = self.open.get(&asked.window)?;
        let (offset, len) = (usize::try_from(asked.offset).ok()?, usize::try_from(asked.len).ok()?);
        // SAFETY: the window holds the memory, and gives no access to it until it is taken back, which removes the entry first; the
        // range lies inside, and the table is borrowed for as long as the slice.
        Some(unsafe { std::slice::from_raw_parts_mut(open.at.add(offset), len) })
    }

    /// Writes the bytes of a message to the range that the message names first. Returns whether that is allowed.
    pub(super) fn fill(&mut self, message: &[u8]) -> bool {
        let Some((place, bytes)) = message.split_at_checked(Question::LEN) else { return false };
        let place = Question::decode(place).filter(|place| place.len == bytes.len() as u64);
        let Some(memory) = place.and_then(|place| self.memory(place)) else { return false };
        memory.copy_from_slice(bytes);
        true
    }

    pub(super) fn clear(&mut self) {
        self.open.clear();
    }
}
