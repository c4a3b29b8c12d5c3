//! A job under test: started with a watchdog, its output read, and its leftovers searched in `/proc`. Knows nothing of the launcher and program.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

#[path = "traces.rs"]
pub(crate) mod traces;

pub(crate) use traces::processes;
use traces::{MARK, Traces};

/// Every test ends within this time, or fails.
const WATCHDOG: Duration = Duration::from_secs(60);
/// Time between two checks of what a job has.
const LOOK: Duration = Duration::from_millis(50);
/// The contract: what a job leaves behind is gone so soon after its launcher.
pub(crate) const GONE: Duration = Duration::from_secs(1);
/// A running job.
pub(crate) struct Job {
    child: Child,
    pub(crate) mark: String,
    stdout: Option<BufReader<ChildStdout>>,
    stderr: JoinHandle<String>,
    began: Instant,
    /// What it has had so far, at each check.
    traces: RefCell<Traces>,
}

/// A job that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
    pub(crate) mark: String,
    pub(crate) traces: Traces,
}

/// A launcher's command, without standard input, and the mark of the processes that it starts.
pub(crate) fn marked(launcher: &str) -> (Command, String) {
    static JOBS: AtomicU32 = AtomicU32::new(0);
    let mark = format!("{}-{}", std::process::id(), JOBS.fetch_add(1, Ordering::Relaxed));
    let mut command = Command::new(launcher);
    command.env(MARK, &mark).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    (command, mark)
}

impl Job {
    pub(crate) fn spawn(mut command: Command, mark: String) -> Self {
        let (began, traces) = (Instant::now(), RefCell::new(Traces::new()));
        let mut child = command.spawn().expect("charmrun starts");
        let mut stderr = child.stderr.take().expect("piped");
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            stderr.read_to_end(&mut text).expect("a pipe");
            String::from_utf8_lossy(&text).into_owned()
        });
        let stdout = child.stdout.take().map(BufReader::new);
        Self { child, mark, stdout, stderr, began, traces }
    }

    /// The launcher's number.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Records what the job has now, which must be gone at its end.
    pub(crate) fn look(&self) {
        self.traces.borrow_mut().look(&self.mark);
    }

    /// The launcher's guardian, as soon as there is one. `None`: the launcher has ended.
    pub(crate) fn guardian(&self) -> Option<Pid> {
        let list = format!("/proc/{0}/task/{0}/children", self.pid());
        let stat = format!("/proc/{}/stat", self.pid());
        let has_ended = || std::fs::read_to_string(&stat).expect("it is not waited for yet").contains(") Z ");
        let is_it =
            |pid: &i32| std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name == b"charmrun-guard\n");
        loop {
            let children = std::fs::read_to_string(&list).expect("charmrun runs");
            let found = children.split_whitespace().filter_map(|n| n.parse().ok()).find(is_it);
            let found = found.and_then(Pid::from_raw);
            if found.is_some() || has_ended() {
                return found;
            }
            std::thread::yield_now();
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.look();
        kill_process(self.pid(), signal).expect("charmrun runs");
    }

    pub(crate) fn input(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().expect("piped")
    }

    pub(crate) fn output(&mut self) -> BufReader<ChildStdout> {
        self.stdout.take().expect("taken once")
    }

    /// The next line that the job prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.as_mut().expect("not taken").read_line(&mut line).expect("a pipe");
        line
    }

    /// Waits until `n` processes have printed `ready`, and returns the numbers that they printed with it.
    pub(crate) fn ready(&mut self, n: usize) -> Vec<Pid> {
        let numbers = (0..n)
            .filter_map(|_| {
                let line = self.line();
                let (word, pid) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), "0"));
                assert_eq!(word, "ready");
                Pid::from_raw(pid.parse().expect("a number"))
            })
            .collect();
        self.look();
        numbers
    }

    pub(crate) fn end(mut self) -> Ended {
        let stdout = self.stdout.take();
        let read = std::thread::spawn(move || {
            let mut text = Vec::new();
            stdout.map(|mut stdout| stdout.read_to_end(&mut text).expect("a pipe"));
            String::from_utf8_lossy(&text).into_owned()
        });
        let mut look_at = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                break status;
            }
            if self.began.elapsed() > WATCHDOG {
                self.child.kill().expect("our child");
                let left = processes(&self.mark);
                panic!("the job hangs; its processes: {left:?}; it said {:?}", self.stderr.join());
            }
            if look_at <= Instant::now() {
                self.look();
                look_at = Instant::now() + LOOK;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let took = self.began.elapsed();
        assert_gone(&self.mark, &self.traces.borrow());
        let code = std::os::unix::process::ExitStatusExt::signal(&status)
            .map_or_else(|| status.code().expect("an exit status or a signal"), |signal| -signal);
        Ended {
            code,
            stdout: read.join().expect("it reads"),
            stderr: self.stderr.join().expect("it reads"),
            took,
            mark: self.mark,
            traces: self.traces.into_inner(),
        }
    }
}

impl Ended {
    /// Asserts the contract of a failure: its code, the first line on standard error, and that there is no second such line.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, what: &str) -> &Self {
        self.failed_on(&rustix::system::uname().nodename().to_string_lossy(), code, what)
    }

    /// The same, with the name of the host.
    #[track_caller]
    pub(crate) fn failed_on(&self, host: &str, code: i32, what: &str) -> &Self {
        assert_eq!(self.code, code, "{self:?}");
        let first = self.stderr.lines().next().unwrap_or_default();
        let start = format!("charmrun: error[{code}]: ");
        assert!(
            first.starts_with(&start) && first.contains(what),
            "the first line does not contain {what:?}: {self:?}"
        );
        let end = first.rsplit(", ").next().unwrap_or_default();
        let fields: Vec<_> = end.split(' ').map(|f| f.split_once('=').unwrap_or((f, ""))).collect();
        assert!(
            matches!(&fields[..], [("pe", pe), ("host", h), ("pid", pid)]
                if (*pe == "-" || pe.parse::<u32>().is_ok()) && *h == host && pid.parse::<u32>().is_ok()),
            "{end:?} does not name the PE, host and process"
        );
        assert_eq!(self.stderr.matches("error[").count(), 1, "the first cause is reported once: {self:?}");
        self
    }

    /// The same for a job of another launcher, which prints more, and may print it first, and has its own exit codes.
    #[track_caller]
    pub(crate) fn failed_among_others(&self, code: i32, what: &str) -> &Self {
        assert_ne!(self.code, 0, "{self:?}");
        let lines: Vec<&str> = self.stderr.lines().filter(|line| line.contains("error[")).collect();
        let [line] = lines[..] else { panic!("the first cause is reported once: {self:?}") };
        assert!(line.starts_with(&format!("charmrun: error[{code}]: ")) && line.contains(what), "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn succeeded(&self) -> &Self {
        assert_eq!((self.code, &*self.stderr), (0, ""), "{self:?}");
        self
    }

    /// The PE in the first line.
    pub(crate) fn pe(&self) -> Option<u32> {
        let first = self.stderr.lines().next().unwrap_or_default();
        first.rsplit_once("pe=")?.1.split(' ').next()?.parse().ok()
    }

    /// The lines of standard output, sorted.
    pub(crate) fn sorted(&self) -> Vec<&str> {
        let mut lines: Vec<_> = self.stdout.lines().collect();
        lines.sort_unstable();
        lines
    }
}

/// Asserts that within the contract's time nothing of the job is left: no process, and nothing of what its processes had.
#[track_caller]
pub(crate) fn assert_gone(mark: &str, traces: &Traces) {
    let since = Instant::now();
    loop {
        let processes = processes(mark);
        let left = traces.left();
        if processes.is_empty() && left.is_empty() {
            return;
        }
        assert!(since.elapsed() < GONE, "the job has left behind {processes:?} {left:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
