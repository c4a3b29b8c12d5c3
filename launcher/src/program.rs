//! Finds the file of a program's name, and starts processes of it.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use charm4rs_bootstrap::VARIABLE;
use rustix::fs::Access;

use crate::error::{LaunchError, Why};
use crate::processes::MARK;
use crate::sys::{self, Reads, Start, Started};

/// How many times, and after what pause, a file that is open for writing is tried again.
const BUSY_TRIES: u32 = 20;
const BUSY_WAIT: Duration = Duration::from_millis(5);

/// A program with its arguments and environment, ready to be started any number of times.
#[derive(Debug)]
pub(crate) struct Program {
    path: PathBuf,
    file: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    /// The launchers in whose jobs this one runs.
    marks: Option<String>,
}

impl Program {
    /// Finds the program, also by the `PATH` of `env`, whose entries are `NAME=VALUE`; `args` does not contain its name.
    pub(crate) fn find(name: &OsStr, args: &[OsString], env: Vec<OsString>) -> Result<Self, LaunchError> {
        let path = env.iter().find_map(|entry| entry.as_bytes().strip_prefix(b"PATH="));
        let path = locate(name, path.map(OsStr::from_bytes))?;
        let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(|_| fault(&path, Why::Missing));
        let file = text(path.as_os_str())?;
        let args = std::iter::once(text(name)).chain(args.iter().map(|a| text(a))).collect::<Result<_, _>>()?;
        let is_mark =
            |entry: &OsString| Some(entry.as_bytes().strip_prefix(MARK.as_bytes())?.strip_prefix(b"=")?.to_vec());
        let marks =
            env.iter().find_map(is_mark).and_then(|marks| String::from_utf8(marks).ok()).filter(|m| !m.is_empty());
        // An entry with a zero byte cannot be passed on, and cannot have come from the environment.
        let env = env
            .into_iter()
            .filter(|entry| is_mark(entry).is_none())
            .flat_map(|entry| CString::new(entry.into_vec()))
            .collect();
        Ok(Self { path, file, args, env, marks })
    }

    /// Starts a process of it, which has the mark of its launcher and inherits `line`.
    pub(crate) fn start(
        &mut self,
        mark: &str,
        line: Option<BorrowedFd<'_>>,
        guardian: Option<BorrowedFd<'_>>,
        reads: Reads,
    ) -> Result<Started, LaunchError> {
        let shared = self.env.len();
        let entry = match &self.marks {
            Some(marks) => format!("{MARK}={marks} {mark}"),
            None => format!("{MARK}={mark}"),
        };
        self.env.push(CString::new(entry).expect("there was no zero in it"));
        if let Some(line) = line {
            let inode = rustix::fs::fstat(line).map_err(|e| LaunchError::system("fstat")(e.into()))?.st_ino;
            self.env.push(CString::new(format!("{VARIABLE}={}:{inode}", line.as_raw_fd())).expect("digits"));
        }
        let start = Start { program: &self.file, args: &self.args, env: &self.env, inherits: line, guardian, reads };
        let started = self.run(&start);
        self.env.truncate(shared);
        started
    }

    fn run(&self, start: &Start<'_>) -> Result<Started, LaunchError> {
        let mut tries = 0;
        let started = loop {
            match sys::start(start) {
                // The process that wrote the file just now may have forked, and the child still holds it open.
                Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) && tries < BUSY_TRIES => {
                    tries += 1;
                    std::thread::sleep(BUSY_WAIT);
                }
                started => break started,
            }
        };
        started.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT) => fault(&self.path, Why::Missing),
            Some(libc::EACCES | libc::EPERM) => fault(&self.path, Why::Permission),
            Some(libc::ENOEXEC) => fault(&self.path, Why::NotAProgram),
            Some(libc::EISDIR) => fault(&self.path, Why::NotAFile),
            Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => LaunchError::system("fork")(error),
            _ => fault(&self.path, Why::Other(error)),
        })
    }
}

/// This process's environment, as `NAME=VALUE`, without the variables that a launcher set for this process alone.
pub(crate) fn environment() -> Vec<OsString> {
    let entry = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        name
    };
    std::env::vars_os().filter(|(name, _)| name != VARIABLE).map(entry).collect()
}

/// As in a shell: a name with a slash is a path, another name is searched in `PATH`.
fn locate(name: &OsStr, folders: Option<&OsStr>) -> Result<PathBuf, LaunchError> {
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return match check(&path) {
            None => Ok(path),
            Some(why) => Err(fault(&path, why)),
        };
    }
    let folders = folders.unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin"));
    let mut worst = Why::NotInPath;
    for folder in std::env::split_paths(folders) {
        let path = folder.join(name);
        match check(&path) {
            None => return Ok(path),
            Some(Why::Missing | Why::NotAFile) => {}
            Some(why) => worst = why,
        }
    }
    Err(fault(Path::new(name), worst))
}

fn check(path: &Path) -> Option<Why> {
    match std::fs::metadata(path) {
        Ok(meta) if !meta.is_file() => Some(Why::NotAFile),
        Ok(_) => rustix::fs::access(path, Access::EXEC_OK).is_err().then_some(Why::Permission),
        Err(error) => Some(match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Why::Missing,
            io::ErrorKind::PermissionDenied => Why::Permission,
            _ => Why::Other(error),
        }),
    }
}

fn fault(path: &Path, why: Why) -> LaunchError {
    LaunchError::Program { path: path.to_owned(), why }
}
