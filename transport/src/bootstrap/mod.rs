//! How a process finds its job: who else is there, what the secret is, and a way to exchange a few bytes with each
//! process before there is any transport (put, fence, get, and descriptors between the processes of a host).
//!
//! [`find`] looks for a launcher and falls back to a job of this process alone. Afterwards [`Control`] is the line on
//! which a process tells its launcher how it ended, and hears that it must end. Knows nothing of backends, nor of
//! what the job will do.

use std::ffi::OsString;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::auth::{JobId, Secret};
use crate::{Layout, TransportError};

mod alone;
pub mod bytes;
pub mod channel;
mod control;
pub mod crash;
pub mod interrupt;
mod launched;
pub mod options;
#[cfg(test)]
pub(crate) mod pair;
mod sys;
mod threads;
pub mod wire;

pub use alone::Alone;
pub use control::{Control, HANGS, Order, Report, error_line, host_name};
pub use launched::{Launched, VARIABLE};
use options::{Extent, OptionError, Options};
pub use threads::Threads;

/// Limits of what travels on a launcher's channel.
pub const KEY_MAX: usize = 256;
/// Longest value of [`Bootstrap::put`], in bytes.
pub const VALUE_MAX: usize = 32 << 10;

/// A process's place in its job, and a slow but sure way to all its processes.
///
/// `put`, `fence` and `get` are those of every process manager: what a process put is there for all once all have
/// passed the next fence.
pub trait Bootstrap: Send {
    /// This process's number.
    fn rank(&self) -> u32;

    /// Processes of the job.
    fn size(&self) -> u32 {
        self.layout().processes()
    }

    /// Who is where.
    fn layout(&self) -> &Layout;

    /// Names the job among others of this host.
    fn job_id(&self) -> JobId;

    /// What proves that somebody belongs to the job.
    fn secret(&self) -> &Secret;

    /// Names or addresses of other hosts of the job, where it has some: which of this host's addresses others can reach is known by the
    /// way to them.
    fn toward(&self) -> &[String] {
        &[]
    }

    /// The launcher's options for its processes, named as on its command line without the pluses.
    /// [`Found::options`] has them with types, and with those of the program's own arguments.
    fn options(&self) -> &[(String, String)];

    /// Publishes a value of this process's. At most [`KEY_MAX`] and [`VALUE_MAX`] bytes.
    ///
    /// # Errors
    /// If it is too long, or the launcher is gone.
    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), TransportError>;

    /// Waits until every process of the job is here.
    ///
    /// # Errors
    /// If the launcher is gone.
    fn fence(&mut self) -> Result<(), TransportError>;

    /// What `rank` has put before the last fence.
    ///
    /// # Errors
    /// If it has put nothing of that name, or the launcher is gone.
    fn get(&mut self, rank: u32, key: &str) -> Result<Vec<u8>, TransportError>;

    /// [`Bootstrap::get`] of every process, by rank.
    ///
    /// # Errors
    /// As for `get`.
    fn get_all(&mut self, key: &str) -> Result<Vec<Vec<u8>>, TransportError> {
        (0..self.size()).map(|rank| self.get(rank, key)).collect()
    }

    /// Gives descriptors to all processes of this host and takes theirs: by rank, the first of this host's first,
    /// its own (duplicates) included. All processes of the host call it equally often; it waits for all of them.
    ///
    /// # Errors
    /// If descriptors run out, or the launcher is gone.
    fn share_fds(&mut self, fds: &[BorrowedFd<'_>]) -> Result<Vec<Vec<OwnedFd>>, TransportError>;

    /// The line to whoever launched this process; it outlives the bootstrap.
    fn control(&self) -> Control;
}

/// What [`find`] found.
pub struct Found {
    /// This process's place in its job.
    pub boot: Box<dyn Bootstrap>,
    /// The runtime's options: the launcher's, with those of the program's arguments laid over them.
    pub options: Options,
    /// The program's own arguments (without its name).
    pub args: Vec<OsString>,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found")
            .field("rank", &self.boot.rank())
            .field("layout", self.boot.layout())
            .field("options", &self.options)
            .field("args", &self.args)
            .finish()
    }
}

/// Why a process has no job.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// The command line is wrong.
    #[error(transparent)]
    Usage(#[from] OptionError),
    /// The launcher cannot be understood, or is gone.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

impl BootError {
    /// The exit status of a job that ends because of this error.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(error) => error.code(),
            Self::Transport(error) => error.code(),
        }
    }
}

/// Finds this process's job. `args` are the program's arguments without its name; the runtime's options are taken
/// out of them. To be called once, at the start of `main`, before there are other threads.
///
/// An error has been reported already, to the launcher or on standard error: end with its [`BootError::code`].
///
/// # Errors
/// If the arguments are wrong, or the launcher cannot be understood.
pub fn find(args: impl IntoIterator<Item = OsString>) -> Result<Found, BootError> {
    let launched = Launched::find();
    let control = match &launched {
        Ok(Some(launched)) => launched.control(),
        _ => Control::new(None, false),
    };
    crash::watch(&control);
    let found = launched.map_err(BootError::from).and_then(|launched| {
        let parsed = options::parse(args, Extent::Everywhere)?;
        let (boot, options): (Box<dyn Bootstrap>, _) = match launched {
            Some(launched) => {
                let options = Options::from_pairs(launched.options())?.overlaid(&parsed.options)?;
                (Box::new(launched), options)
            }
            None => (Box::new(Alone::new(&parsed.options)?), parsed.options),
        };
        Ok(Found { boot, options, args: parsed.rest })
    });
    // Versions that differ are seen, and reported, by the launcher.
    if let Err(error) = &found
        && !matches!(error, BootError::Transport(TransportError::Version { .. }))
    {
        control.report(Report::Abort { code: error.code(), pe: None, what: error.to_string() });
    }
    found
}
