//! A PE's memory that its peers reach: a header, its inbox, and the arena of its pool.
//!
//! | part | where in the file | mapped |
//! |---|---|---|
//! | [`Header`] | 0 | once |
//! | inbox ring | [`HEADER`] | twice, back to back |
//! | arena | the next multiple of 2 MiB | once |
//!
//! A *shared* segment is a memfd. It has no name, so it cannot be left behind. Its size is set once and sealed,
//! so no peer can make an access fail. Every part of it is reserved before use, so a lack of memory is an
//! error of the owner and never a SIGBUS. A *private* segment serves the threads of one process: its arena is
//! anonymous memory, which gets huge pages more easily.
//!
//! The arena is as large as it could ever become: this costs only addresses. Peers map it once. If the process is limited in
//! addresses (`ulimit -v`) or file size (`ulimit -f`) it is smaller. Each owner decides for itself, and the length of the
//! sealed file tells the peers.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::process::Resource;

use super::map::{HUGE, Mapping, PAGE};
use crate::TransportError;
use crate::ring::{Ends, Raw};

/// Windows that one PE can expose at a time.
pub const WINDOWS: usize = 512;
/// Bytes of the header, in pages.
const HEADER: usize = size_of::<Header>().next_multiple_of(PAGE);
const MAGIC: u64 = u64::from_le_bytes(*b"charm4r\x01");
/// The addresses that all arenas of a host together may take in one process.
const ARENAS_MAX: u64 = 16 << 40;
/// The smallest useful arena.
const ARENA_MIN: usize = 8 * HUGE;
/// The most bytes that precede the arena in a file.
const FILE_HEAD_MAX: u64 = 64 << 20;

/// The beginning of a segment. Parts that different threads write are 128 bytes apart.
#[repr(C, align(128))]
pub struct Header {
    magic: AtomicU64,
    ring_bytes: AtomicU64,
    arena_bytes: AtomicU64,
    /// The owner's process.
    pub process: AtomicU32,
    /// Whether `membarrier` reaches the owner's process.
    pub barriers: AtomicU32,
    /// The address of a random word in the owner's memory. Peers read the word there to find out whether they can reach that memory.
    pub probe: AtomicU64,
    /// The value of the word.
    pub probe_word: AtomicU64,
    /// Not 0 once the owner has stopped reading.
    pub closed: AtomicU32,
    /// The ends of the inbox.
    pub(crate) ends: Ends,
    /// The owner's sleep word: see `doorbell`.
    pub sleep: Apart<AtomicU64>,
    /// The top of the stack of returned blocks: see `pool`.
    pub returned: Apart<AtomicU64>,
    /// See `window`.
    pub windows: [WindowSlot; WINDOWS],
}

/// A value on cache lines of its own.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Apart<T>(pub T);

/// One exposed piece of memory: see `window`.
#[repr(C, align(64))]
pub struct WindowSlot {
    /// Its generation, and how many peers are inside.
    pub state: AtomicU64,
    /// Identifies the memory that it is in.
    pub place: AtomicU64,
    /// The address of its first byte, in the owner's memory or in the arena.
    pub addr: AtomicU64,
    /// Length, in bytes.
    pub len: AtomicU64,
}

/// A segment of this PE or of a peer.
#[derive(Debug)]
pub struct Segment {
    map: Mapping,
    ring_bytes: usize,
    arena: usize,
    arena_len: usize,
    /// Shared memory is reserved through this descriptor.
    fd: Option<OwnedFd>,
}

fn no_memory(len: usize) -> TransportError {
    TransportError::no_memory("buffers", len)
}

/// The addresses to set aside for the pool of each of `pes` PEs of this host, all of which this process maps: as much as a pool can ever
/// use, unless the process is limited to less.
pub fn arena_bytes(pes: u32) -> usize {
    let info = rustix::system::sysinfo();
    let ram = u64::from(info.mem_unit.max(1)).saturating_mul(info.totalram);
    let limit = |resource| rustix::process::getrlimit(resource).current;
    arena_bytes_within(
        pes,
        ram,
        limit(Resource::As).map(|limit| limit.saturating_sub(mapped())),
        limit(Resource::Fsize),
    )
}

/// The same, for a process that may map `addresses` more bytes and write files of `file` bytes.
fn arena_bytes_within(pes: u32, ram: u64, addresses: Option<u64>, file: Option<u64>) -> usize {
    let pes = u64::from(pes.max(1));
    let mut each = ram.min(ARENAS_MAX / pes);
    if let Some(addresses) = addresses {
        // The other half is for the heap, stacks and libraries. What does not fit into the pool is taken from the heap.
        each = each.min(addresses / 2 / pes);
    }
    if let Some(file) = file {
        each = each.min(file.saturating_sub(FILE_HEAD_MAX));
    }
    let each = usize::try_from(each).unwrap_or(1 << 30);
    (each / HUGE * HUGE).max(ARENA_MIN)
}

/// Bytes that this process has mapped.
fn mapped() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = statm.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    // Without /proc this is an estimate: the program, its libraries, and some stacks.
    pages.map_or(256 << 20, |pages| pages * rustix::param::page_size() as u64)
}

fn file(len: usize) -> Result<OwnedFd, TransportError> {
    // The kernel sends a signal if a file would exceed the limit.
    if let Some(limit) = rustix::process::getrlimit(Resource::Fsize).current.filter(|limit| *limit < len as u64) {
        return Err(TransportError::Resource {
            what: "file size",
            need: format!("{len} bytes for shared memory (ulimit -f is {} KiB)", limit >> 10),
            advice: "raise the limit: ulimit -f unlimited",
        });
    }
    let fd = rustix::fs::memfd_create("charm4rs", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(|e| TransportError::system("memfd_create", e))?;
    rustix::fs::ftruncate(&fd, len as u64).map_err(|e| TransportError::system("ftruncate", e))?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
        .map_err(|e| TransportError::system("fcntl(F_ADD_SEALS)", e))?;
    Ok(fd)
}

fn reserve_file(fd: BorrowedFd<'_>, at: usize, len: usize) -> Result<(), TransportError> {
    loop {
        match rustix::fs::fallocate(fd, FallocateFlags::empty(), at as u64, len as u64) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::NOSPC | Errno::NOMEM | Errno::FBIG) => return Err(no_memory(len)),
            Err(e) => return Err(TransportError::system("fallocate", e)),
        }
    }
}

/// The first generation of a segment's windows. It is random, so that keys of one segment do not match the windows of another.
fn first_generation() -> Result<u64, TransportError> {
    Ok((crate::auth::random_u64()? >> 32).max(1) << 32)
}

impl Segment {
    /// Makes a segment that only threads of this process reach.
    pub fn private(ring_bytes: usize, arena_len: usize) -> Result<Self, TransportError> {
        let first_generation = first_generation()?;
        let head = (HEADER + ring_bytes).next_multiple_of(PAGE);
        let fd = file(head)?;
        reserve_file(fd.as_fd(), 0, head)?;
        let mut arena_len = arena_len;
        loop {
            let segment = Self::map(fd.as_fd(), ring_bytes, arena_len).and_then(|segment| {
                segment.map.place_private(segment.arena, arena_len)?;
                Ok(segment)
            });
            match segment {
                Ok(segment) => {
                    segment.init(first_generation);
                    return Ok(segment);
                }
                // Strict overcommit, or a limit on addresses: try with less.
                Err(_) if arena_len > ARENA_MIN => arena_len = (arena_len / 2).next_multiple_of(HUGE).max(ARENA_MIN),
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes a segment that other processes reach. They [`attach`](Self::attach) the descriptor that [`fd`](Self::fd) returns.
    pub fn shared(ring_bytes: usize, arena_len: usize) -> Result<Self, TransportError> {
        let arena_at = (HEADER + ring_bytes).next_multiple_of(HUGE);
        let fd = file(arena_at + arena_len)?;
        reserve_file(fd.as_fd(), 0, HEADER + ring_bytes)?;
        let mut segment = Self::map(fd.as_fd(), ring_bytes, arena_len)?;
        segment.map.place_file(segment.arena, arena_len, fd.as_fd(), arena_at as u64)?;
        segment.fd = Some(fd);
        segment.init(first_generation()?);
        Ok(segment)
    }

    /// Maps the segment of a peer. `ring_bytes` is the value of the job: the peer's must be the same. The arena has the length that the peer
    /// chose, at most what all `pes` of the host may have.
    pub fn attach(fd: &OwnedFd, ring_bytes: usize, pes: u32) -> Result<Self, TransportError> {
        let bad = |what| TransportError::Startup(format!("a peer's shared memory {what}"));
        let arena_at = (HEADER + ring_bytes).next_multiple_of(HUGE);
        let stat = rustix::fs::fstat(fd).map_err(|e| TransportError::system("fstat", e))?;
        let arena_len = usize::try_from(stat.st_size).ok().and_then(|size| size.checked_sub(arena_at));
        let fits = |len: &usize| {
            len.is_multiple_of(HUGE) && *len >= HUGE && *len as u64 <= ARENAS_MAX / u64::from(pes.max(1)) + HUGE as u64
        };
        let arena_len = arena_len.filter(fits).ok_or_else(|| bad("has an impossible size"))?;
        let seals = rustix::fs::fcntl_get_seals(fd).map_err(|_| bad("cannot be sealed"))?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(bad("is not sealed"));
        }
        let segment = Self::map(fd.as_fd(), ring_bytes, arena_len)?;
        segment.map.place_file(segment.arena, arena_len, fd.as_fd(), arena_at as u64)?;
        use std::sync::atomic::Ordering::Relaxed;
        let header = segment.header();
        let said = [&header.magic, &header.ring_bytes, &header.arena_bytes].map(|w| w.load(Relaxed));
        if said != [MAGIC, ring_bytes as u64, arena_len as u64] {
            return Err(bad("is of another version"));
        }
        segment.map.advise_huge(segment.arena, arena_len);
        Ok(segment)
    }

    /// Maps header and ring. The arena has no memory yet.
    fn map(fd: BorrowedFd<'_>, ring_bytes: usize, arena_len: usize) -> Result<Self, TransportError> {
        assert!(ring_bytes.is_power_of_two() && ring_bytes >= PAGE && arena_len.is_multiple_of(HUGE));
        let arena = (HEADER + 2 * ring_bytes).next_multiple_of(HUGE);
        let map = Mapping::reserve(arena + arena_len)?;
        map.place_file(0, HEADER + ring_bytes, fd, 0)?;
        map.place_file(HEADER + ring_bytes, ring_bytes, fd, HEADER as u64)?;
        Ok(Self { map, ring_bytes, arena, arena_len, fd: None })
    }

    fn init(&self, first_generation: u64) {
        use std::sync::atomic::Ordering::Relaxed;
        let header = self.header();
        header.magic.store(MAGIC, Relaxed);
        header.ring_bytes.store(self.ring_bytes as u64, Relaxed);
        header.arena_bytes.store(self.arena_len as u64, Relaxed);
        header.windows.iter().for_each(|window| window.state.store(first_generation, Relaxed));
        self.map.advise_huge(self.arena, self.arena_len);
    }

    /// The descriptor of a shared segment that this process made.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// The header.
    #[inline]
    #[must_use]
    pub fn header(&self) -> &Header {
        // SAFETY: the mapping begins with a header: atomics, valid for any bytes.
        unsafe { self.map.base().cast().as_ref() }
    }

    /// The inbox. The caller must keep the segment alive.
    pub(crate) fn ring(&self) -> Raw {
        // SAFETY: the two mappings of the ring lie back to back behind the header, and nothing else accesses them;
        // callers keep the segment alive.
        unsafe { Raw::new(self.map.at(HEADER), self.ring_bytes, NonNull::from(&self.header().ends)) }
    }

    /// Length of the arena.
    pub fn arena_len(&self) -> usize {
        self.arena_len
    }

    /// The arena's first byte.
    #[inline]
    pub(crate) fn arena(&self) -> NonNull<u8> {
        self.map.at(self.arena)
    }

    /// Reserves memory for a part of the arena.
    pub(crate) fn reserve(&self, offset: usize, len: usize) -> Result<(), TransportError> {
        assert!(offset + len <= self.arena_len);
        match &self.fd {
            Some(fd) => reserve_file(fd.as_fd(), (HEADER + self.ring_bytes).next_multiple_of(HUGE) + offset, len),
            None => self.map.populate(self.arena + offset, len).map_err(|_| no_memory(len)),
        }
    }
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Header").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arenas_are_as_large_as_the_machine_s_memory_unless_addresses_or_files_are_limited() {
        const RAM: u64 = 24 << 30;
        let each = |pes, addresses, file| arena_bytes_within(pes, RAM, addresses, file) as u64;
        for pes in [1, 2, 16, 128] {
            assert_eq!(each(pes, None, None), RAM);
            for addresses in [300 << 20, 4_000_000 << 10, 64 << 30] {
                let arena = each(pes, Some(addresses), None);
                let all = arena * u64::from(pes);
                assert!(all <= addresses / 2 || arena == ARENA_MIN as u64, "{pes} PEs, {addresses}: {arena}");
                assert!(all * 4 >= addresses || arena >= RAM, "no less than is needed: {arena}");
            }
        }
        assert_eq!(each(2, Some(0), Some(0)), ARENA_MIN as u64);
        assert!(each(2, None, Some(1 << 30)) < 1 << 30);
        assert!(each(1 << 20, None, None) <= ARENAS_MAX >> 20);
    }

    #[test]
    fn an_arena_has_the_length_that_its_owner_chose_and_an_impossible_one_is_refused() {
        const RING: usize = 1 << 16;
        for arena in [ARENA_MIN, 5 * HUGE, 1 << 30] {
            let own = Segment::shared(RING, arena).unwrap();
            let fd = own.fd().unwrap().try_clone_to_owned().unwrap();
            assert_eq!(Segment::attach(&fd, RING, 2).unwrap().arena_len(), arena);
            assert!(Segment::attach(&fd, 2 * RING, 2).is_err(), "of another job's form");
        }
        let huge = Segment::shared(RING, 1 << 30).unwrap();
        let fd = huge.fd().unwrap().try_clone_to_owned().unwrap();
        let why = Segment::attach(&fd, RING, u32::MAX).unwrap_err();
        assert!(why.to_string().contains("impossible size"), "{why}");
    }
}
