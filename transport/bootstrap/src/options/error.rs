//! What can be wrong with a command line.

use super::words::Unit;

/// What is wrong with a command line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OptionError {
    /// Not in the table of options.
    #[error("unknown option {given}{}", nearest.map(|n| format!(" (did you mean {n}?)")).unwrap_or_default())]
    Unknown {
        /// The word on the command line.
        given: String,
        /// The most similar name.
        nearest: Option<&'static str>,
    },
    /// An option without its value.
    #[error("{name} needs a value: {name} {value}")]
    NoValue {
        /// The option.
        name: &'static str,
        /// The name of its value.
        value: &'static str,
    },
    /// An invalid value.
    #[error("{name} {given}: {want}")]
    BadValue {
        /// The option.
        name: &'static str,
        /// The value.
        given: String,
        /// The values that are allowed.
        want: &'static str,
    },
    /// An option of Charm++ that cannot work here.
    #[error("{name} does not work here: {instead}")]
    Refused {
        /// The option.
        name: &'static str,
        /// What to do instead.
        instead: &'static str,
    },
    /// An option of the launcher, but there is no launcher.
    #[error("{0} is for the launcher: charmrun {0} … PROGRAM")]
    Launchers(&'static str),
    /// An option of programs, given to the launcher.
    #[error("{0} is for a program, behind its name: PROGRAM {0} …")]
    Programs(&'static str),
    /// `+p` differs from the number of PEs that all processes of the site's launcher have.
    #[error(
        "+p {pes} does not fit: {processes} processes have been started, with {started} PEs in all (++ppn K: K PEs to each)"
    )]
    Started {
        /// PEs asked for.
        pes: u32,
        /// PEs of all processes.
        started: u32,
        /// Processes.
        processes: u32,
    },
    /// Two parts of the command line disagree.
    #[error("{first} and {second} contradict each other: give one of them")]
    Conflict {
        /// An option with its value.
        first: String,
        /// Another one, or the same one with another value.
        second: String,
    },
    /// PEs that cannot be dealt evenly to processes.
    #[error("{pes} PEs cannot be distributed evenly over {processes} processes: give a multiple of {processes}")]
    Uneven {
        /// PEs asked for.
        pes: u32,
        /// Processes asked for.
        processes: u32,
    },
    /// Cores are counted on one host only.
    #[error(
        "PEs or processes for each {0} are counted on this host, and the job has other hosts or another launcher: give +p N and ++ppn K"
    )]
    Elsewhere(Unit),
    /// `++ppn` without a launcher.
    #[error("{pes} PEs, {ppn} to a process, need a launcher: charmrun +p{pes} ++ppn {ppn} PROGRAM")]
    NeedsLauncher {
        /// PEs asked for.
        pes: u32,
        /// PEs to a process.
        ppn: u32,
    },
    /// There is no such backend.
    #[error("++transport {0}: there is no such transport; there are local, shm, tcp, ofi, ucx, sim and extern:NAME")]
    Transport(String),
}

impl OptionError {
    /// The exit status of a job that ends because of this error.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Transport(_) => 78,
            _ => 64,
        }
    }
}
