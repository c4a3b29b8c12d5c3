//! The launcher's agent on another host. A remote shell starts it there; it starts the processes of its host, serves them as the launcher serves its
//! own (`local_processes`), and reports events. Its standard input and output are its only connection to the launcher.
//!
//! # How it ends
//! 1. The launcher says that the job has ended: the agent kills what processes have left behind, sends the rest of the output, and then `Done`.
//! 2. The connection ends, or the launcher is silent for five seconds (while it is known to run), or a signal asks the agent to end: the agent
//!    assumes that the launcher is gone, and kills everything.
//! 3. The agent is killed: the kernel signals its processes, and the guardian kills what they have started. The same happens if the agent is stopped
//!    for so long that the launcher declares its host lost: then the guardian kills the agent.
//!
//! An agent knows nothing of the job but its own processes, and makes no decisions.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::time::{Duration, Instant};

use charm4rs_bootstrap::options::Options;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use crate::board::Answer;
use crate::error::LaunchError;
use crate::frames::{Order, PRINTED_MAX, ToAgent, ToHome};
use crate::line::{Got, Line};
use crate::local_processes::{self, Event, GIVE_UP, LocalProcesses, Owner, What, token};
use crate::program::{Program, environment};

/// How long a launcher may be silent.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);
/// How long the agent waits for the order.
const ORDER: Duration = Duration::from_secs(60);
/// How long the final frames may take on their way to a launcher that reads.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(10);
/// Bytes of output that may be on their way to the launcher.
pub(crate) const WINDOW: usize = 256 << 10;

/// Variables that belong to a host or its session: the launcher's values are not passed to another host. Those that end in `_` are prefixes.
const OWN: [&str; 22] = [
    "_",
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "HOME",
    "HOSTNAME",
    "LOGNAME",
    "MAIL",
    "OLDPWD",
    "PWD",
    "SHELL",
    "SHLVL",
    "SSH_",
    "STY",
    "TERM",
    "TMPDIR",
    "TMUX",
    "TTY",
    "USER",
    "WAYLAND_DISPLAY",
    "WINDOWID",
    "XAUTHORITY",
    "XDG_",
];

/// Whether an entry of an environment stays on its host.
pub(crate) fn is_own(entry: &OsStr) -> bool {
    let entry = entry.as_bytes();
    let name = entry.split(|b| *b == b'=').next().unwrap_or_default();
    OWN.iter().any(|own| {
        let own = own.as_bytes();
        name == own || own.len() > 1 && own.ends_with(b"_") && name.starts_with(own)
    })
}

/// Runs the agent. Returns its exit status.
pub(crate) fn run() -> Result<u8, LaunchError> {
    let line = || Line::new(io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?);
    let mut line = line().map_err(LaunchError::system("the line to the launcher"))?;
    line.send(&ToHome::Hello(std::process::id()));
    let Some(order) = order(&mut line)? else { return Ok(GONE) };
    let mut agent = Agent::new(line, &order)?;
    if let Err(error) = agent.start(order) {
        agent.line.send(&ToHome::Failed { code: error.code(), what: error.to_string() });
        agent.end();
    }
    local_processes::serve(&mut agent);
    Ok(agent.finish())
}

/// Exit status of an agent whose launcher is gone.
const GONE: u8 = 69;

/// Waits for the order. `None`: the launcher is gone.
fn order(line: &mut Line) -> Result<Option<Order>, LaunchError> {
    let until = Instant::now() + ORDER;
    loop {
        line.flush();
        match line.next() {
            Ok(Some(ToAgent::Order(order))) => return Ok(Some(*order)),
            Ok(None) => {}
            // The launcher sees the other version too, and reports it.
            Ok(Some(_)) | Err(_) => return Ok(None),
        }
        if !wait(line, PollFlags::IN, until) || line.read() == Got::End {
            return Ok(None);
        }
    }
}

/// Waits until there is something to read, or room to write. Returns whether there is.
fn wait(line: &Line, what: PollFlags, until: Instant) -> bool {
    let left = until.saturating_duration_since(Instant::now());
    let left = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(0), tv_nsec: left.subsec_nanos().into() };
    let fd = if what == PollFlags::IN { line.input() } else { line.output() };
    rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(fd, what)], Some(&left))).is_ok_and(|n| n > 0)
}

#[derive(Debug)]
struct Agent {
    here: LocalProcesses,
    line: Line,
    /// Bytes of output that may be sent.
    credit: usize,
    /// When the launcher was last heard.
    heard: Instant,
    /// Whether its silence means that it is gone.
    liveness: bool,
    /// The job is suspended, and its launcher too.
    stopped: bool,
    /// When the end began.
    ending: Option<Instant>,
    /// The launcher waits for the final frame.
    awaited: bool,
}

impl Agent {
    fn new(line: Line, order: &Order) -> Result<Self, LaunchError> {
        let layout = &order.welcome.layout;
        let ranks = layout.processes_of(layout.host_of(order.welcome.rank));
        let options = Options::from_pairs(&order.welcome.options)?;
        let here = LocalProcesses::new(ranks, !options.no_liveness)?;
        line.listen(here.epoll(), token(What::Line, 0)).map_err(|e| LaunchError::system("epoll_ctl")(e.into()))?;
        Ok(Self {
            here,
            line,
            credit: WINDOW,
            heard: Instant::now(),
            liveness: !options.no_liveness,
            stopped: false,
            ending: None,
            awaited: false,
        })
    }

    fn start(&mut self, order: Order) -> Result<(), LaunchError> {
        let Order { welcome, program, args, folder, env } = order;
        let texts = |list: Vec<Vec<u8>>| list.into_iter().map(OsString::from_vec);
        let folder = OsString::from_vec(folder);
        std::env::set_current_dir(&folder).map_err(|why| LaunchError::Folder { folder: folder.into(), why })?;
        let own = environment().into_iter().filter(|entry| is_own(entry));
        let env = texts(env).filter(|entry| !is_own(entry)).chain(own).collect();
        let args: Vec<OsString> = texts(args).collect();
        self.here.make_room(0)?;
        let mut program = Program::find(OsStr::from_bytes(&program), &args, env)?;
        let started = self.here.start(&mut program, &welcome, false);
        local_processes::hand_over(self);
        started
    }

    fn on_line(&mut self) {
        match self.line.read() {
            Got::Bytes => self.heard = Instant::now(),
            Got::Nothing => return,
            Got::End => return self.end(),
        }
        loop {
            match self.line.next() {
                Ok(Some(frame)) => self.on_frame(frame),
                Ok(None) => return,
                // The other end is not a launcher of this program.
                Err(_) => return self.end(),
            }
        }
    }

    fn on_frame(&mut self, frame: ToAgent) {
        match frame {
            // An agent serves one job.
            ToAgent::Order(_) => self.end(),
            ToAgent::Packet { rank, packet } => {
                self.here.send(Answer { to: rank, packet: packet.into(), fds: Vec::new() });
            }
            ToAgent::Signal(number) => {
                if let Some(signal) = Signal::from_named_raw(number.into()) {
                    self.stopped = (self.stopped || signal == Signal::STOP) && signal != Signal::CONT;
                    self.here.signal_all(signal);
                }
            }
            ToAgent::SignalOne { rank, signal } => {
                if let Some(signal) = Signal::from_named_raw(signal.into()) {
                    self.here.signal(rank, signal);
                }
            }
            ToAgent::Ping(n) => self.line.send(&ToHome::Pong(n)),
            ToAgent::Taken(n) => self.credit = WINDOW.min(self.credit + n as usize),
            ToAgent::Finish => {
                self.awaited = true;
                self.end();
            }
        }
    }

    /// Ends everything.
    fn end(&mut self) {
        if self.ending.is_none() {
            self.ending = Some(Instant::now());
            // The loop stops listening: it would report a connection that has ended again and again.
            let _ = rustix::event::epoll::delete(self.here.epoll(), self.line.input());
        }
        self.here.signal_all(Signal::KILL);
    }

    /// Forwards output of a process, as far as the launcher's credit goes. Returns whether there may be more.
    fn print(&mut self, rank: u32, which: u8) -> bool {
        let mut buf = vec![0; PRINTED_MAX];
        let room = buf.len().min(self.credit);
        // A read of zero bytes would look like the end.
        let Some(n) = (room > 0).then(|| self.here.read(rank, which.into(), &mut buf[..room])).flatten() else {
            return false;
        };
        self.credit -= n;
        buf.truncate(n);
        self.line.send(&ToHome::Printed { rank, which, bytes: buf });
        n > 0
    }

    /// Kills what processes have left behind, and sends the final frames.
    fn finish(mut self) -> u8 {
        self.here.sweep();
        let awaited = self.awaited;
        let limit = if awaited { LAST_WORDS } else { GIVE_UP };
        // A launcher that waits takes all remaining output.
        for (rank, which) in self.here.ranks().flat_map(|rank| [(rank, 0), (rank, 1)]).filter(|_| awaited) {
            self.credit = usize::MAX;
            while self.print(rank, which) {}
        }
        self.here.dismiss_guardian();
        if self.awaited {
            self.line.send(&ToHome::Done);
        }
        let until = Instant::now() + limit;
        while !self.line.is_flushed() && wait(&self.line, PollFlags::OUT, until) {
            self.line.flush();
        }
        if self.awaited { 0 } else { GONE }
    }
}

impl Owner for Agent {
    fn here(&mut self) -> &mut LocalProcesses {
        &mut self.here
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Process(rank, news) => self.line.send(&ToHome::News { rank, news }),
            Event::Signal(libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT) => self.end(),
            // The launcher forwards what is for the job.
            Event::Signal(_) | Event::Command(..) => {}
        }
    }

    fn on_ready(&mut self, what: What, number: u32) {
        match what {
            What::Line => self.on_line(),
            What::Stdout => _ = self.print(number, 0),
            What::Stderr => _ = self.print(number, 1),
            What::Channel | What::Signals | What::Sink | What::Words => {}
        }
    }

    fn before_waiting(&mut self) {
        self.line.flush();
        self.line.wait_for_room(self.here.epoll(), token(What::Sink, 0));
        for which in 0..2 {
            self.here.hear(which, self.credit > 0);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self.ending {
            Some(at) => Some(at + GIVE_UP),
            None => (self.liveness && !self.stopped).then(|| self.heard + SILENCE),
        }
    }

    fn on_time(&mut self) {
        if self.ending.is_none() && self.deadline().is_some_and(|at| at <= Instant::now()) {
            self.end();
        }
    }

    fn is_over(&self) -> bool {
        self.ending.is_some_and(|at| !self.here.one_runs() || at.elapsed() > GIVE_UP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_host_stays_there() {
        for own in ["PWD=/x", "SSH_CONNECTION=1", "XDG_RUNTIME_DIR=/run", "_=/bin/x", "TERM=xterm", "HOSTNAME"] {
            assert!(is_own(OsStr::new(own)), "{own}");
        }
        for all in ["PATH=/bin", "PYTHONPATH=.", "_X=1", "TERMINAL=1", "LD_LIBRARY_PATH=", "OMP_NUM_THREADS=1"] {
            assert!(!is_own(OsStr::new(all)), "{all}");
        }
    }
}
