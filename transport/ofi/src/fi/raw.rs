//! Raw keys. If the keys of a provider are longer than 64 bits (`FI_MR_RAW`), or are valid only together with an address, peers get
//! the bytes of a key, and each peer's provider maps them to a number, which stands for the key in accesses. Knows nothing of windows.

use std::rc::Rc;

use charm4rs_libfabric_sys::bindings as fi;

use super::{Errno, Lane, Region};

/// Bytes of the base address, which precede those of a key.
const BASE: usize = size_of::<u64>();
/// Most bytes of a key.
const KEY_MAX: usize = 4 << 10;
/// The buffer for a key is too small. libfabric then returns the length that is needed.
const TOO_SMALL: i32 = 257;

/// A peer's key, mapped to a number of this lane. Unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapped {
    lane: Rc<Lane>,
    key: u64,
}

impl Mapped {
    /// The number that stands for the key in accesses.
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

    /// The bytes of a registration's key, for the peers' [`Lane::map`].
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

    /// Maps the bytes of a peer's [`Lane::raw_key`] to a number.
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

/// Makes a provider without raw keys look like one with them: it replaces tables of functions. The bytes of a key
/// are then its number between random ones.
#[cfg(any(test, feature = "faults"))]
pub(crate) mod stub {
    use std::ffi::{c_int, c_void};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::Fid;
    use super::{KEY_MAX, Lane, TOO_SMALL, fi};

    /// Keys that were mapped, and unmapped.
    pub(crate) static MAPPED: AtomicUsize = AtomicUsize::new(0);
    pub(crate) static UNMAPPED: AtomicUsize = AtomicUsize::new(0);

    const LEN: usize = 24;
    const BASE: u64 = 0x0123_4567_89ab_cdef;
    const EDGE: [u8; 8] = *b"raw key.";

    /// Makes the lane have raw keys.
    pub(crate) fn set(lane: &mut Lane) {
        // SAFETY: the description belongs to the lane, and is not used elsewhere now.
        unsafe {
            let domain = &mut *(*lane.info.raw.as_ptr()).domain_attr;
            domain.mr_mode |= fi::FI_MR_RAW.cast_signed();
            // Shorter than a key: the length must be queried.
            domain.mr_key_size = 8;
        }
        replace(&lane.domain, domain_control);
    }

    pub(in crate::fi) fn set_region(mr: &Fid<fi::fid_mr>) {
        replace(mr, mr_control);
    }

    type Control = unsafe extern "C" fn(*mut fi::fid, c_int, *mut c_void) -> c_int;

    fn replace<T>(object: &Fid<T>, control: Control) {
        // SAFETY: an open object, whose table of functions is replaced by a copy that is never freed.
        unsafe {
            let table = Box::leak(Box::new(*(*object.fid()).ops));
            table.control = Some(control);
            (*object.fid()).ops = table;
        }
    }

    unsafe extern "C" fn mr_control(fid: *mut fi::fid, command: c_int, arg: *mut c_void) -> c_int {
        assert_eq!(command.cast_unsigned(), fi::FI_GET_RAW_MR);
        // SAFETY: the argument of this command; the object is a region.
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
        // SAFETY: the argument of this command.
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
        // SAFETY: the caller's memory for the result.
        unsafe { *map.key = u64::from_le_bytes(*key) };
        0
    }
}
