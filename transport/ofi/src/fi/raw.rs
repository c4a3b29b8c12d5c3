//! Raw keys. Where the keys of a provider are longer than 64 bits (`FI_MR_RAW`), or mean something only together with an address, peers are told
//! the bytes of one, and each has its provider make a number of them, which then stands for it in accesses. Knows nothing of windows.

use std::rc::Rc;

use charm4rs_libfabric_sys::bindings as fi;

use super::{Errno, Lane, Region};

/// Bytes of the base address, which go before those of a key.
const BASE: usize = size_of::<u64>();
/// No key is longer.
const KEY_MAX: usize = 4 << 10;
/// The buffer for a key is too small; libfabric says how long it must be.
const TOO_SMALL: i32 = 257;

/// A peer's key, as a number of this lane's. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Mapped {
    lane: Rc<Lane>,
    key: u64,
}

impl Mapped {
    /// What stands for the key in accesses.
    pub(crate) fn key(&self) -> u64 {
        self.key
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let mut key = self.key;
        if let Err(error) = self.lane.domain.control(fi::FI_UNMAP_KEY, (&raw mut key).cast()) {
            tracing::warn!(error = error.0, "a key cannot be given back to libfabric");
        }
    }
}

impl Lane {
    /// Whether peers need more than a number to reach a registration.
    pub(crate) fn has_raw_keys(&self) -> bool {
        self.info.mr_mode(fi::FI_MR_RAW)
    }

    /// What peers are told of a registration, for their [`Lane::map`].
    pub(crate) fn raw_key(&self, region: &Region) -> Result<Vec<u8>, Errno> {
        let mut len = self.info.domain().mr_key_size.min(KEY_MAX);
        loop {
            let (mut base, mut bytes, room) = (0u64, vec![0; BASE + len], len);
            let mut attr = fi::fi_mr_raw_attr {
                flags: 0,
                base_addr: &raw mut base,
                raw_key: bytes[BASE..].as_mut_ptr(),
                key_size: &raw mut len,
            };
            match region.mr.control(fi::FI_GET_RAW_MR, (&raw mut attr).cast()) {
                Ok(()) if len <= room => {
                    bytes[..BASE].copy_from_slice(&base.to_le_bytes());
                    bytes.truncate(BASE + len);
                    return Ok(bytes);
                }
                Err(Errno(TOO_SMALL)) if len > room && len <= KEY_MAX => {}
                Ok(()) => return Err(Errno(TOO_SMALL)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes a number of what a peer's [`Lane::raw_key`] says.
    pub(crate) fn map(self: &Rc<Self>, raw: &[u8]) -> Result<Mapped, Errno> {
        let (base, bytes) = raw.split_first_chunk::<BASE>().ok_or(Errno(libc::EINVAL))?;
        let (mut bytes, mut key) = (bytes.to_vec(), u64::MAX);
        let mut map = fi::fi_mr_map_raw {
            flags: 0,
            base_addr: u64::from_le_bytes(*base),
            raw_key: bytes.as_mut_ptr(),
            key_size: bytes.len(),
            key: &raw mut key,
        };
        self.domain.control(fi::FI_MAP_RAW_MR, (&raw mut map).cast())?;
        Ok(Mapped { lane: self.clone(), key })
    }
}

/// A provider without such keys, made to look like one that has them: its tables of functions are replaced by others, by which the bytes of a
/// key are its number between others that nobody can guess.
#[cfg(any(test, feature = "faults"))]
pub(crate) mod stub {
    use std::ffi::{c_int, c_void};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::Fid;
    use super::{KEY_MAX, Lane, TOO_SMALL, fi};

    /// Keys that were mapped, and given back.
    pub(crate) static MAPPED: AtomicUsize = AtomicUsize::new(0);
    pub(crate) static UNMAPPED: AtomicUsize = AtomicUsize::new(0);

    const LEN: usize = 24;
    const BASE: u64 = 0x0123_4567_89ab_cdef;
    const EDGE: [u8; 8] = *b"raw key.";

    /// From now on the lane has raw keys.
    pub(crate) fn set(lane: &mut Lane) {
        // SAFETY: the description is the lane's own, and nobody else looks at it now.
        unsafe {
            let domain = &mut *(*lane.info.raw.as_ptr()).domain_attr;
            domain.mr_mode |= fi::FI_MR_RAW.cast_signed();
            // Shorter than they are: the length has to be asked for.
            domain.mr_key_size = 8;
        }
        replace(&lane.domain, domain_control);
    }

    pub(in crate::fi) fn set_region(mr: &Fid<fi::fid_mr>) {
        replace(mr, mr_control);
    }

    type Control = unsafe extern "C" fn(*mut fi::fid, c_int, *mut c_void) -> c_int;

    fn replace<T>(object: &Fid<T>, control: Control) {
        // SAFETY: an open object, whose table of functions is replaced by a copy that lives for ever.
        unsafe {
            let table = Box::leak(Box::new(*(*object.fid()).ops));
            table.control = Some(control);
            (*object.fid()).ops = table;
        }
    }

    unsafe extern "C" fn mr_control(fid: *mut fi::fid, command: c_int, arg: *mut c_void) -> c_int {
        assert_eq!(command.cast_unsigned(), fi::FI_GET_RAW_MR);
        // SAFETY: what this command takes; the object is a region.
        unsafe {
            let attr = &mut *arg.cast::<fi::fi_mr_raw_attr>();
            let room = std::mem::replace(&mut *attr.key_size, LEN);
            if room < LEN {
                return -TOO_SMALL;
            }
            *attr.base_addr = BASE;
            let key = (*fid.cast::<fi::fid_mr>()).key;
            let bytes = [EDGE, key.to_le_bytes(), EDGE];
            std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), attr.raw_key, LEN);
        }
        0
    }

    unsafe extern "C" fn domain_control(_: *mut fi::fid, command: c_int, arg: *mut c_void) -> c_int {
        if command.cast_unsigned() == fi::FI_UNMAP_KEY {
            UNMAPPED.fetch_add(1, Ordering::Relaxed);
            return 0;
        }
        assert_eq!(command.cast_unsigned(), fi::FI_MAP_RAW_MR);
        // SAFETY: what this command takes.
        let (map, bytes) = unsafe {
            let map = &*arg.cast::<fi::fi_mr_map_raw>();
            assert!(map.key_size <= KEY_MAX);
            (map, std::slice::from_raw_parts(map.raw_key, map.key_size))
        };
        let ([first, key, last], []) = bytes.as_chunks() else { return -libc::EINVAL };
        if (map.base_addr, *first, *last) != (BASE, EDGE, EDGE) {
            return -libc::EINVAL;
        }
        MAPPED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: where the answer goes.
        unsafe { *map.key = u64::from_le_bytes(*key) };
        0
    }
}
