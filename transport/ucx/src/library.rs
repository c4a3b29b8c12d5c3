//! Finds UCX on this machine, once per process. Does not know what it is used for.

use std::ffi::{CStr, OsString};
use std::sync::OnceLock;

use charm4rs_ucx_sys::{Ucp, ucs_status_t};

use charm4rs_transport_core::TransportError;
use charm4rs_transport_core::error::loader_said;
use charm4rs_transport_core::library_log::{self, LibraryLog};

/// The environment variable with the path of the library, if it is not in a standard place.
const PLACE: &str = "CHARM4RS_UCX";
/// The library's default name.
const NAME: &str = "libucp.so.0";
/// The oldest suitable version.
pub(super) const OLDEST: (u32, u32) = (1, 13);

/// The open library. It is never closed: it has threads and handlers of its own.
#[derive(Debug)]
pub(super) struct Library {
    pub(super) ucp: Ucp,
    pub(super) found: FoundLibrary,
}

/// The library that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundLibrary {
    /// The library's version.
    pub version: String,
    /// Its file.
    pub path: String,
}

/// Opens the library.
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
    let library =
        library.map_err(|error| format!("UCX cannot be opened: looked for {looked}: {}", loader_said(&error)))?;
    if let Some(said) = said {
        said.keep();
    }
    // UCX would handle crashes itself, instead of the runtime, which reports the PE.
    // SAFETY: if it is exported it has this type.
    if let Ok(quiet) = unsafe { library.get::<unsafe extern "C" fn()>(b"ucs_debug_disable_signals\0") } {
        // SAFETY: it restores the signal handlers from before the library was opened, and may be called at any time after that.
        unsafe { quiet() }
    }
    // SAFETY: a library of this name has functions of these types from version 1.13 on, and the version is checked before a
    // function is called that had other parameters in earlier versions.
    let ucp = unsafe { Ucp::from_library(library) }.map_err(|error| {
        format!("the UCX that was found lacks required functions: looked for {looked}: {}", loader_said(&error))
    })?;
    let (mut major, mut minor, mut release) = (0, 0, 0);
    // SAFETY: memory for three numbers.
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

/// While this value lives, UCX finds the path of its log in the environment, unless the user has set one: by default it would print its log into the output
/// of the program. UCX reads that once, when it is loaded, so no other code needs to see it.
struct Log(bool);

impl Log {
    const NAME: &str = "UCX_LOG_FILE";

    /// Whether the runtime may show the log. A user who asks for more than warnings wants to see all of it, and at once.
    fn may_be_ours() -> bool {
        [Self::NAME, "UCX_LOG_LEVEL"].iter().all(|name| std::env::var_os(name).is_none())
    }

    fn to(place: &str) -> Self {
        let named = std::env::var_os(Self::NAME).is_some();
        if !named {
            // SAFETY: wire-up happens before the process has PEs; other threads that read the environment now use
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

/// The lines that UCX has logged since the last call.
pub(super) fn news() -> Vec<String> {
    // SAFETY: it writes out all streams of the process, UCX's too, which holds warnings back until there is an error.
    unsafe { libc::fflush(std::ptr::null_mut()) };
    library_log::news()
}

/// The job is over: what UCX logs at the end of the process, when the runtime can no longer show it, goes to standard error.
pub(super) fn speaks_for_itself() {
    if let Some(writer) = library_log::writer() {
        // SAFETY: it is the descriptor of UCX's own stream, which stays open; UCX only writes to it.
        unsafe { libc::dup2(libc::STDERR_FILENO, writer) };
    }
}

/// The file of the library that was loaded.
fn path() -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let file =
        maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..])).find(|file| file.contains("/libucp"));
    file.unwrap_or(NAME).to_owned()
}

/// UCX's text for a status.
pub(super) fn words(ucp: &Ucp, status: ucs_status_t) -> &'static str {
    // SAFETY: for every number it returns a string that is never freed; for unknown ones it is a buffer of the library, which
    // is no worse than any other text while it is read.
    let words = unsafe { CStr::from_ptr((ucp.ucs_status_string)(status)) };
    words.to_str().unwrap_or("an error without text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_reported_with_its_name_and_place() {
        let error = open(Some("/nowhere/libucp.so.0".into())).unwrap_err();
        assert!(error.contains("looked for /nowhere/libucp.so.0 (by CHARM4RS_UCX)"), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn a_wrong_library_is_refused() {
        let error = open(Some("libc.so.6".into())).unwrap_err();
        assert!(error.contains("lacks required functions"), "{error}");
    }
}
