//! Memory of another process that is not shared with us, where the kernel lets us at it.

use std::sync::atomic::AtomicU64;

use rustix::process::{PTracer, Pid, set_ptracer};

/// What a process that may look finds at the address in our header.
pub(super) static PROBE: AtomicU64 = AtomicU64::new(MAGIC);
const MAGIC: u64 = 0x6368_6172_6d34_7273;

/// Lets the job's other processes at our memory, where Yama asks for it.
pub(super) fn allow() {
    // Without Yama there is no such call, and nothing to allow.
    let _ = set_ptracer(PTracer::Any);
}

/// Copies between `here` and another process; true if all bytes were copied.
pub(super) fn copy(here: &mut [u8], process: Pid, addr: u64, put: bool) -> bool {
    let Ok(addr) = usize::try_from(addr) else { return false };
    let mut done = 0;
    while done < here.len() {
        let local = libc::iovec { iov_base: here[done..].as_mut_ptr().cast(), iov_len: here.len() - done };
        let Some(at) = addr.checked_add(done) else { return false };
        let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(at), iov_len: here.len() - done };
        let pid = process.as_raw_nonzero().get();
        // SAFETY: `local` describes a buffer of ours, borrowed exclusively; the kernel checks the other side.
        let n = unsafe {
            if put {
                libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0)
            } else {
                libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0)
            }
        };
        match usize::try_from(n) {
            Ok(n) if n > 0 => done += n,
            _ => return false,
        }
    }
    true
}

/// Whether we can reach a peer's memory.
pub(super) fn reachable(process: Pid, probe: u64) -> bool {
    let mut word = [0; 8];
    copy(&mut word, process, probe, false) && u64::from_ne_bytes(word) == MAGIC
}
