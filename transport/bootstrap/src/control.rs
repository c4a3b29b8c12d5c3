//! The connection between a process and its launcher while the job runs. The process reports how it ended; the launcher orders it to end.
//!
//! Any thread may use it. If there is no launcher, or another launcher started the process, the process prints for itself what ours would print,
//! in the same words.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::channel::Channel;
use super::wire::ToLauncher;
use super::{site, sys};
use charm4rs_transport_core::Pe;

/// What a process reports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// The job ended as the program intended, with this exit status. Processes may end after it.
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
        /// What failed: one line, and perhaps more lines (a stack) below it.
        what: String,
    },
    /// Something that the user should know, although the job continues.
    Warning(String),
    /// What this process's PEs are doing, in answer to [`Order::Stacks`].
    Stacks(String),
    /// The next SIGINT of the user is for this process alone, and does not end the job. The process must report this again once it has handled the signal:
    /// a signal that comes earlier ends the job.
    TakesInterrupt,
}

/// What a launcher orders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// End the job normally: the user asked for it by this signal.
    Stop {
        /// The signal's number.
        signal: u8,
    },
    /// The job is over: processes that still run will be killed.
    Kill,
    /// The job hangs and is about to be killed: report what your PEs are doing.
    Stacks,
}

/// The exit status of a job that hangs.
pub const HANGS: u8 = 124;
/// How long a launcher may take to kill a job that hangs.
const KILLED: Duration = Duration::from_secs(10);

/// The connection itself. Cheap to clone.
#[derive(Clone)]
pub struct Control(Arc<ControlState>);

type Callback = Arc<dyn Fn(Order) + Send + Sync>;

struct ControlState {
    launcher: Launcher,
    quiet: bool,
    aborted: AtomicBool,
    on_order: Mutex<Option<Callback>>,
}

/// The kind of launcher of this process.
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
    /// For a process with this channel to its launcher; `None`: there is no launcher.
    pub fn new(launcher: Option<Channel>, quiet: bool) -> Self {
        Self::to(launcher.map_or(Launcher::Nobody, Launcher::Ours), quiet)
    }

    /// For a process that a site's launcher started.
    pub(super) fn of_site(line: Arc<site::Line>, quiet: bool) -> Self {
        Self::to(Launcher::Site(line), quiet)
    }

    fn to(launcher: Launcher, quiet: bool) -> Self {
        Self(Arc::new(ControlState { launcher, quiet, aborted: AtomicBool::new(false), on_order: Mutex::new(None) }))
    }

    /// Whether a launcher of this project started this process, and listens to it.
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

    /// Sends a report. It does not end the process: see [`Control::abort`]. A forked child of a process of the job reports nothing.
    pub fn report(&self, report: Report) {
        if sys::is_fork() {
            // The child is not part of the job: it prints its failure and does nothing else.
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
            // If the launcher is gone, this process ends anyway.
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

    /// Reports a failure and ends this process at once, whatever its other threads are doing. Nothing is flushed and no
    /// destructor runs.
    pub fn abort(&self, code: u8, pe: Option<Pe>, what: &str) -> ! {
        self.report(Report::Abort { code, pe, what: what.to_owned() });
        sys::end_process(code.into())
    }

    /// As [`Control::abort`], because the job hangs. The states of the other processes matter too, so this process waits for the launcher,
    /// which asks them and then kills all.
    pub fn give_up(&self, pe: Option<Pe>, what: &str) -> ! {
        self.report(Report::Abort { code: HANGS, pe, what: what.to_owned() });
        if self.is_launched() {
            std::thread::sleep(KILLED);
        }
        sys::end_process(HANGS.into())
    }

    /// Calls `act`, on a thread of the bootstrap, for each order. There is one callback: a later one replaces it.
    /// It must return soon: while it runs, no other message of the launcher is read.
    pub fn on_order(&self, act: impl Fn(Order) + Send + Sync + 'static) {
        *self.0.on_order.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(act));
    }

    /// Passes an order to the callback.
    pub(super) fn order(&self, order: Order) {
        let act = self.0.on_order.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(act) = act {
            act(order);
        }
    }
}

/// The one format in which the failure of a job is printed. Further lines of `what` follow the first.
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

/// Ignores errors, since there is no other place to report them.
pub(super) fn to_stderr(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_names_the_pe_and_the_host_and_the_rest_follows() {
        let check = |what: &str, pe, want: &str| assert_eq!(error_line(1, what, pe, "h", 7), want);
        check("it broke", Some(Pe(3)), "charmrun: error[1]: it broke, pe=3 host=h pid=7\n");
        check("it broke\nat a\nat b\n", None, "charmrun: error[1]: it broke, pe=- host=h pid=7\nat a\nat b\n");
    }
}
