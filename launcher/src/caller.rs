//! The process that a launcher runs in. It may be another program that calls the launcher as a function: the state that a job needs (signals, the
//! adoption of orphans, the limit of open files) is restored when the job is over, and children that the job has not started are not touched.
//!
//! While a job runs, this process adopts the orphans of the job's processes, so that it can end them. Orphans of other children come to it as well.
//! If this process has one thread and had no child before, all orphans are the job's. Otherwise only those count that belong to a session of the job
//! or have its mark (`processes`). An orphan that has left its session and cleared its environment is then missed.

use std::collections::HashSet;
use std::io;

use rustix::process::{Pid, Resource, Rlimit, child_subreaper, getrlimit, set_child_subreaper, setrlimit};

use crate::error::LaunchError;
use crate::processes::{self, Identity, Stat};
use crate::signals::Signals;

/// See the [module's text](self).
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) signals: Signals,
    adopts: bool,
    limit: Rlimit,
    children: HashSet<Pid>,
    mark: String,
}

impl Caller {
    /// Records the previous state; so far only signals are changed.
    pub(crate) fn new() -> Result<Self, LaunchError> {
        let signals = Signals::take().map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => LaunchError::Busy,
            _ => LaunchError::system("sigaction")(error),
        })?;
        let system = |call| move |e: rustix::io::Errno| LaunchError::system(call)(e.into());
        let own = Identity::own().ok_or_else(|| LaunchError::system("/proc")(io::ErrorKind::NotFound.into()))?;
        Ok(Self {
            signals,
            adopts: child_subreaper().map_err(system("prctl"))?.is_some(),
            limit: getrlimit(Resource::Nofile),
            children: processes::children().into_iter().collect(),
            mark: own.mark(),
        })
    }

    /// From now on, orphans of the job's processes become children of this process.
    pub(crate) fn adopt(&self) -> Result<(), LaunchError> {
        set_child_subreaper(Some(rustix::process::getpid())).map_err(|e| LaunchError::system("prctl")(e.into()))
    }

    /// Raises the limit of open files to `need`.
    pub(crate) fn make_room(&self, need: u64) -> Result<(), LaunchError> {
        let Rlimit { current, maximum } = self.limit;
        if current.is_none_or(|current| current >= need) {
            return Ok(());
        }
        if let Some(limit) = maximum.filter(|maximum| *maximum < need) {
            return Err(LaunchError::Descriptors { need, limit });
        }
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
            .map_err(|e| LaunchError::system("setrlimit")(e.into()))
    }

    /// The mark of this launcher.
    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }

    /// Whether all children of this process are the job's.
    pub(crate) fn is_alone(&self) -> bool {
        self.children.is_empty() && processes::has_one_thread()
    }

    /// Children of this process, possibly ended, that belong to a job with these sessions; and whether each child could be assigned. A child that has
    /// ended has no environment any more.
    pub(crate) fn left_behind(&self, sessions: &HashSet<Pid>) -> (Vec<Pid>, bool) {
        let mut children = processes::children();
        children.retain(|pid| !self.children.contains(pid));
        if self.is_alone() {
            return (children, true);
        }
        let mut all_are_told = true;
        children.retain(|pid| {
            let number = pid.as_raw_nonzero().get();
            let session = Stat::of(number).and_then(|stat| Pid::from_raw(stat.session));
            let mark = processes::mark_of(number, &self.mark);
            let by_session = sessions.contains(pid) || session.is_some_and(|session| sessions.contains(&session));
            let ours = by_session || mark == Some(true);
            all_are_told &= ours || mark.is_some();
            ours
        });
        (children, all_are_told)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        // If one of these fails, there is no way to report it.
        let _ = set_child_subreaper(self.adopts.then(rustix::process::getpid));
        let _ = setrlimit(Resource::Nofile, self.limit);
    }
}
