//! `local`: between the threads of one process. Pointers are valid everywhere, so any buffer is handed over as it is,
//! and a put is a copy.

use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use crate::shmem::{Lane, ShmemEndpoint, Target};
use charm4rs_transport_core::doorbell::Fences;
use charm4rs_transport_core::memory::pool::Arena;
use charm4rs_transport_core::memory::segment::{Segment, arena_bytes};
use charm4rs_transport_core::memory::window::WindowAddress;
use charm4rs_transport_core::ring::BODY_MAX;
use charm4rs_transport_core::{Caps, Doorbell, Endpoint, EndpointBuilder, Fabric, Pe, RegBuf, TransportError, Waker};

/// The process-wide half: the inboxes of all PEs of this process.
#[derive(Debug)]
pub(crate) struct LocalFabric {
    first: u32,
    segments: Vec<Arc<Segment>>,
    bells: Arc<[OnceLock<Waker>]>,
    caps: Caps,
}

impl LocalFabric {
    /// The fabric of the PEs `pes` of this process, with inboxes of `ring_bytes` (a power of two).
    ///
    /// # Errors
    /// If there is no memory.
    pub(crate) fn new(pes: std::ops::Range<u32>, ring_bytes: usize) -> Result<Arc<Self>, TransportError> {
        let arena = arena_bytes(pes.end - pes.start);
        let segments = pes
            .clone()
            .map(|_| Segment::private(ring_bytes, arena).map(Arc::new))
            .collect::<Result<Vec<_>, TransportError>>()?;
        let caps = Caps {
            name: "local",
            inject_max: BODY_MAX,
            send_max: isize::MAX as usize,
            put_max: isize::MAX as usize,
            ordered: true,
            handover: true,
            one_sided: true,
            wakes: true,
            latency_ns: 150,
            bandwidth_mb_s: 10_000,
        };
        Ok(Arc::new(Self { first: pes.start, segments, bells: pes.map(|_| OnceLock::new()).collect(), caps }))
    }

    /// The endpoint of `pe`. Must be opened on its thread.
    pub(crate) fn open(&self, pe: Pe, doorbell: &Doorbell) -> ShmemEndpoint<Local> {
        Builder {
            pe,
            first: self.first,
            segments: self.segments.clone(),
            bells: self.bells.clone(),
            caps: self.caps.clone(),
        }
        .open(doorbell)
    }
}

impl Fabric for LocalFabric {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn builder(&self, pe: Pe) -> Box<dyn EndpointBuilder> {
        Box::new(Builder {
            pe,
            first: self.first,
            segments: self.segments.clone(),
            bells: self.bells.clone(),
            caps: self.caps.clone(),
        })
    }
}

struct Builder {
    pe: Pe,
    first: u32,
    segments: Vec<Arc<Segment>>,
    bells: Arc<[OnceLock<Waker>]>,
    caps: Caps,
}

impl Builder {
    fn open(self, doorbell: &Doorbell) -> ShmemEndpoint<Local> {
        let index = (self.pe.0 - self.first) as usize;
        let set = self.bells[index].set(doorbell.waker());
        assert!(set.is_ok(), "a PE's endpoint is opened once");
        let arena = Arc::new(Arena::new(self.segments[index].clone(), 0));
        let lane = Local { bells: self.bells };
        ShmemEndpoint::new(self.pe, self.first, lane, self.caps, &self.segments, arena, Fences::process())
    }
}

impl EndpointBuilder for Builder {
    fn build(self: Box<Self>, doorbell: &Doorbell) -> Result<Box<dyn Endpoint>, TransportError> {
        Ok(Box::new(self.open(doorbell)))
    }
}

/// How threads of one process reach each other.
#[derive(Debug)]
pub(crate) struct Local {
    /// Set when a PE opens its endpoint. Before that it cannot sleep.
    bells: Arc<[OnceLock<Waker>]>,
}

// SAFETY: a handle is the RegBuf itself, moved as bytes; a window's address is valid in the whole process, and the
// window owns its memory.
unsafe impl Lane for Local {
    const HANDLE: usize = size_of::<RegBuf>();

    #[inline]
    fn can_hand(&self, _: &RegBuf) -> bool {
        true
    }

    #[inline]
    fn write(&self, buf: RegBuf, body: &mut [MaybeUninit<u8>]) {
        assert!(body.len() == size_of::<RegBuf>());
        // SAFETY: the body is long enough, and 16-byte aligned.
        unsafe { body.as_mut_ptr().cast::<RegBuf>().write(buf) }
    }

    #[inline]
    unsafe fn read(&self, body: NonNull<u8>) -> Option<RegBuf> {
        // SAFETY: `write` wrote it there (the ring is this process's own memory), and it is read once (the caller's promise).
        Some(unsafe { body.cast::<RegBuf>().read() })
    }

    fn ring(&self, peer: usize) {
        if let Some(waker) = self.bells[peer].get() {
            waker.wake();
        }
    }

    fn place(&self, buf: &RegBuf) -> Option<WindowAddress> {
        Some(WindowAddress { whose: 0, addr: buf.as_ptr() as u64, len: buf.len() as u64 })
    }

    fn resolve(&self, _owner: usize, place: &WindowAddress) -> Option<Target> {
        NonNull::new(std::ptr::with_exposed_provenance_mut(usize::try_from(place.addr).ok()?)).map(Target::Here)
    }

    fn copy(&self, _: &mut [u8], _: usize, _: u64, _: bool) -> bool {
        false
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn awake(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use charm4rs_transport_testkit::conformance::{Death, Group, Harness, fast};

    struct Threads;

    impl Harness for Threads {
        fn group(&self, pes: u32) -> Group {
            let fabric = LocalFabric::new(0..pes, 1 << 16).unwrap();
            let builders = (0..pes).map(|pe| fabric.builder(Pe(pe))).collect();
            Group::Threads { builders, death: Death::Drop, keep: Box::new(fabric) }
        }
    }

    charm4rs_transport_testkit::conformance!(local, Threads);

    struct ByFastPath;

    impl Harness for ByFastPath {
        fn group(&self, pes: u32) -> Group {
            let fabric = LocalFabric::new(0..pes, 1 << 16).unwrap();
            let open = |pe| {
                let fabric = fabric.clone();
                fast::builder(move |bell| Ok(fabric.open(Pe(pe), bell)))
            };
            let builders = (0..pes).map(open).collect();
            Group::Threads { builders, death: Death::Drop, keep: Box::new(fabric) }
        }
    }

    charm4rs_transport_testkit::conformance!(fast_path, ByFastPath);
}
