//! Why a job did not start at all.

use std::io;
use std::path::PathBuf;

use charm4rs_bootstrap::options::OptionError;

use crate::nodelist::NodelistError;

/// What ends the launcher before, or instead of, a job.
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
        /// As given.
        path: PathBuf,
        /// What is wrong with it.
        why: Why,
    },
    /// An option that says something of the nodelist's hosts, and no nodelist.
    #[error("{0} needs hosts: charmrun ++nodelist FILE {0} … PROGRAM")]
    NoNodelist(&'static str),
    /// The nodelist is wrong.
    #[error(transparent)]
    Nodelist(#[from] NodelistError),
    /// The remote shell's command is wrong.
    #[error("{command}: is no command for other hosts: a quote without end, or nothing")]
    Shell {
        /// As given.
        command: String,
    },
    /// What `++runscript` names is no command.
    #[error("++runscript {0}: is no command: a quote without end, or nothing")]
    Script(String),
    /// The folder in which a job runs is not on every host.
    #[error("cannot start in {folder}: {why}", folder = folder.display())]
    Folder {
        /// The launcher's.
        folder: PathBuf,
        /// What the system says.
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
        /// As given.
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
        /// What it said.
        said: String,
    },
    /// Several PEs to a process, for scripts.
    #[error("{pes} PEs in {processes} process{}: a process of Python has one PE; leave out ++ppn", if *processes == 1 { "" } else { "es" })]
    OnePeEach {
        /// PEs of the job.
        pes: u32,
        /// Its processes.
        processes: u32,
    },
    /// This process runs another job.
    #[error("this process runs another job already: start this one from a process of its own")]
    Busy,
    /// The system refused.
    #[error("{call}: {source}")]
    System {
        /// What was asked.
        call: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// What is wrong with a program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// Nothing is there.
    #[error("there is no such file")]
    Missing,
    /// It is neither in a folder of `PATH` nor given with its folder.
    #[error("it is not in PATH (a program of this folder is ./NAME)")]
    NotInPath,
    /// A folder, a socket, …
    #[error("it is not a file")]
    NotAFile,
    /// Its mode or its folder's forbids it.
    #[error("permission denied")]
    Permission,
    /// Neither a binary of this machine nor a script with `#!`.
    #[error("it is not a program for this machine")]
    NotAProgram,
    /// What the system says otherwise.
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
