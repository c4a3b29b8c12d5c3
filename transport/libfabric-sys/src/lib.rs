//! The raw interface of libfabric: its structures, and the few functions of the library itself, opened when a program runs. Nothing but Rust is
//! needed to build.
//!
//! This crate does not know what the interface is used for. The functions are looked up by the version in which their structures are those of
//! [`bindings`], since otherwise a newer library gives its newest, with larger structures. All other functions of libfabric are
//! called through tables in the objects that these make.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::path::{Path, PathBuf};

#[allow(
    missing_docs,
    missing_debug_implementations,
    non_camel_case_types,
    unreachable_pub,
    clippy::undocumented_unsafe_blocks,
    clippy::missing_safety_doc,
    clippy::pub_underscore_fields,
    reason = "generated; libfabric's manual pages document it"
)]
pub mod bindings;

use bindings::{fi_fabric_attr, fi_info, fid_fabric};

/// The version of the interface that this crate uses: 1.17. Newer libraries support it too.
pub const VERSION: u32 = 1 << 16 | 17;

/// The environment variable that names a library to be used instead of any other.
pub const PATH_VARIABLE: &str = "CHARM4RS_LIBFABRIC";

const NAME: &str = "libfabric.so.1";
/// Where Cray's systems have it, outside the linker's path: in a folder for each version.
const CRAY: &str = "/opt/cray/libfabric";

type GetInfo = unsafe extern "C" fn(u32, *const c_char, *const c_char, u64, *const fi_info, *mut *mut fi_info) -> c_int;
type DupInfo = unsafe extern "C" fn(*const fi_info) -> *mut fi_info;
type FreeInfo = unsafe extern "C" fn(*mut fi_info);
type Fabric = unsafe extern "C" fn(*mut fi_fabric_attr, *mut *mut fid_fabric, *mut c_void) -> c_int;
type StrError = unsafe extern "C" fn(c_int) -> *const c_char;

/// The open library. It is never closed: its providers have threads and exit handlers.
#[derive(Clone)]
pub struct Library {
    /// `fi_getinfo`, version 1.3.
    pub getinfo: GetInfo,
    /// `fi_dupinfo`, version 1.3.
    pub dupinfo: DupInfo,
    /// `fi_freeinfo`, version 1.3.
    pub freeinfo: FreeInfo,
    /// `fi_fabric`, version 1.1.
    pub fabric: Fabric,
    strerror: StrError,
    version: u32,
    path: PathBuf,
}

/// Why there is no usable library.
#[derive(Debug)]
pub struct Missing {
    /// The libraries that were tried, each with the reason why it cannot be used.
    pub tried: Vec<String>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tried.join("; "))
    }
}

impl std::error::Error for Missing {}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("path", &self.path).field("version", &self.release()).finish_non_exhaustive()
    }
}

impl Library {
    /// Opens the library: the one that the environment names ([`PATH_VARIABLE`]), or the linker's, or Cray's newest.
    ///
    /// # Errors
    /// [`Missing`], with what was tried.
    pub fn open() -> Result<Self, Missing> {
        let candidates = match std::env::var_os(PATH_VARIABLE) {
            Some(path) => vec![PathBuf::from(path)],
            None => std::iter::once(PathBuf::from(NAME)).chain(crays()).collect(),
        };
        let mut tried = Vec::new();
        for path in candidates {
            match Self::at(&path) {
                Ok(library) => return Ok(library),
                Err(why) => tried.push(why),
            }
        }
        Err(Missing { tried })
    }

    fn at(path: &Path) -> Result<Self, String> {
        let name =
            CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| "the path contains a zero".to_owned())?;
        // SAFETY: a string that ends with a zero. The library's constructors are trusted as those of any library are.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            return Err(last_error(path));
        }
        let symbol = |name: &CStr, version: &CStr| {
            // SAFETY: an open library, and strings that end with zeros.
            let found = unsafe { libc::dlvsym(handle, name.as_ptr(), version.as_ptr()) };
            if found.is_null() { Err(last_error(path)) } else { Ok(found) }
        };
        let getinfo = symbol(c"fi_getinfo", c"FABRIC_1.3")?;
        let dupinfo = symbol(c"fi_dupinfo", c"FABRIC_1.3")?;
        let freeinfo = symbol(c"fi_freeinfo", c"FABRIC_1.3")?;
        let fabric = symbol(c"fi_fabric", c"FABRIC_1.1")?;
        let strerror = symbol(c"fi_strerror", c"FABRIC_1.0")?;
        let version = symbol(c"fi_version", c"FABRIC_1.0")?;
        // SAFETY: these are libfabric's functions of these versions, which have these types.
        let library = unsafe {
            Self {
                getinfo: std::mem::transmute::<*mut c_void, GetInfo>(getinfo),
                dupinfo: std::mem::transmute::<*mut c_void, DupInfo>(dupinfo),
                freeinfo: std::mem::transmute::<*mut c_void, FreeInfo>(freeinfo),
                fabric: std::mem::transmute::<*mut c_void, Fabric>(fabric),
                strerror: std::mem::transmute::<*mut c_void, StrError>(strerror),
                version: std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> u32>(version)(),
                path: file_of(getinfo).unwrap_or_else(|| path.to_owned()),
            }
        };
        if library.version < VERSION {
            return Err(format!("{} is version {}, and 1.17 is needed", library.path.display(), library.release()));
        }
        Ok(library)
    }

    /// Its release, as in `1.17`.
    #[must_use]
    pub fn release(&self) -> String {
        format!("{}.{}", self.version >> 16, self.version & 0xffff)
    }

    /// The file that it was loaded from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text of an error: a positive number, of the system or of libfabric.
    #[must_use]
    pub fn describe(&self, error: c_int) -> String {
        // SAFETY: the function accepts any number, and its strings are never freed.
        let text = unsafe { (self.strerror)(error) };
        if text.is_null() {
            return format!("error {error}");
        }
        // SAFETY: as above.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
}

/// Cray's libraries, the newest first.
fn crays() -> Vec<PathBuf> {
    let number = |part: &str| part.parse::<u64>().unwrap_or(0);
    let version = |name: &str| name.split('.').map(number).collect::<Vec<_>>();
    let mut found: Vec<(Vec<u64>, PathBuf)> = std::fs::read_dir(CRAY)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| (version(&entry.file_name().to_string_lossy()), entry.path().join("lib64").join(NAME)))
        .filter(|(_, path)| path.exists())
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

fn last_error(path: &Path) -> String {
    // SAFETY: the string belongs to this thread, and is copied before the next call.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return format!("{}: cannot be opened", path.display());
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// The file that contains an address.
fn file_of(address: *const c_void) -> Option<PathBuf> {
    // SAFETY: a structure of pointers, all of which may be null.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: the address need not belong to any library.
    let found = unsafe { libc::dladdr(address, &raw mut info) } != 0;
    if !found || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the name of a library that stays loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(name.to_string_lossy().into_owned()))
}
