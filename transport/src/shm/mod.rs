//! `shm`: between the processes of a host. All processes of the host map every PE's [`Segment`]: an inbox that
//! they write, and the arena of its pool, from which a buffer is handed over by its offset.
//!
//! Descriptors of segments and eventfds are exchanged once, by the bootstrap. No object has a name. Everything that is read
//! from memory that another process writes is checked before it is used.

#[cfg(test)]
mod pair;
#[cfg(test)]
mod trial;
mod vm;

use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::process::{Pid, getpid};

use self::vm::Process;
use crate::shmem::{Lane, ShmemEndpoint, Target};
use charm4rs_bootstrap::Bootstrap;
use charm4rs_transport_core::doorbell::{self, Fences};
use charm4rs_transport_core::memory::pool::Arena;
use charm4rs_transport_core::memory::segment::{Segment, arena_bytes};
use charm4rs_transport_core::memory::window::WindowAddress;
use charm4rs_transport_core::memory::{Home, write_bytes};
use charm4rs_transport_core::ring::BODY_MAX;
use charm4rs_transport_core::{Caps, Doorbell, Endpoint, EndpointBuilder, Fabric, Pe, RegBuf, TransportError};

/// The PEs of its host, as this process knows them.
#[derive(Debug)]
struct Host {
    first: u32,
    segments: Vec<Arc<Segment>>,
    arenas: Vec<Arc<Arena>>,
    bells: Vec<OwnedFd>,
    processes: Processes,
    /// Tags of arenas are this number plus the PE's index.
    tag: u64,
    fences: Fences,
    /// Whether memory outside the arenas can be reached.
    vm: bool,
}

/// The processes of PEs; PEs of one process share an entry. `None`: its data were invalid.
type Processes = Vec<Option<Arc<Process>>>;

/// The process-wide half.
#[derive(Debug)]
pub(crate) struct ShmFabric {
    host: Arc<Host>,
    caps: Caps,
}

impl ShmFabric {
    /// Shares segments with all processes of this host. All of them must call it at the same point of their wire-up.
    ///
    /// # Errors
    /// If the system is out of a resource, or a process of the host is gone.
    pub(crate) fn open(boot: &mut dyn Bootstrap, ring_bytes: usize) -> Result<Arc<Self>, TransportError> {
        let layout = boot.layout().clone();
        let rank = boot.rank();
        let host = layout.host_of(rank);
        let pes = layout.pes_of_host(host);
        let arena_len = arena_bytes(pes.end - pes.start);
        vm::allow();
        let mut own = Vec::new();
        let mut bells = Vec::new();
        for _ in layout.pes_of(rank) {
            own.push(Segment::shared(ring_bytes, arena_len)?);
            bells.push(doorbell::event_fd()?);
        }
        own.iter().try_for_each(introduce)?;
        let fds: Vec<BorrowedFd<'_>> =
            own.iter().zip(&bells).flat_map(|(s, b)| [s.fd().expect("shared segments have one"), b.as_fd()]).collect();
        let theirs = boot.share_fds(&fds)?;
        let mut own = own.into_iter().map(Arc::new);
        let mut segments = Vec::new();
        let mut all_bells = Vec::new();
        for (process, fds) in layout.processes_of(host).zip(theirs) {
            let count = layout.pes_of(process).len();
            if fds.len() != 2 * count {
                return Err(TransportError::Startup(format!("process {process} shared {} descriptors", fds.len())));
            }
            let mut fds = fds.into_iter();
            while let (Some(segment), Some(bell)) = (fds.next(), fds.next()) {
                segments.push(match own.next().filter(|_| process == rank) {
                    Some(own) => own,
                    None => Arc::new(Segment::attach(&segment, ring_bytes, pes.end - pes.start)?),
                });
                all_bells.push(bell);
            }
        }
        if segments.len() != pes.len() {
            return Err(TransportError::Startup("a process of this host shared no memory".into()));
        }
        Self::over(pes, segments, all_bells)
    }

    fn over(pes: Range<u32>, segments: Vec<Arc<Segment>>, bells: Vec<OwnedFd>) -> Result<Arc<Self>, TransportError> {
        let tag = charm4rs_transport_core::memory::pool::fresh_tags();
        let arenas = (tag..).zip(&segments).map(|(tag, s)| Arc::new(Arena::new(s.clone(), tag))).collect();
        let all = |f: fn(&Segment) -> bool| segments.iter().all(|s| f(s));
        let fences =
            if all(|s| s.header().barriers.load(Ordering::Relaxed) == 1) { Fences::host() } else { Fences::Both };
        let (processes, vm) = processes_of(&segments)?;
        let caps = Caps {
            name: "shm",
            inject_max: BODY_MAX,
            send_max: segments.iter().map(|s| s.arena_len()).min().unwrap_or(0) / 2,
            put_max: isize::MAX as usize,
            ordered: true,
            handover: true,
            one_sided: true,
            wakes: true,
            latency_ns: 200,
            bandwidth_mb_s: 10_000,
        };
        Ok(Arc::new(Self {
            host: Arc::new(Host { first: pes.start, segments, arenas, bells, processes, tag, fences, vm }),
            caps,
        }))
    }

    /// All PEs of one host in one process, for tests: the same code, the same memory, but no other process.
    ///
    /// # Errors
    /// If the system is out of a resource.
    pub(crate) fn alone(pes: u32, ring_bytes: usize) -> Result<Arc<Self>, TransportError> {
        Self::alone_with(pes, ring_bytes, arena_bytes(pes))
    }

    /// As [`ShmFabric::alone`], with pools of at most `arena` bytes.
    pub(crate) fn alone_with(pes: u32, ring_bytes: usize, arena: usize) -> Result<Arc<Self>, TransportError> {
        let mut segments = Vec::new();
        let mut bells = Vec::new();
        for _ in 0..pes {
            let segment = Segment::shared(ring_bytes, arena)?;
            introduce(&segment)?;
            segments.push(Arc::new(segment));
            bells.push(doorbell::event_fd()?);
        }
        Self::over(0..pes, segments, bells)
    }

    /// The segment of `pe`, for tests that play a faulty process.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn segment(&self, pe: Pe) -> &Arc<Segment> {
        &self.host.segments[(pe.0 - self.host.first) as usize]
    }

    /// The endpoint of `pe`. Must be opened on its thread.
    pub(crate) fn endpoint(&self, pe: Pe) -> ShmemEndpoint<Shm> {
        open(&self.host, pe, &self.caps)
    }
}

/// Writes what peers must know of this process into a segment of ours.
fn introduce(segment: &Segment) -> Result<(), TransportError> {
    let header = segment.header();
    header.process.store(getpid().as_raw_nonzero().get().cast_unsigned(), Ordering::Relaxed);
    header.barriers.store(u32::from(Fences::host() == Fences::Host), Ordering::Relaxed);
    let (address, word) = vm::own_probe()?;
    header.probe.store(address, Ordering::Relaxed);
    header.probe_word.store(word, Ordering::Relaxed);
    Ok(())
}

/// The processes of PEs' segments, and whether the memory of all of them can be reached.
fn processes_of(segments: &[Arc<Segment>]) -> Result<(Processes, bool), TransportError> {
    let mut processes = Processes::new();
    let (mut last, mut vm) = (None, true);
    for segment in segments {
        let header = segment.header();
        let pid = header.process.load(Ordering::Relaxed);
        let probe = (header.probe.load(Ordering::Relaxed), header.probe_word.load(Ordering::Relaxed));
        // PEs of one process are consecutive.
        if last == Some((pid, probe)) {
            processes.push(processes.last().cloned().flatten());
            continue;
        }
        last = Some((pid, probe));
        let process = Pid::from_raw(pid.cast_signed()).map(Process::open).transpose()?;
        vm = vm && process.as_ref().is_some_and(|process| process.is_reachable(probe));
        processes.push(process.map(Arc::new));
    }
    Ok((processes, vm))
}

fn open(host: &Arc<Host>, pe: Pe, caps: &Caps) -> ShmemEndpoint<Shm> {
    let index = (pe.0 - host.first) as usize;
    let lane = Shm { host: host.clone(), index };
    ShmemEndpoint::new(pe, host.first, lane, caps.clone(), &host.segments, host.arenas[index].clone(), host.fences)
}

impl Fabric for ShmFabric {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn builder(&self, pe: Pe) -> Box<dyn EndpointBuilder> {
        Box::new(Builder { host: self.host.clone(), pe, caps: self.caps.clone() })
    }
}

struct Builder {
    host: Arc<Host>,
    pe: Pe,
    caps: Caps,
}

impl EndpointBuilder for Builder {
    fn build(self: Box<Self>, _: &Doorbell) -> Result<Box<dyn Endpoint>, TransportError> {
        Ok(Box::new(open(&self.host, self.pe, &self.caps)))
    }
}

/// How processes of a host reach each other.
#[derive(Debug)]
pub(crate) struct Shm {
    host: Arc<Host>,
    index: usize,
}

/// A window outside all arenas, at an address of its owner's process.
const FOREIGN: u64 = u64::MAX;
/// The words of a handle: the arena's PE, offset, length, capacity.
const WORDS: usize = 4;

impl Shm {
    /// The arena and offset of a buffer, if it is a whole block.
    fn block(&self, buf: &RegBuf) -> Option<(usize, usize)> {
        let index = usize::try_from(buf.tag().checked_sub(self.host.tag)?).ok()?;
        let arena = self.host.arenas.get(index)?;
        Some((index, arena.offset_of(buf.as_ptr())?))
    }
}

// SAFETY: a handle names a block of an arena that its sender owned and forgot; a window's place is checked to lie in
// an arena that is mapped.
unsafe impl Lane for Shm {
    const HANDLE: usize = 8 * WORDS;

    #[inline]
    fn can_hand(&self, buf: &RegBuf) -> bool {
        self.block(buf).is_some_and(|(index, _)| buf.is_at_home(&self.host.arenas[index]))
    }

    #[inline]
    fn write(&self, buf: RegBuf, body: &mut [MaybeUninit<u8>]) {
        let (index, offset) = self.block(&buf).expect("asked before");
        let (_, len, cap, _home) = buf.into_raw();
        let words = [index, offset, len, cap].map(|w| (w as u64).to_le_bytes());
        write_bytes(body, words.as_flattened());
    }

    #[inline]
    unsafe fn read(&self, body: NonNull<u8>) -> Option<RegBuf> {
        // SAFETY: the caller's promise; copied first, since another process could change it during the checks.
        let words = unsafe { body.cast::<[u64; WORDS]>().read_volatile() };
        let [index, offset, len, cap] = words.map(u64::from_le);
        let arena = self.host.arenas.get(usize::try_from(index).ok()?)?;
        if len > cap || cap == 0 || !offset.is_multiple_of(charm4rs_transport_core::memory::map::PAGE as u64) {
            return None;
        }
        let ptr = arena.range(offset, cap)?;
        let home: Arc<dyn Home> = arena.clone();
        // SAFETY: the block lies in a mapped arena; its sender owned it and has forgotten it.
        Some(unsafe { RegBuf::from_raw(ptr, usize::try_from(len).ok()?, usize::try_from(cap).ok()?, home) })
    }

    fn ring(&self, peer: usize) {
        doorbell::ring(self.host.bells[peer].as_fd());
    }

    fn place(&self, buf: &RegBuf) -> Option<WindowAddress> {
        let len = buf.len() as u64;
        match self.block(buf) {
            Some((index, offset)) => Some(WindowAddress { whose: index as u64, addr: offset as u64, len }),
            None if self.host.vm => Some(WindowAddress { whose: FOREIGN, addr: buf.as_ptr() as u64, len }),
            None => None,
        }
    }

    fn resolve(&self, owner: usize, place: &WindowAddress) -> Option<Target> {
        if place.whose == FOREIGN {
            return self.host.vm.then_some(Target::There { peer: owner, addr: place.addr });
        }
        self.host.arenas.get(usize::try_from(place.whose).ok()?)?.range(place.addr, place.len).map(Target::Here)
    }

    fn copy(&self, here: &mut [u8], peer: usize, addr: u64, put: bool) -> bool {
        self.host.processes[peer].as_ref().is_some_and(|process| process.copy(here, addr, put))
    }

    fn has_ended(&self, peer: usize) -> bool {
        self.host.processes[peer].as_ref().is_none_or(|process| process.has_ended())
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.host.bells[self.index].as_fd())
    }

    fn awake(&self) {
        doorbell::drain(self.host.bells[self.index].as_fd());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use charm4rs_transport_testkit::conformance::{Death, Group, Harness, fast};

    struct OneProcess;

    impl Harness for OneProcess {
        fn group(&self, pes: u32) -> Group {
            let fabric = ShmFabric::alone(pes, 1 << 16).unwrap();
            let builders = (0..pes).map(|pe| fabric.builder(Pe(pe))).collect();
            Group::Threads { builders, death: Death::Drop, keep: Box::new(fabric) }
        }
    }

    charm4rs_transport_testkit::conformance!(shm, OneProcess);

    struct ByFastPath;

    impl Harness for ByFastPath {
        fn group(&self, pes: u32) -> Group {
            let fabric = ShmFabric::alone(pes, 1 << 16).unwrap();
            let open = |pe| {
                let fabric = fabric.clone();
                fast::builder(move |_| Ok(fabric.endpoint(Pe(pe))))
            };
            let builders = (0..pes).map(open).collect();
            Group::Threads { builders, death: Death::Drop, keep: Box::new(fabric) }
        }
    }

    charm4rs_transport_testkit::conformance!(fast_path, ByFastPath);

    #[test]
    fn a_window_in_which_a_peer_died_is_given_up_and_reported() {
        let fabric = ShmFabric::alone(2, 1 << 16).unwrap();
        let [mut zero, one] = [0, 1].map(|pe| fabric.endpoint(Pe(pe)));
        let buf = zero.alloc(5_000).unwrap();
        let window = zero.expose(buf).unwrap();
        let key = u64::from_le_bytes((*window.key.bytes).try_into().unwrap());
        let [slot, generation] = [key >> 32, key & 0xffff_ffff].map(|half| u32::try_from(half).unwrap());
        let inside = charm4rs_transport_core::memory::window::Inside::enter(&fabric.host.segments[0], slot, generation);
        #[expect(clippy::mem_forget, reason = "a dying process drops nothing")]
        std::mem::forget(inside.unwrap());
        drop(one);
        assert_eq!(zero.unexpose(window).len(), 5_000);
        let error = zero.progress(&mut Vec::new(), 1).unwrap_err();
        assert!(matches!(error, TransportError::PeerDown { pe: Pe(1), .. }), "{error}");
    }
}
