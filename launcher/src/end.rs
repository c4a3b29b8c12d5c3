//! How a job ends, and its cause.
//!
//! There is one *cause*: the first failure, printed at once, whose code is the job's exit status. Consequences of it are not reported. Two cases
//! complicate "first". When a process dies, its connections close before the kernel notifies its parent, so another process may report a lost peer
//! before the launcher knows of the death: such a report is only a *suspicion*, and becomes the cause if no better one appears within a moment. And a
//! process that ends with 0 in the middle of a job may be the last or the only one: it becomes the cause if the others do not end as well.
//!
//! Once there is a cause, every process group is killed, with these exceptions. If the job hangs, the process that detected it has reported what its
//! own PEs do, and waits; the launcher asks the other processes for the same report and prints what has arrived after a moment below the cause. A
//! signal from the user is a cause too, but the processes are told first, and killed if they do not end in time; except if it is a SIGINT and a
//! process has asked for the next one: that process is at a prompt and aborts its current command. When all processes are reaped, the launcher, which
//! adopts orphans, kills what they have left behind, drains the output, and dismisses the guardian.

use std::time::{Duration, Instant};

use charm4rs_bootstrap::options::Options;
use charm4rs_bootstrap::wire::ToProcess;
use charm4rs_bootstrap::{HANGS, error_line};
use charm4rs_transport_core::Pe;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Signal, kill_process};

use crate::agent::LAST_WORDS;
use crate::board::Answer;
use crate::job::Job;
use crate::local_processes::GIVE_UP;
use crate::output::Sink;
use crate::remote_hosts::RemoteHost;
use crate::sys::{Death, Ending};

/// How long the launcher waits for a death that explains a lost peer.
const SUSPICION: Duration = Duration::from_millis(200);
/// How long the others may take to end after one process ended with 0 unannounced.
const ALONE: Duration = Duration::from_secs(2);
/// How long processes may take to end after the job has.
const GRACE: Duration = Duration::from_secs(10);
/// How long a process may run without its channel.
const LINE: Duration = Duration::from_secs(1);
/// After the user's signal: SIGTERM, then SIGKILL. Everything ends within 2 s.
const TERM: Duration = Duration::from_millis(1000);
const KILL: Duration = Duration::from_millis(1800);
/// How long processes may take to report what they do, if the job hangs.
const STACKS: Duration = Duration::from_secs(4);
/// Interval between two lines about missing processes.
const PROGRESS: Duration = Duration::from_secs(10);
/// Interval between two pings of a process.
const PING: Duration = Duration::from_secs(1);
/// Unanswered pings until a warning, and until the process is considered dead.
const SILENT: u32 = 3;
const DEAD: u32 = 5;
/// Exit status of a job that a peer or its start-up ended.
const PEER: u8 = 69;

/// Why a job failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cause {
    pub(crate) code: u8,
    pub(crate) pe: Option<Pe>,
    pub(crate) pid: u32,
    pub(crate) host: String,
    pub(crate) what: String,
}

impl Cause {
    /// A failure of a process; which of its PEs failed is not known.
    pub(crate) fn of(job: &Job, rank: u32, code: u8, what: String) -> Self {
        let pe = Some(Pe(job.layout.pes_of(rank).start));
        let host = job.host_of(rank).to_owned();
        Self { code, pe, pid: job.processes.get(rank as usize).map_or(0, |p| p.number), host, what }
    }

    /// A failure of the launcher itself.
    fn ours(job: &Job, code: u8, what: String) -> Self {
        Self { code, pe: None, pid: std::process::id(), host: job.host.clone(), what }
    }
}

/// The state of the job between its start and its end.
#[derive(Debug)]
pub(crate) struct End {
    cause: Option<Cause>,
    suspicion: Option<(Instant, Cause)>,
    /// A process ended with 0 while the job ran.
    alone: Option<(Instant, Cause)>,
    /// The exit status that the program gave the job.
    exit: Option<i32>,
    /// When all processes said that the job ended, or one of them was gone after it did.
    ending: Option<Instant>,
    /// The user's signal.
    interrupted: Option<Interrupt>,
    /// The process that receives the next SIGINT.
    interruptible: Option<u32>,
    /// The job hangs: how long to wait, and the processes that have not yet reported what their PEs do.
    stacks: Option<(Instant, Vec<u32>)>,
    killed: Option<Instant>,
    output_failed: Option<Errno>,
    output_reported: bool,
    /// The question in the error about a process that ended with 0 without joining.
    stranger: &'static str,

    started: Instant,
    joined: u32,
    progress_at: Option<Instant>,
    ping_at: Option<Instant>,
    pings: u32,
}

#[derive(Debug)]
struct Interrupt {
    at: Instant,
    terminated: bool,
}

impl End {
    pub(crate) fn new(options: &Options, stranger: &'static str) -> Self {
        let now = Instant::now();
        Self {
            cause: None,
            suspicion: None,
            alone: None,
            exit: None,
            ending: None,
            interrupted: None,
            interruptible: None,
            stacks: None,
            killed: None,
            output_failed: None,
            output_reported: false,
            stranger,
            started: now,
            joined: 0,
            progress_at: (!options.quiet).then(|| now + PROGRESS),
            ping_at: (!options.no_liveness).then(|| now + PING),
            pings: 0,
        }
    }

    pub(crate) fn a_process_joined(&mut self) {
        self.joined += 1;
    }

    /// A process receives the next SIGINT.
    pub(crate) fn interrupt_is_for(&mut self, rank: u32) {
        self.interruptible = Some(rank);
    }

    /// The job's result is decided: later events are not failures.
    fn decided(&self) -> bool {
        self.cause.is_some() || self.killed.is_some()
    }
}

impl Job {
    /// The job has failed: reports it if this is the first failure, and kills.
    pub(crate) fn fail(&mut self, cause: Cause) {
        if self.end.decided() {
            return;
        }
        self.print_cause(&cause);
        self.end.cause = Some(cause);
        self.kill();
    }

    fn print_cause(&mut self, cause: &Cause) {
        let line = error_line(cause.code, &cause.what, cause.pe, &cause.host, cause.pid);
        self.sink().say_first(&line);
        self.write_out();
    }

    /// Kills every process and its descendants.
    pub(crate) fn kill(&mut self) {
        self.end.killed.get_or_insert_with(Instant::now);
        self.signal_all(Signal::KILL);
    }

    // Reports of processes about the end.

    pub(crate) fn on_exit_said(&mut self, rank: u32, code: i32) {
        self.end.exit.get_or_insert(code);
        self.processes[rank as usize].said_exit = true;
        if self.processes.iter().all(|p| p.said_exit || !p.runs) {
            self.end.ending.get_or_insert_with(Instant::now);
        }
    }

    pub(crate) fn on_abort_said(&mut self, rank: u32, code: u8, pe: Option<Pe>, what: String) {
        self.processes[rank as usize].said_abort = true;
        let code = if code == 0 { 1 } else { code };
        let cause = Cause { pe: pe.or(Some(Pe(self.layout.pes_of(rank).start))), ..Cause::of(self, rank, code, what) };
        if code == HANGS && !self.end.decided() {
            self.hang(rank, cause);
        } else if code != PEER {
            self.fail(cause);
        } else if self.end.exit.is_none() && self.end.suspicion.is_none() {
            // After the job's end a peer may exit before another has noticed the end.
            self.end.suspicion = Some((Instant::now() + SUSPICION, cause));
        }
    }

    /// A process has detected that the job hangs: reports it, and asks the others what they do before it kills.
    fn hang(&mut self, rank: u32, cause: Cause) {
        self.print_cause(&cause);
        self.end.cause = Some(cause);
        let asked: Vec<u32> = (0..)
            .zip(&self.processes)
            .filter(|(other, p)| *other != rank && p.runs && p.line)
            .map(|(other, _)| other)
            .collect();
        for &to in &asked {
            self.send(Answer::new(to, &ToProcess::Stacks));
        }
        self.end.stacks = Some((Instant::now() + STACKS, asked));
        self.kill_if_all_is_said();
    }

    pub(crate) fn on_stacks_said(&mut self, rank: u32, text: &str) {
        let Some((_, missing)) = &mut self.end.stacks else { return };
        let Some(at) = missing.iter().position(|other| *other == rank) else { return };
        missing.swap_remove(at);
        self.sink().say(&format!("{}\n", text.trim_end()));
        self.kill_if_all_is_said();
    }

    fn kill_if_all_is_said(&mut self) {
        if self.end.stacks.as_ref().is_some_and(|(until, missing)| missing.is_empty() || *until <= Instant::now()) {
            self.end.stacks = None;
            self.kill();
        }
    }

    // Signals and deaths.

    pub(crate) fn on_signal(&mut self, signal: i32) {
        match signal {
            libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT => self.on_interrupt(signal),
            libc::SIGTSTP => {
                // A process group without a terminal ignores SIGTSTP.
                self.signal_all(Signal::STOP);
                let _ = kill_process(rustix::process::getpid(), Signal::STOP);
                // The launcher runs again, and sees the signal only in the next round.
                self.hear_again();
            }
            libc::SIGCONT => {
                self.signal_all(Signal::CONT);
                self.processes.iter_mut().for_each(|p| p.unanswered = 0);
                self.hear_again();
            }
            other => _ = Signal::from_named_raw(other).map(|signal| self.signal_all(signal)),
        }
    }

    fn on_interrupt(&mut self, number: i32) {
        if self.end.interrupted.is_some() || self.end.stacks.is_some() || self.end.killed.is_some() {
            return self.kill();
        }
        // A second SIGINT before the process has handled the first is for the job.
        let taker = self.end.interruptible.take_if(|_| number == libc::SIGINT && self.end.ending.is_none());
        if let Some(rank) = taker.filter(|rank| self.processes[*rank as usize].runs) {
            return self.signal(rank, Signal::INT);
        }
        let name = match number {
            libc::SIGINT => "SIGINT",
            libc::SIGTERM => "SIGTERM",
            libc::SIGHUP => "SIGHUP",
            _ => "SIGQUIT",
        };
        let number = u8::try_from(number).expect("signals are small");
        let cause = Cause::ours(self, 128 + number, format!("interrupted by {name}"));
        self.print_cause(&cause);
        self.end.cause = Some(cause);
        self.end.interrupted = Some(Interrupt { at: Instant::now(), terminated: false });
        for to in 0..self.layout.processes() {
            self.send(Answer::new(to, &ToProcess::Stop(number)));
        }
        if let Some(signal) = Signal::from_named_raw(number.into()) {
            self.signal_all(signal);
        }
    }

    pub(crate) fn on_death(&mut self, rank: u32, death: Death) {
        self.note(|| format!("process {rank} ended: {:?}", death.how));
        if self.end.decided() {
            return;
        }
        let process = &self.processes[rank as usize];
        let fault = process.fault;
        let before = if process.joined { "" } else { " before it joined the job" };
        match death.how {
            Ending::Signal(signal) => {
                let why = match fault {
                    Some(fault) if fault.signal == signal => fault.why(),
                    _ if signal == 9 => " (out of memory?)",
                    _ => "",
                };
                let mib = death.resident_kib_max.div_ceil(1024);
                let what = format!(
                    "process {rank} was killed by signal {signal}{why}{before}; it had up to {mib} MiB resident"
                );
                let cause = Cause::of(self, rank, 128 + signal, what);
                let pe = fault.and_then(|f| f.pe).map(Pe).or(cause.pe);
                self.fail(Cause { pe, ..cause });
            }
            // Its own report is the cause, or will be.
            Ending::Code(_) if process.said_abort => {}
            Ending::Code(code) if self.end.exit.is_some_and(|exit| code == 0 || code == status(exit)) => {
                self.end.ending.get_or_insert_with(Instant::now);
            }
            Ending::Code(0) if !process.joined => {
                let what = format!("process {rank} ended with 0{before}: {}", self.end.stranger);
                self.fail(Cause::of(self, rank, PEER, what));
            }
            Ending::Code(0) => {
                let what = format!("process {rank} ended with 0 while the job was running");
                let cause = Cause::of(self, rank, PEER, what);
                self.end.alone.get_or_insert((Instant::now() + ALONE, cause));
            }
            Ending::Code(code) => {
                let what = format!("process {rank} ended with exit code {code}{before}");
                self.fail(Cause::of(self, rank, code, what));
            }
        }
    }

    // Deadlines.

    pub(crate) fn has_ended(&self) -> bool {
        let gave_up = self.end.killed.is_some_and(|at| at.elapsed() > GIVE_UP);
        let none_runs =
            self.processes.iter().all(|p| !p.runs) && !self.remotes.iter().flatten().any(RemoteHost::begins);
        gave_up || (none_runs && (self.end.decided() || self.end.suspicion.is_none()))
    }

    /// The processes that are missing, and since when.
    fn missing(&self) -> Option<(Instant, Vec<u32>)> {
        if self.end.joined < self.layout.processes() {
            let missing = (0..).zip(&self.processes).filter(|(_, p)| !p.joined).map(|(rank, _)| rank).collect();
            return Some((self.end.started, missing));
        }
        self.board.waiting()
    }

    /// When [`Job::see_to_the_end`] has something to do without an event.
    pub(crate) fn end_deadline(&self) -> Option<Instant> {
        let end = &self.end;
        if let Some(at) = end.killed {
            return Some(at + GIVE_UP);
        }
        if let Some((until, _)) = &end.stacks {
            return Some(*until);
        }
        if end.cause.is_some() {
            return end.interrupted.as_ref().map(|i| i.at + if i.terminated { KILL } else { TERM });
        }
        let missing = self.missing();
        [
            end.suspicion.as_ref().map(|(at, _)| *at),
            end.alone.as_ref().map(|(at, _)| *at),
            end.ending.map(|at| at + GRACE),
            missing.as_ref().map(|(since, _)| *since + self.options.timeout()),
            missing.and(end.progress_at),
            self.lost_lines().map(|(_, at)| at + LINE).min(),
            end.ping_at,
            self.others_deadline(),
            self.options.timelimit.map(|limit| end.started + limit),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(crate) fn see_to_the_end(&mut self) {
        let now = Instant::now();
        self.kill_if_all_is_said();
        if let Some(interrupt) = &mut self.end.interrupted {
            if now >= interrupt.at + KILL {
                self.kill();
            } else if now >= interrupt.at + TERM && !interrupt.terminated {
                interrupt.terminated = true;
                self.signal_all(Signal::TERM);
            }
        }
        if self.end.suspicion.as_ref().is_some_and(|(at, _)| now >= *at) {
            let (_, lost) = self.end.suspicion.take().expect("just seen");
            // A process that ended in the middle is a better cause than the processes that wait for it.
            let cause = self.end.alone.take().map_or(lost, |(_, cause)| cause);
            self.fail(cause);
        }
        if self.end.alone.as_ref().is_some_and(|(at, _)| now >= *at) {
            let (_, cause) = self.end.alone.take().expect("just seen");
            self.fail(cause);
        }
        if self.end.decided() {
            return;
        }
        if self.end.ending.is_some_and(|at| now >= at + GRACE) {
            let left: Vec<_> = (0..).zip(&self.processes).filter(|(_, p)| p.runs).map(|(r, _)| r).collect();
            self.warn(&format!("{} still running {} s after the job's end", ranks(&left), GRACE.as_secs()));
            return self.kill();
        }
        if let Some(limit) = self.options.timelimit.filter(|limit| now >= self.end.started + *limit) {
            let what = format!("the job was still running after {} s (++timelimit)", limit.as_secs_f64());
            return self.fail(Cause::ours(self, 1, what));
        }
        self.check_others(now);
        self.check_start(now);
        self.check_lines(now);
        self.check_liveness(now);
    }

    fn check_start(&mut self, now: Instant) {
        let Some((since, missing)) = self.missing() else {
            self.end.progress_at = self.end.progress_at.map(|_| now + PROGRESS);
            return;
        };
        let (of, host) = (self.layout.processes(), self.hosts_of(&missing));
        if now >= since + self.options.timeout() {
            let seconds = self.options.timeout().as_secs_f64();
            let what =
                format!("not all processes joined within {seconds} s: {} of {of} missing on {host}", ranks(&missing));
            let first = missing.first().copied().unwrap_or(0);
            self.fail(Cause::of(self, first, PEER, what));
        } else if self.end.progress_at.is_some_and(|at| now >= at) {
            self.end.progress_at = Some(now + PROGRESS);
            let seconds = (now - since).as_secs();
            self.sink().say(&format!("charmrun: waiting for {} of {of} on {host} for {seconds} s\n", ranks(&missing)));
        }
    }

    /// The host names of processes, abbreviated if there are many.
    fn hosts_of(&self, ranks: &[u32]) -> String {
        let mut hosts: Vec<&str> = ranks.iter().map(|rank| self.host_of(*rank)).collect();
        hosts.dedup();
        shown(&hosts)
    }

    /// Running processes whose channel closed, and when. After the job's end this does not matter.
    fn lost_lines(&self) -> impl Iterator<Item = (u32, Instant)> {
        let matters = self.end.exit.is_none();
        (0..)
            .zip(&self.processes)
            .filter(move |(_, p)| matters && p.runs && !p.said_abort)
            .filter_map(|(rank, p)| p.line_lost.map(|at| (rank, at)))
    }

    fn check_lines(&mut self, now: Instant) {
        let lost = self.lost_lines().find(|(_, at)| now >= *at + LINE);
        if let Some((rank, _)) = lost {
            let what = format!("process {rank} closed its connection to the launcher but is still running");
            self.fail(Cause::of(self, rank, PEER, what));
        }
    }

    fn check_liveness(&mut self, now: Instant) {
        if self.end.ping_at.is_none_or(|at| now < at) {
            return;
        }
        self.end.ping_at = Some(now + PING);
        self.end.pings = self.end.pings.wrapping_add(1);
        self.ping_others(self.end.pings);
        let ping = ToProcess::Ping(self.end.pings);
        for rank in 0..self.layout.processes() {
            let Some(process) = self.processes.get_mut(rank as usize) else { return };
            if !process.joined || !process.runs || !process.line || self.host_is_silent(rank) {
                continue;
            }
            let process = &mut self.processes[rank as usize];
            process.unanswered += 1;
            let silent = process.unanswered - 1;
            if silent == DEAD {
                let what = format!(
                    "process {rank} has been unresponsive for {DEAD} s: it is stopped or gets no processor time"
                );
                return self.fail(Cause::of(self, rank, PEER, what));
            }
            if silent == SILENT {
                self.warn(&format!("process {rank} has been unresponsive for {SILENT} s"));
            }
            if silent < SILENT {
                self.send(Answer::new(rank, &ping));
            }
        }
    }

    // Output that cannot be written.

    /// Reports once that standard output is closed or fails; the job continues.
    pub(crate) fn report_closed_output(&mut self) {
        let Some(error) = self.outputs.failed().filter(|_| !self.end.output_reported) else { return };
        self.end.output_reported = true;
        if error == Errno::PIPE {
            return self.warn("standard output is closed: further output of the job is lost");
        }
        self.end.output_failed = Some(error);
        let what = format!("cannot write standard output: {}", std::io::Error::from(error));
        self.print_cause(&Cause::ours(self, 74, what));
    }

    // After the end.

    /// Kills what the job's processes have left behind, drains its output, and returns its exit status.
    pub(crate) fn finish(&mut self) -> u8 {
        self.finish_others(if self.end.killed.is_some() { GIVE_UP } else { LAST_WORDS });
        self.here.sweep();
        self.read_all();
        self.drain();
        self.here.dismiss_guardian();
        match (&self.end.cause, self.end.exit) {
            (Some(cause), _) => cause.code,
            (None, exit) if self.end.output_failed.is_none() || exit.is_some_and(|e| status(e) != 0) => {
                exit.map_or(0, status)
            }
            _ => 74,
        }
    }

    /// Waits until all output is written, unless the user interrupts.
    fn drain(&mut self) {
        while self.end.interrupted.is_none() {
            self.write_out();
            let waiting: Vec<_> = self.outputs.waiting().filter_map(Sink::waits_on).collect();
            if waiting.is_empty() {
                return;
            }
            let mut ready: Vec<_> =
                waiting.into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT)).collect();
            ready.push(PollFd::from_borrowed_fd(self.here.signals_fd(), PollFlags::IN));
            let _ = poll(&mut ready, None);
            drop(ready);
            while let Some(signal) = self.here.signals().next() {
                if let libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT = signal {
                    self.on_interrupt(signal);
                    return;
                }
            }
        }
        self.write_out();
    }
}

/// The part of an exit status that the system keeps.
fn status(code: i32) -> u8 {
    u8::try_from(code & 0xff).expect("masked")
}

/// The numbers of processes, abbreviated if there are many.
fn ranks(ranks: &[u32]) -> String {
    format!("{} {}", if ranks.len() == 1 { "process" } else { "processes" }, shown(ranks))
}

fn shown(all: &[impl ToString]) -> String {
    const SHOWN: usize = 20;
    let list = all.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if all.len() > SHOWN { format!("{list} and {} more", all.len() - SHOWN) } else { list }
}
