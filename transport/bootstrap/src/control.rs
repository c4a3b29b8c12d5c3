//! The line between a process and whoever launched it, once the job runs: how it ended, and that it must end.
//!
//! Any thread may use it. Alone, or where another launcher than ours started it, the process prints for itself what ours would print,
//! in the same words.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::channel::Channel;
use super::wire::ToLauncher;
use super::{site, sys};
use charm4rs_transport_core::Pe;

/// What a process tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// The job ended as the program meant it to, with this exit status. Processes that end after it end rightly.
    Exit {
        /// The job's exit status.
        code: i32,
    },
    /// The job must end because something failed. The first such report is printed, once for the job.
    Abort {
        /// The job's exit status.
        code: u8,
        /// Where it failed, if that is known.
        pe: Option<Pe>,
        /// What failed: one line, and perhaps more (a stack) below it.
        what: String,
    },
    /// Something that the user should know, though the job goes on.
    Warning(String),
    /// What this process's PEs do, in answer to [`Order::Stacks`].
    Stacks(String),
    /// The next SIGINT of the user's is for this process alone, and does not end the job. To be said again when it has been seen to:
    /// one that comes earlier ends the job.
    TakesInterrupt,
}

/// What a process hears.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// End the job in good order: the user asked for it by this signal.
    Stop {
        /// The signal's number.
        signal: u8,
    },
    /// The job is over: whatever still runs will be killed.
    Kill,
    /// The job hangs and is about to be killed: say what your PEs do.
    Stacks,
}

/// The exit status of a job that hangs.
pub const HANGS: u8 = 124;
/// How long a launcher may take to kill a job that hangs.
const KILLED: Duration = Duration::from_secs(10);

/// The line itself. Cheap to clone.
#[derive(Clone)]
pub struct Control(Arc<ControlState>);

type Callback = Arc<dyn Fn(Order) + Send + Sync>;

struct ControlState {
    launcher: Launcher,
    quiet: bool,
    aborted: AtomicBool,
    on_order: Mutex<Option<Callback>>,
}

/// Who launched this process.
enum Launcher {
    Nobody,
    Ours(Channel),
    Site(Arc<site::Line>),
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("launched", &self.is_launched()).finish_non_exhaustive()
    }
}

impl Control {
    /// For a process with this line to its launcher; `None`: alone.
    pub fn new(launcher: Option<Channel>, quiet: bool) -> Self {
        Self::to(launcher.map_or(Launcher::Nobody, Launcher::Ours), quiet)
    }

    /// For a process that a site's launcher has started.
    pub(super) fn of_site(line: Arc<site::Line>, quiet: bool) -> Self {
        Self::to(Launcher::Site(line), quiet)
    }

    fn to(launcher: Launcher, quiet: bool) -> Self {
        Self(Arc::new(ControlState { launcher, quiet, aborted: AtomicBool::new(false), on_order: Mutex::new(None) }))
    }

    /// Whether a launcher of ours started this process, and listens to it.
    #[must_use]
    pub fn is_launched(&self) -> bool {
        self.channel().is_some()
    }

    pub(super) fn channel(&self) -> Option<&Channel> {
        if let Launcher::Ours(channel) = &self.0.launcher { Some(channel) } else { None }
    }

    pub(super) fn site(&self) -> Option<&site::Line> {
        if let Launcher::Site(line) = &self.0.launcher { Some(line) } else { None }
    }

    /// Tells. Does not end the process: see [`Control::abort`]. A child that was forked from a process of the job has nothing to tell.
    pub fn report(&self, report: Report) {
        if sys::is_fork() {
            // No part of the job: only who reads its output hears of its failure.
            if let Report::Abort { what, .. } = report {
                to_stderr(&format!("{}\n", what.trim_end()));
            }
            return;
        }
        let first = !matches!(report, Report::Abort { .. }) || !self.0.aborted.swap(true, Ordering::Relaxed);
        if !first {
            return;
        }
        if let Some(channel) = self.channel() {
            let packet = match report {
                Report::Exit { code } => ToLauncher::Exit(code),
                Report::Abort { code, pe, what } => ToLauncher::Abort { code, pe: pe.map(|pe| pe.0), what },
                Report::Warning(text) => ToLauncher::Warning(text),
                Report::Stacks(text) => ToLauncher::Stacks(text),
                Report::TakesInterrupt => ToLauncher::TakesInterrupt,
            };
            // If the launcher is gone this process ends anyway.
            let _ = channel.send(&packet.encode(), &[]);
            return;
        }
        match report {
            Report::Exit { .. } => {
                if let Some(site) = self.site() {
                    site.finish();
                }
            }
            Report::Abort { code, pe, what } => {
                let line = error_line(code, &what, pe, &host_name(), std::process::id());
                match self.site() {
                    Some(site) => site.fail(code, &line),
                    None => to_stderr(&line),
                }
            }
            Report::Warning(text) if !self.0.quiet => to_stderr(&format!("charmrun: warning: {text}\n")),
            Report::Warning(_) | Report::Stacks(_) | Report::TakesInterrupt => {}
        }
    }

    /// Reports a failure and ends this process at once, whatever its other threads do. Nothing is flushed and no
    /// destructor runs.
    pub fn abort(&self, code: u8, pe: Option<Pe>, what: &str) -> ! {
        self.report(Report::Abort { code, pe, what: what.to_owned() });
        sys::end_process(code.into())
    }

    /// As [`Control::abort`], because the job hangs: what other processes do is of interest too, so this one waits for the launcher,
    /// which asks them and then kills all.
    pub fn give_up(&self, pe: Option<Pe>, what: &str) -> ! {
        self.report(Report::Abort { code: HANGS, pe, what: what.to_owned() });
        if self.is_launched() {
            std::thread::sleep(KILLED);
        }
        sys::end_process(HANGS.into())
    }

    /// Calls `act`, on a thread of the bootstrap's, for each order. One callback at a time: a later one replaces it.
    /// It must return soon: while it runs, nothing else is heard from the launcher.
    pub fn on_order(&self, act: impl Fn(Order) + Send + Sync + 'static) {
        *self.0.on_order.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(act));
    }

    /// Passes an order on.
    pub(super) fn order(&self, order: Order) {
        let act = self.0.on_order.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(act) = act {
            act(order);
        }
    }
}

/// The one form in which a job's failure is printed; further lines of `what` follow the first.
#[must_use]
pub fn error_line(code: u8, what: &str, pe: Option<Pe>, host: &str, pid: u32) -> String {
    let (first, more) = what.trim_end().split_once('\n').unwrap_or((what.trim_end(), ""));
    let pe = pe.map_or("-".to_owned(), |pe| pe.to_string());
    let newline = if more.is_empty() { "" } else { "\n" };
    format!("charmrun: error[{code}]: {first}, pe={pe} host={host} pid={pid}\n{more}{newline}")
}

/// This host's name.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Nobody is left to tell if it fails.
pub(super) fn to_stderr(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_says_who_and_where_and_the_rest_follows() {
        let check = |what: &str, pe, want: &str| assert_eq!(error_line(1, what, pe, "h", 7), want);
        check("it broke", Some(Pe(3)), "charmrun: error[1]: it broke, pe=3 host=h pid=7\n");
        check("it broke\nat a\nat b\n", None, "charmrun: error[1]: it broke, pe=- host=h pid=7\nat a\nat b\n");
    }
}
