//! Finds UCX on this machine, once for the process. Knows nothing of what it is used for.

use std::ffi::{CStr, OsString};
use std::sync::OnceLock;

use charm4rs_ucx_sys::{Ucp, ucs_status_t};

use charm4rs_transport_core::TransportError;
use charm4rs_transport_core::error::loader_said;
use charm4rs_transport_core::library_log::{self, LibraryLog};

/// The environment's name for the library, where it is not where libraries are.
const PLACE: &str = "CHARM4RS_UCX";
/// Its name otherwise.
const NAME: &str = "libucp.so.0";
/// The oldest version that will do.
pub(super) const OLDEST: (u32, u32) = (1, 13);

/// UCX, opened. It stays open for ever: it has threads and handlers of its own.
#[derive(Debug)]
pub(super) struct Library {
    pub(super) ucp: Ucp,
    pub(super) found: FoundLibrary,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundLibrary {
    /// The library's version.
    pub version: String,
    /// The file that it is.
    pub path: String,
}

/// The library.
///
/// # Errors
/// [`TransportError::Config`]: there is none, or it is too old. The text says what was looked for, and where.
pub(super) fn library() -> Result<&'static Library, TransportError> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    let opened = LIBRARY.get_or_init(|| open(std::env::var_os(PLACE)));
    opened.as_ref().map_err(|why| TransportError::Config(why.clone()))
}

fn open(place: Option<OsString>) -> Result<Library, String> {
    let name = place.clone().unwrap_or_else(|| NAME.into());
    let looked = match place {
        Some(_) => format!("{} (by {PLACE})", name.display()),
        None => {
            format!("{NAME} in the system's folders for libraries and those of LD_LIBRARY_PATH ({PLACE} names another)")
        }
    };
    let said = Log::may_be_ours().then(LibraryLog::new).flatten();
    let log = Log::to(&said.as_ref().map_or_else(|| "stderr".to_owned(), LibraryLog::path));
    // SAFETY: UCX's initializers may run on any thread; they read the environment, as this function does.
    let library = unsafe { libloading::Library::new(&name) };
    drop(log);
    let library = library.map_err(|error| format!("UCX is not here: looked for {looked}: {}", loader_said(&error)))?;
    if let Some(said) = said {
        said.keep();
    }
    // It would handle crashes by itself, in place of the runtime, which says whose they are.
    // SAFETY: where it is exported it has this type.
    if let Ok(quiet) = unsafe { library.get::<unsafe extern "C" fn()>(b"ucs_debug_disable_signals\0") } {
        // SAFETY: it gives signals back to who had them before the library was opened, and may be called at any time after that.
        unsafe { quiet() }
    }
    // SAFETY: a library of this name has functions of these types from version 1.13 on, and the version is checked before one of
    // them is called that was there before but took something else.
    let ucp = unsafe { Ucp::from_library(library) }.map_err(|error| {
        format!("the UCX that was found lacks what is needed: looked for {looked}: {}", loader_said(&error))
    })?;
    let (mut major, mut minor, mut release) = (0, 0, 0);
    // SAFETY: three places for numbers.
    unsafe { (ucp.ucp_get_version)(&raw mut major, &raw mut minor, &raw mut release) }
    let version = format!("{major}.{minor}.{release}");
    if major != OLDEST.0 || minor < OLDEST.1 {
        return Err(format!(
            "UCX {version} was found, {}.{} or a later {0} is needed: looked for {looked}",
            OLDEST.0, OLDEST.1
        ));
    }
    Ok(Library { ucp, found: FoundLibrary { version, path: path() } })
}

/// While it lives, UCX finds where its log goes, unless the user has named a place: by default it would print it among what the
/// program prints. UCX reads that once, when it is loaded, so nothing else needs to see it.
struct Log(bool);

impl Log {
    const NAME: &str = "UCX_LOG_FILE";

    /// Whether the runtime may tell it. Who wants more than warnings wants to see it all, and at once.
    fn may_be_ours() -> bool {
        [Self::NAME, "UCX_LOG_LEVEL"].iter().all(|name| std::env::var_os(name).is_none())
    }

    fn to(place: &str) -> Self {
        let named = std::env::var_os(Self::NAME).is_some();
        if !named {
            // SAFETY: wire-up happens before the process has PEs; other threads read the environment at this moment by
            // the standard library, which has a lock.
            unsafe { std::env::set_var(Self::NAME, place) };
        }
        Self(!named)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if self.0 {
            // SAFETY: as above.
            unsafe { std::env::remove_var(Self::NAME) };
        }
    }
}

/// What UCX has said since the last time, line by line.
pub(super) fn news() -> Vec<String> {
    // SAFETY: it writes out what all streams of the process hold, UCX's too, which holds warnings back until there is an error.
    unsafe { libc::fflush(std::ptr::null_mut()) };
    library_log::news()
}

/// The job is over: what UCX says at the end of the process, when nobody can tell it any more, goes to standard error.
pub(super) fn speaks_for_itself() {
    if let Some(writer) = library_log::writer() {
        // SAFETY: it is the descriptor of UCX's own stream, which stays open; UCX only writes to it.
        unsafe { libc::dup2(libc::STDERR_FILENO, writer) };
    }
}

/// The file of the library that is loaded.
fn path() -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let file =
        maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..])).find(|file| file.contains("/libucp"));
    file.unwrap_or(NAME).to_owned()
}

/// UCX's words for a status.
pub(super) fn words(ucp: &Ucp, status: ucs_status_t) -> &'static str {
    // SAFETY: it answers every number with a string that lasts; unknown ones are written into a buffer of the library's own, which
    // is no worse than any other text while it is read.
    let words = unsafe { CStr::from_ptr((ucp.ucs_status_string)(status)) };
    words.to_str().unwrap_or("an error without words")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_reported_with_its_name_and_place() {
        let error = open(Some("/nowhere/libucp.so.0".into())).unwrap_err();
        assert!(error.contains("looked for /nowhere/libucp.so.0 (by CHARM4RS_UCX)"), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn a_library_that_is_another_one_is_refused() {
        let error = open(Some("libc.so.6".into())).unwrap_err();
        assert!(error.contains("lacks what is needed"), "{error}");
    }
}
