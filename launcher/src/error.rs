//! Errors that prevent a job from starting.

use std::io;
use std::path::PathBuf;

use charm4rs_bootstrap::options::OptionError;

use crate::nodelist::NodelistError;

/// An error that ends the launcher before, or instead of, a job.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The command line is wrong.
    #[error(transparent)]
    Usage(#[from] OptionError),
    /// The command line names no program.
    #[error("no program given: charmrun [+pN] [options] PROGRAM [arguments]; see charmrun ++help")]
    NoProgram,
    /// The program cannot be executed.
    #[error("cannot execute {path}: {why}", path = path.display())]
    Program {
        /// The path as given.
        path: PathBuf,
        /// The problem.
        why: Why,
    },
    /// An option that concerns the hosts of a nodelist, without a nodelist.
    #[error("{0} needs hosts: charmrun ++nodelist FILE {0} … PROGRAM")]
    NoNodelist(&'static str),
    /// The nodelist is wrong.
    #[error(transparent)]
    Nodelist(#[from] NodelistError),
    /// The remote shell command is invalid.
    #[error("{command}: not a remote shell command: an unterminated quote, or empty")]
    Shell {
        /// The command as given.
        command: String,
    },
    /// The argument of `++runscript` is not a command.
    #[error("++runscript {0}: not a command: an unterminated quote, or empty")]
    Script(String),
    /// The job's working directory does not exist on every host.
    #[error("cannot start in {folder}: {why}", folder = folder.display())]
    Folder {
        /// The launcher's working directory.
        folder: PathBuf,
        /// The system's error.
        #[source]
        why: io::Error,
    },
    /// The limit of open files is too low.
    #[error("out of file descriptors: {need} needed, {limit} allowed; raise the limit with ulimit -n")]
    Descriptors {
        /// How many the job needs.
        need: u64,
        /// How many this process may open.
        limit: u64,
    },
    /// No target of the workspace has the name.
    #[error("no program or example of this workspace is called {name}{}", nearest.as_ref().map(|n| format!(" (did you mean {n}?)")).unwrap_or_default())]
    NoTarget {
        /// The name as given.
        name: String,
        /// The most similar name.
        nearest: Option<String>,
    },
    /// Cargo failed.
    #[error("cargo {what} failed\n{said}")]
    Cargo {
        /// The subcommand.
        what: &'static str,
        /// Its exit status.
        code: u8,
        /// Its output.
        said: String,
    },
    /// Several PEs per process, for scripts.
    #[error("{pes} PEs in {processes} process{}: a process of Python has one PE; leave out ++ppn", if *processes == 1 { "" } else { "es" })]
    OnePeEach {
        /// The number of PEs.
        pes: u32,
        /// The number of processes.
        processes: u32,
    },
    /// This process already runs another job.
    #[error("this process already runs another job: start this one in another process")]
    Busy,
    /// The system refused.
    #[error("{call}: {source}")]
    System {
        /// The failed operation.
        call: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Why a program cannot be executed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// The file does not exist.
    #[error("there is no such file")]
    Missing,
    /// It is not in a folder of `PATH`, and was given without a folder.
    #[error("it is not in PATH (a program of this folder is ./NAME)")]
    NotInPath,
    /// It is a folder, a socket, …
    #[error("it is not a file")]
    NotAFile,
    /// The mode of the file or of its folder forbids it.
    #[error("permission denied")]
    Permission,
    /// It is neither a binary of this machine nor a script with `#!`.
    #[error("it is not a program for this machine")]
    NotAProgram,
    /// Another error of the system.
    #[error("{0}")]
    Other(#[source] io::Error),
}

impl LaunchError {
    /// The launcher's exit status.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(error) => error.code(),
            Self::NoProgram
            | Self::NoTarget { .. }
            | Self::NoNodelist(_)
            | Self::Script(_)
            | Self::OnePeEach { .. }
            | Self::Busy => 64,
            Self::Program { .. } | Self::Nodelist(_) | Self::Shell { .. } | Self::Folder { .. } => 78,
            Self::Descriptors { .. } => 71,
            Self::Cargo { code, .. } => *code,
            Self::System { source, .. } => match source.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN | libc::ENOBUFS) => 71,
                _ => 74,
            },
        }
    }

    pub(crate) fn system(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { call, source }
    }
}
