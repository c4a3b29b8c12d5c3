//! How a process finds its job: the other processes, the secret, and a way to exchange a few bytes with each
//! process before there is any transport (put, fence, get, and descriptors between the processes of a host).
//!
//! [`find`] looks for a launcher, ours or a site's ([`Kind`]), and falls back to a job of this process alone. Afterwards a process uses [`Control`]
//! to report to its launcher how it ended, and to receive orders to end. This crate knows nothing of backends, nor of
//! what the job will do.

use std::ffi::OsString;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use charm4rs_transport_core::auth::{JobId, Secret};
use charm4rs_transport_core::{Layout, TransportError};

mod alone;
pub mod bytes;
pub mod channel;
mod control;
pub mod crash;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod host_peers;
pub mod interrupt;
mod launched;
pub mod leftovers;
pub mod options;
mod pmi1;
mod pmix;
mod site;
mod sys;
mod threads;
pub mod wire;

pub use alone::Alone;
use alone::Strays;
pub use control::{Control, HANGS, Order, Report, error_line, host_name};
pub use launched::{Launched, VARIABLE};
use options::{Action, OptionError, Options};
use pmi1::Pmi1;
use pmix::PmixSpace;
use site::{KeySpace, Site};
pub use sys::{end_fork, is_fork, on_fork, open_standard_descriptors};
pub use threads::Threads;

/// Limits of what a launcher's channel carries.
pub const KEY_MAX: usize = 256;
/// Longest value of [`Bootstrap::put`], in bytes.
pub const VALUE_MAX: usize = 32 << 10;

/// A process's place in its job, and a slow but reliable way to all its processes.
///
/// `put`, `fence` and `get` are those of every process manager: a value that a process put is visible to all once all have
/// passed the next fence.
pub trait Bootstrap: Send {
    /// This process's number.
    fn rank(&self) -> u32;

    /// Processes of the job.
    fn size(&self) -> u32 {
        self.layout().processes()
    }

    /// The process and host of each PE.
    fn layout(&self) -> &Layout;

    /// Distinguishes the job from others of this host.
    fn job_id(&self) -> JobId;

    /// Proves that a process belongs to the job.
    fn secret(&self) -> &Secret;

    /// Names or addresses of other hosts of the job, if there are some. The route to them determines which of this host's addresses others can
    /// reach.
    fn toward(&self) -> &[String] {
        &[]
    }

    /// The launcher's options for its processes, named as on its command line without the pluses.
    /// [`Found::options`] has them with types, and with those of the program's own arguments.
    fn options(&self) -> &[(String, String)];

    /// Publishes a value of this process. At most [`KEY_MAX`] and [`VALUE_MAX`] bytes.
    ///
    /// # Errors
    /// If it is too long, or the launcher is gone.
    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), TransportError>;

    /// Waits until every process of the job has called it.
    ///
    /// # Errors
    /// If the launcher is gone.
    fn fence(&mut self) -> Result<(), TransportError>;

    /// The value that `rank` put before the last fence.
    ///
    /// # Errors
    /// If it put no value of that name, or the launcher is gone.
    fn get(&mut self, rank: u32, key: &str) -> Result<Vec<u8>, TransportError>;

    /// [`Bootstrap::get`] of every process, by rank.
    ///
    /// # Errors
    /// As for `get`.
    fn get_all(&mut self, key: &str) -> Result<Vec<Vec<u8>>, TransportError> {
        (0..self.size()).map(|rank| self.get(rank, key)).collect()
    }

    /// Gives descriptors to all processes of this host and takes theirs: by rank, beginning with the first rank of this host,
    /// its own (duplicates) included. All processes of the host must call it equally often; it waits for all of them.
    ///
    /// # Errors
    /// If the process runs out of descriptors, or the launcher is gone.
    fn share_fds(&mut self, fds: &[BorrowedFd<'_>]) -> Result<Vec<Vec<OwnedFd>>, TransportError>;

    /// The connection to this process's launcher. It outlives the bootstrap.
    fn control(&self) -> Control;
}

/// The result of [`find`].
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
    /// The launcher sends something invalid, or is gone.
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

/// How a process finds its job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// The launcher of this project started it.
    Charmrun,
    /// A launcher that speaks PMIx started it: Open MPI's `mpirun`, or `srun --mpi=pmix`.
    Pmix,
    /// A launcher that speaks PMI-1 started it: MPICH's `mpiexec`, or `srun --mpi=pmi2`.
    Pmi1,
    /// No launcher started it: it is a job by itself.
    Alone,
}

impl Kind {
    /// Determined from this process's environment. The innermost launcher counts: a process that `charmrun` starts within another launcher's job belongs
    /// to `charmrun`.
    #[must_use]
    pub fn here() -> Self {
        let is_set = |name| std::env::var_os(name).is_some();
        match () {
            () if is_set(VARIABLE) => Self::Charmrun,
            // Environment variables are inherited by all descendants; a descriptor only by what its launcher starts.
            () if pmi1::is_near() => Self::Pmi1,
            () if is_set(pmix::VARIABLE) => Self::Pmix,
            () if is_set(pmi1::VARIABLE) => Self::Pmi1,
            () => Self::Alone,
        }
    }

    /// What [`Kind::here`] found.
    #[must_use]
    pub fn because(self) -> &'static str {
        match self {
            Self::Charmrun => "charmrun started this process",
            Self::Pmix => "a launcher that speaks PMIx started this process (PMIX_NAMESPACE)",
            Self::Pmi1 => "a launcher that speaks PMI-1 started this process (PMI_FD)",
            Self::Alone => "neither charmrun nor a launcher that speaks PMIx or PMI-1 started this process",
        }
    }

    /// Whether it is a site's launcher.
    fn is_of_site(self) -> bool {
        matches!(self, Self::Pmix | Self::Pmi1)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Charmrun => "charmrun",
            Self::Pmix => "pmix",
            Self::Pmi1 => "pmi1",
            Self::Alone => "alone",
        })
    }
}

impl std::str::FromStr for Kind {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        [Self::Charmrun, Self::Pmix, Self::Pmi1, Self::Alone]
            .into_iter()
            .find(|kind| kind.to_string() == name)
            .ok_or(())
    }
}

/// A launcher, before the process has joined the job.
enum PendingLauncher {
    Launched(Launched),
    Site(Box<dyn KeySpace>, Arc<site::Line>),
    Alone,
}

impl PendingLauncher {
    /// An error comes with the channel on which to report it.
    fn find(kind: Kind, options: &Options) -> Result<Self, (TransportError, Control)> {
        let alone = |error| (error, Control::new(None, false));
        if kind == Kind::Charmrun {
            let line = Launched::line().and_then(|line| {
                let none = || format!("++bootstrap charmrun: no charmrun started this process ({VARIABLE})");
                line.ok_or_else(|| TransportError::Config(none()))
            });
            return Launched::join(line.map_err(alone)?).map(Self::Launched);
        }
        Self::find_other(kind, options).map_err(alone)
    }

    fn find_other(kind: Kind, options: &Options) -> Result<Self, TransportError> {
        Ok(match kind {
            Kind::Pmix => Self::site(PmixSpace::find(options.timeout())?),
            Kind::Pmi1 => Self::site(Pmi1::find(options.timeout())?),
            Kind::Charmrun | Kind::Alone => Self::Alone,
        })
    }

    fn site(space: impl KeySpace + 'static) -> Self {
        let line = Arc::new(site::Line::new(&space));
        Self::Site(Box::new(space), line)
    }

    fn control(&self, quiet: bool) -> Control {
        match self {
            Self::Launched(launched) => launched.control(),
            Self::Site(_, line) => Control::of_site(line.clone(), quiet),
            Self::Alone => Control::new(None, quiet),
        }
    }

    fn join(self, given: &Options, control: &Control) -> Result<(Box<dyn Bootstrap>, Options), BootError> {
        Ok(match self {
            Self::Launched(launched) => {
                let options = Options::from_pairs(launched.options())?.overlaid(given)?;
                (Box::new(launched), options)
            }
            Self::Site(space, line) => (Box::new(Site::join(space, given, &line, control.clone())?), given.clone()),
            Self::Alone => (Box::new(Alone::new(given)?), given.clone()),
        })
    }
}

/// Finds this process's job. `args` are the program's arguments without its name; the runtime's options are taken
/// out of them. Call it once, at the start of `main`, before there are other threads.
///
/// An error has already been reported, to the launcher or on standard error: end with its [`BootError::code`].
///
/// # Errors
/// If the arguments are wrong, or the launcher sends something invalid.
pub fn find(args: impl IntoIterator<Item = OsString>) -> Result<Found, BootError> {
    sys::this_is_home();
    // If it fails, there is no way to report it.
    let _ = sys::open_standard_descriptors();
    let parsed = options::parse_program(args);
    let usual = Options::default();
    let options = parsed.as_ref().map_or(&usual, |parsed| &parsed.options);
    let kind = options.bootstrap.unwrap_or_else(Kind::here);
    // A question such as `++help` is not a job: a site's launcher would wait for what a job does at its end.
    let kind = if kind.is_of_site() && options.action != Action::Run { Kind::Alone } else { kind };
    let looked = options.bootstrap.is_none() && options.action == Action::Run;
    let strays = Strays::here().filter(|_| kind == Kind::Alone && looked);
    let place = match &strays {
        None => PendingLauncher::find(kind, options),
        Some(strays) => Err((strays.error(), Control::new(None, false))),
    };
    let (place, control) = match place {
        Ok(place) => {
            let control = place.control(options.quiet);
            (Ok(place), control)
        }
        Err((error, control)) => (Err(error), control),
    };
    crash::watch(&control);
    crash::survive_writes();
    let found = place.map_err(BootError::from).and_then(|place| {
        let parsed = parsed?;
        let (boot, options) = place.join(&parsed.options, &control)?;
        tracing::info!(%kind, rank = boot.rank(), processes = boot.size(), hosts = boot.layout().hosts(), "bootstrap");
        if kind.is_of_site() && options.verbose && boot.rank() == 0 {
            let (processes, hosts) = (boot.size(), boot.layout().hosts());
            control::to_stderr(&format!("charmrun: bootstrap {kind} (processes: {processes}, hosts: {hosts})\n"));
        }
        if kind != Kind::Charmrun
            && boot.rank() == 0
            && let Some(note) = options.note()
        {
            control::to_stderr(&format!("charmrun: {note}\n"));
        }
        Ok(Found { boot, options, args: parsed.rest })
    });
    // Our launcher sees and reports different versions. The first process of a job step reports an error that concerns all of the step.
    if let Err(error) = &found
        && strays.is_none_or(|strays| strays.first)
        && !(kind == Kind::Charmrun && matches!(error, BootError::Transport(TransportError::Version { .. })))
    {
        control.report(Report::Abort { code: error.code(), pe: None, what: error.to_string() });
    }
    found
}

/// Starts a thread that listens for as long as the process lives.
fn listener(name: &str, listen: impl FnOnce() + Send + 'static) -> Result<(), TransportError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(256 << 10).spawn(listen);
    thread.map(drop).map_err(|_| TransportError::Resource {
        what: "threads",
        need: "one more".to_owned(),
        advice: "see ulimit -u and the pids limit of your control group",
    })
}
