//! The raw interface of PMIx's library: its structures, and the few functions that are used. It is opened if a launcher that speaks PMIx started the
//! process. This module does not know what the calls are used for.
//!
//! Its interface for programs has been the same since version 2: only what has not changed since is declared here.

use std::ffi::{CStr, OsString, c_char, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use charm4rs_transport_core::error::loader_said;

/// The environment variable with the path of the library, if it is not in a standard place.
pub(super) const PLACE: &str = "CHARM4RS_PMIX";
/// The library's default name.
const NAME: &str = "libpmix.so.2";

/// Bytes of a key, including the terminating zero.
const KEY: usize = 512;

/// A process, or all processes of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(super) struct Proc {
    space: [u8; 256],
    pub(super) rank: u32,
}

impl Proc {
    /// Another process of the same job.
    pub(super) fn with_rank(self, rank: u32) -> Self {
        Self { rank, ..self }
    }
}

/// The number under which values of the job as a whole are asked for.
pub(super) const ALL: u32 = u32::MAX - 1;

#[repr(C)]
struct Value {
    kind: u16,
    data: [u64; 3],
}

impl Value {
    /// A short value: its bytes are the first of the union.
    fn of(kind: u16, bytes: &[u8]) -> Self {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        Self { kind, data: [u64::from_ne_bytes(word), 0, 0] }
    }
}

const BOOL: u16 = 1;
const INT: u16 = 6;
const UINT32: u16 = 14;
const BYTES: u16 = 27;

#[repr(C)]
struct Info {
    key: [u8; KEY],
    flags: u32,
    value: Value,
}

const _: () = assert!(size_of::<Proc>() == 260 && size_of::<Value>() == 32 && size_of::<Info>() == 552);

/// The scope of a value for all processes of the job.
const GLOBAL: u8 = 3;

/// The connection to the launcher is lost: in version 4, and in earlier ones.
const LOST: [c_int; 4] = [-61, -101, -102, -103];
/// The event needs no other handler.
const COMPLETE: c_int = -334;

/// Why a call failed, by PMIx's number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Status(c_int);

/// PMIx's number for a value that does not exist.
const NOT_FOUND: Status = Status(-46);

type Init = unsafe extern "C" fn(*mut Proc, *const Info, usize) -> c_int;
type Finalize = unsafe extern "C" fn(*const Info, usize) -> c_int;
type Put = unsafe extern "C" fn(u8, *const c_char, *const Value) -> c_int;
type Commit = unsafe extern "C" fn() -> c_int;
type Fence = unsafe extern "C" fn(*const Proc, usize, *const Info, usize) -> c_int;
type Get = unsafe extern "C" fn(*const Proc, *const c_char, *const Info, usize, *mut *mut Value) -> c_int;
type Abort = unsafe extern "C" fn(c_int, *const c_char, *const Proc, usize) -> c_int;
type Answered = unsafe extern "C" fn(c_int, *mut Info, usize, *mut c_void, *mut c_void, *mut c_void);
type Event =
    extern "C" fn(usize, c_int, *const Proc, *mut Info, usize, *mut Info, usize, Option<Answered>, *mut c_void);
type Registered = extern "C" fn(c_int, usize, *mut c_void);
type Register = unsafe extern "C" fn(*const c_int, usize, *const Info, usize, Event, Registered, *mut c_void);
type Words = unsafe extern "C" fn(c_int) -> *const c_char;

/// The open library. It is never closed: it has a thread of its own.
#[derive(Debug)]
pub(super) struct Pmix {
    init: Init,
    finalize: Finalize,
    put: Put,
    commit: Commit,
    fence: Fence,
    get: Get,
    abort: Abort,
    register: Register,
    words: Words,
}

/// Called once the launcher is gone, with the code with which this process would have ended.
static ON_LOSS: OnceLock<fn(u8) -> !> = OnceLock::new();
/// The job has ended, so the loss of the launcher does not matter.
static OVER: AtomicBool = AtomicBool::new(false);
/// The exit status of a process that loses its launcher.
static CODE: AtomicU8 = AtomicU8::new(69);

/// Where the library may be: at the path in the environment; where the parent process, which may be the launcher, has
/// mapped it; or in the standard places.
fn places() -> Vec<OsString> {
    if let Some(place) = std::env::var_os(PLACE) {
        return vec![place];
    }
    let parent = rustix::process::getppid().map_or(0, rustix::process::Pid::as_raw_pid);
    let maps = std::fs::read_to_string(format!("/proc/{parent}/maps")).unwrap_or_default();
    let files = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    let theirs = files.filter(|file| file.contains("/libpmix.so")).map(OsString::from).next();
    theirs.into_iter().chain([OsString::from(NAME)]).collect()
}

impl Pmix {
    /// Opens it, once per process.
    ///
    /// # Errors
    /// The places that were tried.
    pub(super) fn open() -> Result<&'static Self, String> {
        static OPEN: OnceLock<Result<Pmix, String>> = OnceLock::new();
        OPEN.get_or_init(|| Self::first_of(places())).as_ref().map_err(Clone::clone)
    }

    fn first_of(places: Vec<OsString>) -> Result<Self, String> {
        let mut tried = Vec::new();
        for place in places {
            match Self::at(&place) {
                Ok(library) => return Ok(library),
                Err(why) => tried.push(format!("{}: {why}", place.display())),
            }
        }
        Err(tried.join("; "))
    }

    fn at(place: &OsString) -> Result<Self, String> {
        let said = |error| loader_said(&error);
        // Its plugins look for its functions among the symbols that all libraries share.
        // SAFETY: the library's initializers are trusted as those of any library are.
        let library = unsafe { Library::open(Some(place), RTLD_NOW | RTLD_GLOBAL) }.map_err(said)?;
        // SAFETY: a library that has functions of these names is PMIx, and they have these types since its version 2.
        let found = unsafe {
            Self {
                init: *library.get::<Init>(b"PMIx_Init\0").map_err(said)?,
                finalize: *library.get::<Finalize>(b"PMIx_Finalize\0").map_err(said)?,
                put: *library.get::<Put>(b"PMIx_Put\0").map_err(said)?,
                commit: *library.get::<Commit>(b"PMIx_Commit\0").map_err(said)?,
                fence: *library.get::<Fence>(b"PMIx_Fence\0").map_err(said)?,
                get: *library.get::<Get>(b"PMIx_Get\0").map_err(said)?,
                abort: *library.get::<Abort>(b"PMIx_Abort\0").map_err(said)?,
                register: *library.get::<Register>(b"PMIx_Register_event_handler\0").map_err(said)?,
                words: *library.get::<Words>(b"PMIx_Error_string\0").map_err(said)?,
            }
        };
        let _ = library.into_raw();
        Ok(found)
    }

    /// The library's text for a status.
    pub(super) fn describe(&self, status: Status) -> String {
        // SAFETY: for every number it returns a string that is never freed.
        let words = unsafe { (self.words)(status.0) };
        if words.is_null() {
            return format!("status {}", status.0);
        }
        // SAFETY: as above.
        unsafe { CStr::from_ptr(words) }.to_string_lossy().into_owned()
    }

    /// Joins the launcher's job, and returns which process this is. Must be called first.
    pub(super) fn init(&self) -> Result<Proc, Status> {
        let mut own = Proc { space: [0; 256], rank: 0 };
        // SAFETY: memory for a process, and no directives.
        check(unsafe { (self.init)(&raw mut own, std::ptr::null(), 0) })?;
        Ok(own)
    }

    /// Installs `lost`, which is called, on some thread, when the launcher is gone, unless this process is about to leave it. Its argument is the status that
    /// the launcher was told, if it was.
    pub(super) fn watch(&self, lost: fn(u8) -> !) {
        let _ = ON_LOSS.set(lost);
        // SAFETY: no codes means all events; both functions exist for as long as the process.
        unsafe {
            (self.register)(std::ptr::null(), 0, std::ptr::null(), 0, on_event, on_registered, std::ptr::null_mut());
        }
    }

    /// Leaves the job.
    pub(super) fn finalize(&self) {
        OVER.store(true, Ordering::Release);
        // SAFETY: no directives.
        let _ = unsafe { (self.finalize)(std::ptr::null(), 0) };
    }

    /// Publishes a value, with the next commit.
    pub(super) fn put(&self, key: &str, value: &[u8]) -> Result<(), Status> {
        let value = Value { kind: BYTES, data: [value.as_ptr().addr() as u64, value.len() as u64, 0] };
        // SAFETY: the library copies the key and the value, whose bytes live as long as the call.
        check(unsafe { (self.put)(GLOBAL, text(key).as_ptr().cast(), &raw const value) })
    }

    /// Sends what was put to the launcher.
    pub(super) fn commit(&self) -> Result<(), Status> {
        // SAFETY: it has no arguments.
        check(unsafe { (self.commit)() })
    }

    /// Waits for all processes of the job, and fetches what they have committed.
    pub(super) fn fence(&self) -> Result<(), Status> {
        let collect = Info { key: text("pmix.collect"), flags: 0, value: Value::of(BOOL, &[1]) };
        // SAFETY: no processes means all of the job; one directive.
        check(unsafe { (self.fence)(std::ptr::null(), 0, &raw const collect, 1) })
    }

    /// Reads a value: calls `look` with its kind and its data, a copy that lives as long as the call. Waits for at most this many seconds.
    fn look<T>(
        &self,
        of: &Proc,
        key: &str,
        seconds: u32,
        look: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, Status> {
        let limit = Info { key: text("pmix.timeout"), flags: 0, value: Value::of(INT, &seconds.to_ne_bytes()) };
        let mut value = std::ptr::null_mut();
        // SAFETY: a process, a key that ends with a zero, one directive, and memory for an address.
        check(unsafe { (self.get)(&raw const *of, text(key).as_ptr().cast(), &raw const limit, 1, &raw mut value) })?;
        // SAFETY: the call succeeded, so this is a value or null.
        let Some(found) = (unsafe { value.as_ref() }) else { return Ok(None) };
        let seen = look(found);
        // SAFETY: the library has allocated both by `malloc`, for the caller to free; they have no other owner.
        unsafe {
            if found.kind == BYTES {
                libc::free(address(found.data[0]));
            }
            libc::free(value.cast());
        }
        Ok(seen)
    }

    /// A value that was published as a number.
    pub(super) fn number(&self, of: &Proc, key: &str, seconds: u32) -> Result<Option<u32>, Status> {
        self.look(of, key, seconds, |value| {
            let bytes = value.data[0].to_ne_bytes();
            bytes.first_chunk().filter(|_| value.kind == UINT32).map(|number| u32::from_ne_bytes(*number))
        })
    }

    /// A value that was published as bytes, at most `max` of them; `None` if there is no such value.
    pub(super) fn bytes(&self, of: &Proc, key: &str, seconds: u32, max: usize) -> Result<Option<Vec<u8>>, Status> {
        let found = self.look(of, key, seconds, |value| {
            let [at, len, _] = value.data;
            let len = usize::try_from(len).ok().filter(|&len| len <= max && value.kind == BYTES)?;
            if at == 0 || len == 0 {
                return Some(Vec::new());
            }
            // SAFETY: a value of this kind has this many bytes there.
            Some(unsafe { std::slice::from_raw_parts(address(at).cast::<u8>(), len) }.to_vec())
        });
        if found == Err(NOT_FOUND) { Ok(None) } else { found }
    }

    /// Asks the launcher to end the job, with this exit status if it can.
    pub(super) fn abort(&self, code: u8) {
        CODE.store(code, Ordering::Release);
        // SAFETY: no message, and all processes of the job.
        let _ = unsafe { (self.abort)(code.into(), c"".as_ptr(), std::ptr::null(), 0) };
    }
}

fn check(status: c_int) -> Result<(), Status> {
    if status == 0 { Ok(()) } else { Err(Status(status)) }
}

/// Converts an address of the library.
fn address(number: u64) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(usize::try_from(number).unwrap_or_default())
}

/// A key, padded to the size of the longest.
fn text(key: &str) -> [u8; KEY] {
    let mut bytes = [0; KEY];
    let len = key.len().min(KEY - 1);
    bytes[..len].copy_from_slice(&key.as_bytes()[..len]);
    bytes
}

extern "C" fn on_registered(_: c_int, _: usize, _: *mut c_void) {}

extern "C" fn on_event(
    _: usize,
    status: c_int,
    _: *const Proc,
    _: *mut Info,
    _: usize,
    _: *mut Info,
    _: usize,
    answered: Option<Answered>,
    data: *mut c_void,
) {
    if LOST.contains(&status)
        && !OVER.load(Ordering::Acquire)
        && let Some(lost) = ON_LOSS.get()
    {
        lost(CODE.load(Ordering::Acquire));
    }
    if let Some(answered) = answered {
        // SAFETY: every event is answered once, with the data that came with it.
        unsafe { answered(COMPLETE, std::ptr::null_mut(), 0, std::ptr::null_mut(), std::ptr::null_mut(), data) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_wrong_libraries_are_named_with_the_reason() {
        let places = ["/nowhere/libpmix.so.2".into(), "libc.so.6".into()];
        let error = Pmix::first_of(places.into()).unwrap_err();
        assert!(error.contains("/nowhere/libpmix.so.2: ") && error.contains("No such file"), "{error}");
        assert!(error.contains("libc.so.6: ") && error.contains("PMIx_Init"), "{error}");
    }
}
