//! The other hosts of a job, as its launcher sees them: for each, a remote shell that runs an agent there, and the connection to it.
//!
//! An agent says hello before it receives anything, above all the job's secret. The output of the shell before that is kept: it is part of the error
//! if no agent answers, and is shown otherwise. A host is lost when its shell has ended, its connection closed, or nothing was received from it for
//! five seconds: that is a failure of the job.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use charm4rs_bootstrap::options::Options;
use charm4rs_bootstrap::wire::{TOWARD_MAX, Welcome, WireError};
use charm4rs_transport_core::Pe;
use rustix::event::epoll::{self, EventFlags};
use rustix::process::{Pid, Signal};

use crate::agent::{SILENCE, WINDOW, is_own};
use crate::end::Cause;
use crate::error::LaunchError;
use crate::frames::{self, Order, ToAgent, ToHome};
use crate::job::Job;
use crate::line::{Got, Line};
use crate::local_processes::{LocalProcesses, News, What, token};
use crate::nodelist::Host;
use crate::program::{Program, environment};
use crate::shell;
use crate::sys::{Death, Ending};

/// The number of shells that may be starting at a time.
const DIALED_MAX: usize = 64;
/// How long an agent may take to say hello; longer, in proportion, if the time limit for joining is longer.
const HELLO: Duration = Duration::from_secs(9);
const USUAL: Duration = Duration::from_secs(60);
/// A host that is silent for so long may be gone.
const HUSHED: Duration = Duration::from_millis(1500);
/// How long a shell whose connection has closed may take to print the reason.
const REASON: Duration = Duration::from_millis(500);
/// The amount of a shell's output that is kept, in bytes.
const WORDS_MAX: usize = 16 << 10;
/// Exit status of a job that lost a host.
const PEER: u8 = 69;

/// The state of a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Waiting,
    Dialed(Instant),
    /// Its agent has said hello, and has its order; so many processes are still to start.
    Ordered(usize),
    /// All of them were started.
    Runs,
    /// Nothing is left there, or nothing is known of it any more.
    Gone,
}

/// Another host.
#[derive(Debug)]
pub(crate) struct RemoteHost {
    host: Host,
    /// Its number in the layout.
    number: u32,
    state: State,
    shell: Option<Pid>,
    line: Option<Line>,
    /// The shell's standard error.
    stderr: Option<OwnedFd>,
    words: Vec<u8>,
    /// When the connection closed.
    closed: Option<Instant>,
    heard: Instant,
    /// Bytes of its output that are consumed but not yet acknowledged.
    taken: usize,
}

impl RemoteHost {
    pub(crate) fn new(host: Host, number: u32) -> Self {
        Self {
            host,
            number,
            state: State::Waiting,
            shell: None,
            line: None,
            stderr: None,
            words: Vec::new(),
            closed: None,
            heard: Instant::now(),
            taken: 0,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.host.name
    }

    /// Whether processes may still be started there.
    pub(crate) fn begins(&self) -> bool {
        matches!(self.state, State::Waiting | State::Dialed(_) | State::Ordered(_))
    }

    fn has_agent(&self) -> bool {
        matches!(self.state, State::Ordered(_) | State::Runs)
    }

    pub(crate) fn send(&mut self, frame: &ToAgent) {
        if let (true, Some(line)) = (self.has_agent(), &mut self.line) {
            line.send(frame);
        }
    }

    /// Forgets the host; its agent ends everything there when the connection closes.
    fn leave(&mut self, here: &LocalProcesses) {
        self.state = State::Gone;
        for fd in self.line.iter().map(Line::input).chain(&self.stderr) {
            let _ = epoll::delete(here.epoll(), fd);
        }
        (self.line, self.stderr) = (None, None);
        if let Some(shell) = self.shell {
            here.kill_command(shell);
        }
    }

    /// Starts its shell.
    fn dial(&mut self, here: &mut LocalProcesses, shell: &str, launcher: &[OsString]) -> Result<(), LaunchError> {
        let shell = self.host.shell.as_deref().unwrap_or(shell);
        let words = shell::split(shell).unwrap_or_default();
        let words = shell::words(&words, &self.host, launcher);
        let (name, args) = words.split_first().expect("a host's name at least");
        let started = here.start_command(&mut Program::find(name, args, environment())?)?;
        self.shell = Some(started.leader.pid);
        let system = LaunchError::system("the line to an agent");
        let stdin = started.stdin.expect("it was asked for");
        let line = Line::new(started.stdout.into(), stdin.into()).map_err(system)?;
        let number = self.number;
        let listen = |fd: &OwnedFd, what| epoll::add(here.epoll(), fd, token(what, number), EventFlags::IN);
        let stderr = OwnedFd::from(started.stderr);
        let listening = rustix::io::ioctl_fionbio(&stderr, true)
            .and_then(|()| listen(&stderr, What::Words))
            .and_then(|()| line.listen(here.epoll(), token(What::Line, number)));
        listening.map_err(|e| LaunchError::system("epoll_ctl")(e.into()))?;
        (self.line, self.stderr) = (Some(line), Some(stderr));
        self.state = State::Dialed(Instant::now());
        Ok(())
    }

    /// Reads the shell's standard error.
    fn read_words(&mut self, here: &LocalProcesses) {
        let mut buf = [0; 4096];
        while let Some(fd) = &self.stderr {
            match rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut buf)) {
                Ok(n) if n > 0 => {
                    self.words.extend_from_slice(&buf[..n]);
                    let more = self.words.len().saturating_sub(WORDS_MAX);
                    self.words.drain(..more);
                }
                Err(rustix::io::Errno::AGAIN) => return,
                _ => {
                    let _ = epoll::delete(here.epoll(), fd);
                    self.stderr = None;
                }
            }
        }
    }

    /// Takes the complete lines of the shell's output.
    fn lines(&mut self) -> Vec<String> {
        let end = self.words.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        let text: Vec<u8> = self.words.drain(..end).collect();
        String::from_utf8_lossy(&text).lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// The shell's last line, and all its output if there was more; including any text instead of an agent's opening.
    fn last_words(&mut self) -> (String, String) {
        let mut text = self.line.as_ref().map_or_else(Vec::new, |line| line.words().to_vec());
        text.append(&mut self.words);
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let last = lines.last().map(|line| format!(": {line}")).unwrap_or_default();
        let all = if lines.len() > 1 { format!("\n{}", lines.join("\n")) } else { String::new() };
        (last, all)
    }
}

/// The order for the agents of a job, without what differs between hosts.
#[derive(Debug)]
pub(crate) struct Orders {
    /// The launcher's own program, with its arguments.
    pub(crate) launcher: Vec<OsString>,
    pub(crate) shell: String,
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    pub(crate) folder: PathBuf,
    /// The welcome of the processes, without their numbers and addresses.
    pub(crate) welcome: Welcome,
    /// The names of the job's hosts, of which each host is told some.
    pub(crate) names: Vec<String>,
}

impl Orders {
    /// The welcome for the processes of a host.
    pub(crate) fn welcome(&self, number: u32) -> Welcome {
        let others = (0..).zip(&self.names).filter(|(other, _)| *other != number).map(|(_, name)| name.clone());
        let rank = self.welcome.layout.processes_of(number).start;
        Welcome { rank, toward: others.take(TOWARD_MAX).collect(), ..self.welcome.clone() }
    }

    fn of(&self, number: u32) -> Order {
        let env = environment().into_iter().filter(|entry| !is_own(entry));
        Order {
            welcome: self.welcome(number),
            program: self.program.clone().into_vec(),
            args: self.args.iter().cloned().map(OsString::into_vec).collect(),
            folder: self.folder.clone().into_os_string().into_vec(),
            env: env.map(OsString::into_vec).collect(),
        }
    }
}

fn hello(options: &Options) -> Duration {
    HELLO.mul_f64(options.timeout().div_duration_f64(USUAL).max(1.0))
}

/// A signal, as it is sent.
pub(crate) fn number(signal: Signal) -> u8 {
    u8::try_from(signal.as_raw()).expect("signals are small")
}

impl Job {
    /// The host of a process, if it is not this one.
    pub(crate) fn remote_of(&mut self, rank: u32) -> Option<&mut RemoteHost> {
        let host = self.layout.host_of(rank);
        self.remotes.get_mut(host as usize)?.as_mut()
    }

    pub(crate) fn others(&mut self) -> impl Iterator<Item = &mut RemoteHost> {
        self.remotes.iter_mut().flatten()
    }

    fn remote(&mut self, number: u32) -> Option<&mut RemoteHost> {
        self.remotes.get_mut(number as usize)?.as_mut()
    }

    /// Starts as many shells as may be starting at a time.
    pub(crate) fn dial(&mut self) -> Result<(), LaunchError> {
        let Self { remotes, here, orders, .. } = self;
        let on_their_way = remotes.iter().flatten().filter(|r| matches!(r.state, State::Dialed(_))).count();
        let waiting = remotes.iter_mut().flatten().filter(|r| r.state == State::Waiting);
        for remote in waiting.take(DIALED_MAX.saturating_sub(on_their_way)) {
            remote.dial(here, &orders.shell, &orders.launcher)?;
        }
        Ok(())
    }

    /// Reads once; returns whether there may be more.
    pub(crate) fn on_line(&mut self, number: u32) -> bool {
        let Some(line) = self.remote(number).and_then(|remote| remote.line.as_mut()) else { return false };
        let got = line.read();
        match got {
            Got::Bytes => self.on_frames(number),
            Got::Nothing => {}
            Got::End => self.on_closed(number),
        }
        got == Got::Bytes
    }

    fn on_frames(&mut self, number: u32) {
        loop {
            let Some(remote) = self.remote(number) else { return };
            remote.heard = Instant::now();
            let Some(line) = &mut remote.line else { return };
            match line.next() {
                Ok(Some(frame)) => self.on_frame(number, frame),
                Ok(None) => return,
                // Text without end instead of an agent's opening: the shell's exit or the time limit gives a better error.
                Err(WireError::Magic) => return self.lose(number, None),
                Err(error) => return self.not_understood(number, error),
            }
        }
    }

    fn not_understood(&mut self, number: u32, error: WireError) {
        let Some(remote) = self.remote(number) else { return };
        let name = remote.name().to_owned();
        let what = match error {
            WireError::Version(theirs) => {
                let ours = frames::VERSION;
                format!(
                    "the charmrun of host {name} speaks version {theirs} of the agent protocol, this one version {ours}"
                )
            }
            error => format!("the agent on host {name} broke the protocol: {error}"),
        };
        self.fail_host(number, 76, what);
    }

    fn on_frame(&mut self, number: u32, frame: ToHome) {
        let ranks = self.layout.processes_of(number);
        let Some(remote) = self.remotes.get_mut(number as usize).and_then(Option::as_mut) else { return };
        let out_of_turn = match &frame {
            ToHome::Hello(_) => !matches!(remote.state, State::Dialed(_)),
            ToHome::Printed { bytes, .. } if remote.taken + bytes.len() > WINDOW && self.finishing.is_none() => true,
            ToHome::News { news: News::Started(_), .. } if !matches!(remote.state, State::Ordered(_)) => true,
            ToHome::Done if self.finishing.is_none() => true,
            ToHome::News { rank, .. } | ToHome::Printed { rank, .. } => !remote.has_agent() || !ranks.contains(rank),
            _ => !remote.has_agent(),
        };
        if out_of_turn {
            return self.not_understood(number, WireError::Field("order of frames"));
        }
        match frame {
            ToHome::Hello(pid) => {
                remote.state = State::Ordered(ranks.len());
                remote.send(&ToAgent::Order(Box::new(self.orders.of(number))));
                let name = remote.name().to_owned();
                self.note(|| format!("the agent on {name} is {pid}"));
                self.show_words(number);
                if let Err(error) = self.dial() {
                    self.fail_host(number, error.code(), error.to_string());
                }
            }
            ToHome::News { rank, news } => {
                if let (News::Started(_), State::Ordered(left)) = (&news, remote.state) {
                    remote.state = if left > 1 { State::Ordered(left - 1) } else { State::Runs };
                }
                self.on_news(rank, news);
            }
            ToHome::Printed { rank, which, bytes } => {
                remote.taken += bytes.len();
                self.print(rank, which.into(), &bytes);
            }
            ToHome::Failed { code, what } => {
                let what = format!("host {}: {what}", remote.name());
                self.fail_host(number, code, what);
            }
            ToHome::Pong(_) => {}
            ToHome::Done => remote.leave(&self.here),
        }
    }

    /// Shows the shell's output, unless it becomes part of an error.
    pub(crate) fn on_words(&mut self, number: u32) {
        let Some(remote) = self.remotes.get_mut(number as usize).and_then(Option::as_mut) else { return };
        remote.read_words(&self.here);
        if remote.has_agent() {
            self.show_words(number);
        }
    }

    fn show_words(&mut self, number: u32) {
        let quiet = self.options.quiet;
        let Some(remote) = self.remote(number) else { return };
        let (name, lines) = (remote.name().to_owned(), remote.lines());
        for line in lines.into_iter().filter(|line| !quiet && !line.is_empty()) {
            self.sink().say(&format!("charmrun: {name}: {line}\n"));
        }
    }

    fn on_closed(&mut self, number: u32) {
        let Some(remote) = self.remotes.get_mut(number as usize).and_then(Option::as_mut) else { return };
        remote.closed = Some(Instant::now());
        if let Some(line) = &remote.line {
            let _ = epoll::delete(self.here.epoll(), line.input());
        }
        if remote.shell.is_none() {
            self.lose(number, None);
        }
    }

    /// A command that is not a process of the job has ended: a shell.
    pub(crate) fn on_shell_ended(&mut self, pid: Pid, death: Death) {
        let found = (0..).zip(&self.remotes).find(|(_, r)| r.as_ref().is_some_and(|r| r.shell == Some(pid)));
        let Some((number, _)) = found else { return };
        // First what came before.
        while self.on_line(number) {}
        self.on_words(number);
        if let Some(remote) = self.remote(number) {
            remote.shell = None;
        }
        self.lose(number, Some(death.how));
    }

    /// A host is lost, because its shell has ended in this way, or for an unknown reason.
    fn lose(&mut self, number: u32, how: Option<Ending>) {
        let launcher = self.orders.launcher.join(std::ffi::OsStr::new(" ")).display().to_string();
        let Some(remote) = self.remotes.get_mut(number as usize).and_then(Option::as_mut) else { return };
        if remote.state == State::Gone {
            return;
        }
        remote.read_words(&self.here);
        let (last, all) = remote.last_words();
        let name = remote.name();
        let ended = match how {
            Some(Ending::Code(code)) => format!(" (its remote shell ended with exit code {code})"),
            Some(Ending::Signal(signal)) => format!(" (its remote shell was killed by signal {signal})"),
            None => String::new(),
        };
        let (code, what) = match (remote.state, how) {
            // The exit code of a shell if the command does not exist.
            (State::Dialed(_), Some(Ending::Code(126 | 127))) => (
                78,
                format!("cannot run {launcher} on host {name}{last}; set its path there with ++remote-charmrun{all}"),
            ),
            (State::Dialed(_), None) => (PEER, format!("host {name} has not answered{last}{all}")),
            (State::Dialed(_), _) => (PEER, format!("cannot reach host {name}{last}{ended}{all}")),
            _ => (PEER, format!("host {name} is lost{last}{ended}{all}")),
        };
        self.fail_host(number, code, what);
    }

    /// The job has failed on another host, from which nothing more is expected.
    fn fail_host(&mut self, number: u32, code: u8, what: String) {
        let first = self.layout.pes_of_host(number).start;
        let ranks = self.layout.processes_of(number);
        let Some(remote) = self.remotes.get_mut(number as usize).and_then(Option::as_mut) else { return };
        let (host, pid) = (remote.name().to_owned(), std::process::id());
        remote.leave(&self.here);
        ranks.for_each(|rank| self.processes[rank as usize].runs = false);
        if self.finishing.is_none() {
            self.fail(Cause { code, pe: Some(Pe(first)), pid, host, what });
        }
    }

    /// Sends a signal to everything on other hosts. A host whose agent has not answered yet is not started at all.
    pub(crate) fn signal_others(&mut self, signal: Signal) {
        for remote in self.remotes.iter_mut().flatten() {
            let ends = [Signal::KILL, Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT].contains(&signal);
            if ends && matches!(remote.state, State::Waiting | State::Dialed(_)) {
                remote.leave(&self.here);
            }
            remote.send(&ToAgent::Signal(number(signal)));
        }
    }

    /// Writes the pending frames to agents: among them the acknowledgement of their output, unless our own output is stuck.
    pub(crate) fn write_lines(&mut self) {
        let full = (0..2).any(|which| self.outputs.is_full(which));
        for remote in self.remotes.iter_mut().flatten() {
            if !full && remote.taken >= WINDOW / 4 {
                let taken = std::mem::take(&mut remote.taken);
                remote.send(&ToAgent::Taken(u32::try_from(taken).expect("less than the window")));
            }
            if let Some(line) = &mut remote.line {
                line.flush();
                line.wait_for_room(self.here.epoll(), token(What::Sink, 0));
            }
        }
    }

    /// Pings every agent.
    pub(crate) fn ping_others(&mut self, n: u32) {
        self.others().for_each(|remote| remote.send(&ToAgent::Ping(n)));
    }

    /// When [`Job::check_others`] has something to do without an event.
    pub(crate) fn others_deadline(&self) -> Option<Instant> {
        let liveness = !self.options.no_liveness && self.layout.hosts() > 1;
        let of = |remote: &RemoteHost| match remote.state {
            _ if remote.closed.is_some() => remote.closed.map(|at| at + REASON),
            State::Dialed(at) => Some(at + hello(&self.options)),
            State::Ordered(_) | State::Runs if liveness => Some(remote.heard + SILENCE),
            _ => None,
        };
        self.remotes.iter().flatten().filter(|remote| remote.state != State::Gone).filter_map(of).min()
    }

    /// Whether a process's host is silent itself, so that the process's silence means nothing.
    pub(crate) fn host_is_silent(&mut self, rank: u32) -> bool {
        self.remote_of(rank).is_some_and(|remote| remote.heard.elapsed() > HUSHED)
    }

    /// Gives up hosts that have been silent for too long.
    pub(crate) fn check_others(&mut self, now: Instant) {
        let (liveness, hello) = (!self.options.no_liveness, hello(&self.options));
        for number in 0..u32::try_from(self.remotes.len()).expect("hosts are counted in 32 bits") {
            let Some(remote) = self.remote(number) else { continue };
            let silent = liveness && remote.has_agent() && now >= remote.heard + SILENCE;
            let late = matches!(remote.state, State::Dialed(at) if now >= at + hello);
            if remote.state == State::Gone {
                continue;
            } else if silent {
                let what =
                    format!("host {} is lost: nothing was received from it for {} s", remote.name(), SILENCE.as_secs());
                self.fail_host(number, PEER, what);
            } else if late || remote.closed.is_some_and(|at| now >= at + REASON) {
                self.lose(number, None);
            }
        }
    }

    /// The launcher was suspended: that it received nothing means nothing.
    pub(crate) fn hear_again(&mut self) {
        self.others().for_each(|remote| remote.heard = Instant::now());
    }

    /// Whether nothing is expected of any other host.
    pub(crate) fn others_are_gone(&self) -> bool {
        self.remotes.iter().flatten().all(|remote| remote.state == State::Gone)
    }

    /// Forgets them all.
    pub(crate) fn leave_others(&mut self) {
        for remote in self.remotes.iter_mut().flatten() {
            remote.leave(&self.here);
        }
    }
}
