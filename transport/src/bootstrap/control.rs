//! The line between a process and whoever launched it, once the job runs: how it ended, and that it must end.
//!
//! Any thread may use it. Alone, the process prints for itself what a launcher would print, in the same words.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::Pe;

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
}

/// See the [module's text](self).
#[derive(Clone)]
pub struct Control(Arc<Shared>);

type Callback = Box<dyn Fn(Order) + Send + Sync>;

struct Shared {
    quiet: bool,
    aborted: AtomicBool,
    on_order: Mutex<Option<Callback>>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("aborted", &self.0.aborted).finish_non_exhaustive()
    }
}

impl Control {
    /// For a process that nobody launched.
    pub(super) fn alone(quiet: bool) -> Self {
        Self(Arc::new(Shared { quiet, aborted: AtomicBool::new(false), on_order: Mutex::new(None) }))
    }

    /// Tells. Does not end the process: see [`Control::abort`].
    pub fn report(&self, report: Report) {
        match report {
            Report::Exit { .. } => {}
            Report::Abort { code, pe, what } => {
                if !self.0.aborted.swap(true, Ordering::Relaxed) {
                    to_stderr(&error_line(code, &what, pe, &host_name(), std::process::id()));
                }
            }
            Report::Warning(text) => {
                if !self.0.quiet {
                    to_stderr(&format!("charmrun: warning: {text}\n"));
                }
            }
        }
    }

    /// Reports a failure and ends this process at once, whatever its other threads do. Nothing is flushed and no
    /// destructor runs.
    pub fn abort(&self, code: u8, pe: Option<Pe>, what: &str) -> ! {
        self.report(Report::Abort { code, pe, what: what.to_owned() });
        end_process(code.into())
    }

    /// Calls `act`, on a thread of its own, for each order. One callback at a time: a later one replaces it.
    pub fn on_order(&self, act: impl Fn(Order) + Send + Sync + 'static) {
        *self.0.on_order.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(act));
    }
}

/// Ends this process without running anything of it.
pub(super) fn end_process(code: i32) -> ! {
    // SAFETY: `_exit` has no precondition; it ends all threads of this process.
    unsafe { libc::_exit(code) }
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
fn to_stderr(text: &str) {
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
