//! A running job: its processes, and the loop that serves them.
//!
//! Every round handles, in this order, what processes say on their channels, who has died, and what was printed: so
//! a process's own words about its failure come before its death, and the message about either before the
//! output that followed. How a job ends is `end`'s.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use charm4rs_transport::auth::{JobId, Secret};
use charm4rs_transport::bootstrap::channel::Channel;
use charm4rs_transport::bootstrap::host_name;
use charm4rs_transport::bootstrap::options::Options;
use charm4rs_transport::bootstrap::wire::{self, Fault, PACKET_MAX, ToLauncher, ToProcess, Welcome, WireError};
use charm4rs_transport::wireup::TransportKind;
use charm4rs_transport::{Layout, Pe};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit};

use crate::board::{Answer, Board, BoardError};
use crate::end::{Cause, End};
use crate::error::LaunchError;
use crate::guardian::Guardian;
use crate::output::{Sink, Source};
use crate::program::Program;
use crate::sys;

/// Descriptors that a process costs the launcher, those that it shares not counted.
const FDS_EACH: u64 = 4;
/// Bytes of one read of a process's output.
const READ: usize = 64 << 10;
/// In a job of one process, a line that has no end is shown after this time: it may be a prompt.
const PROMPT: Duration = Duration::from_millis(50);

/// Starts a job and serves it to its end. Gives its exit status. `stranger` is what to ask of a program that has not joined.
pub(crate) fn run(
    options: Options,
    name: &OsStr,
    args: &[OsString],
    stranger: &'static str,
) -> Result<u8, LaunchError> {
    let program = Program::find(name, args)?;
    let pes = options.pes.unwrap_or(1);
    let apart = matches!(
        options.transport,
        Some(TransportKind::Shm | TransportKind::Tcp | TransportKind::Ofi | TransportKind::Ucx)
    );
    let ppn = options.ppn.unwrap_or(if apart { 1 } else { pes });
    let layout = Layout::one_host(pes, ppn);
    make_room(u64::from(layout.processes()) * FDS_EACH + 32)?;
    let guardian = Guardian::start().map_err(LaunchError::system("fork"))?;
    let mut job = Job::new(options, layout, guardian, stranger)?;
    match job.start(program) {
        Ok(()) => {
            job.serve();
            Ok(job.finish())
        }
        Err(error) => {
            job.kill();
            job.serve();
            job.finish();
            Err(error)
        }
    }
}

/// Raises the limit of open files to what is needed.
fn make_room(need: u64) -> Result<(), LaunchError> {
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= need) {
        return Ok(());
    }
    if let Some(limit) = maximum.filter(|maximum| *maximum < need) {
        return Err(LaunchError::Descriptors { need, limit });
    }
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .map_err(|e| LaunchError::system("setrlimit")(e.into()))
}

/// A process as the launcher sees it.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its number, which is its group's too; `None`: it has been reaped.
    pub(crate) pid: Option<Pid>,
    /// Its number, for messages.
    pub(crate) number: u32,
    pub(crate) channel: Option<Channel>,
    /// What does not fit into its channel now.
    outbox: VecDeque<Answer>,
    /// The loop waits for room in its channel.
    outbox_heard: bool,
    streams: [Option<Stream>; 2],
    pub(crate) joined: bool,
    /// It has said that the job ended.
    pub(crate) said_exit: bool,
    /// It has said why the job must end.
    pub(crate) said_abort: bool,
    pub(crate) fault: Option<Fault>,
    /// Its channel closed then, though it lives.
    pub(crate) line_lost: Option<Instant>,
    /// Pings since it last answered.
    pub(crate) unanswered: u32,
}

#[derive(Debug)]
struct Stream {
    fd: OwnedFd,
    source: Source,
    /// The loop listens to it.
    heard: bool,
}

/// What a descriptor of the loop is. Events are handled in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Channel = 0,
    Signals = 1,
    Sink = 2,
    Stdout = 3,
    Stderr = 4,
}

fn token(what: What, rank: u32) -> EventData {
    EventData::new_u64(((what as u64) << 32) | u64::from(rank))
}

/// See the [module's text](self).
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) options: Options,
    pub(crate) layout: Layout,
    pub(crate) host: String,
    epoll: OwnedFd,
    pub(crate) signals: OwnedFd,
    pub(crate) guardian: Option<Guardian>,
    /// Standard output and standard error, or one for both if they are the same.
    pub(crate) sinks: Vec<Sink>,
    /// The loop waits for room in this sink.
    sinks_heard: [bool; 2],
    pub(crate) processes: Vec<Process>,
    pub(crate) board: Board,
    pub(crate) end: End,
    prompt_at: Option<Instant>,
    /// Descriptors on their way hit the kernel's limit: try again then.
    retry_at: Option<Instant>,
    packet: Vec<u8>,
}

impl Job {
    fn new(options: Options, layout: Layout, guardian: Guardian, stranger: &'static str) -> Result<Self, LaunchError> {
        let system = |call| move |e: Errno| LaunchError::system(call)(e.into());
        // Whatever the job's processes leave behind becomes our child, so that we can end it.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(system("prctl"))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system("epoll_create1"))?;
        let signals = sys::take_signals().map_err(LaunchError::system("signalfd"))?;
        epoll::add(&epoll, &signals, token(What::Signals, 0), EventFlags::IN).map_err(system("epoll_ctl"))?;
        let mut sinks = vec![Sink::new(io::stdout().as_fd()).map_err(LaunchError::system("standard output"))?];
        if !same(io::stdout().as_fd(), io::stderr().as_fd()) {
            sinks.push(Sink::new(io::stderr().as_fd()).map_err(LaunchError::system("standard error"))?);
        }
        // What epoll refuses never waits.
        let waits = |sink: &Sink| {
            sink.waits_on().is_some_and(|fd| {
                let added = epoll::add(&epoll, fd, token(What::Sink, 0), EventFlags::empty());
                added.and_then(|()| epoll::delete(&epoll, fd)).is_ok()
            })
        };
        let sinks = sinks.into_iter().map(|sink| if waits(&sink) { sink } else { sink.never_waits() }).collect();
        Ok(Self {
            board: Board::new(layout.processes()),
            end: End::new(&options, stranger),
            options,
            layout,
            host: host_name(),
            epoll,
            signals,
            guardian: Some(guardian),
            sinks,
            sinks_heard: [false; 2],
            processes: Vec::new(),
            prompt_at: None,
            retry_at: None,
            packet: vec![0; PACKET_MAX],
        })
    }

    fn start(&mut self, mut program: Program) -> Result<(), LaunchError> {
        let secret = Secret::random().map_err(|_| LaunchError::system("getrandom")(io::Error::last_os_error()))?;
        let [a, b, c, d, e, f, g, h, ..] = secret.derive("launcher job id");
        let job = JobId([a, b, c, d, e, f, g, h]);
        let options = self.options.to_pairs();
        for rank in 0..self.layout.processes() {
            let (channel, theirs) = Channel::pair().map_err(LaunchError::system("socketpair"))?;
            let guardian = self.guardian.as_ref().expect("there until the end");
            let started = program.start(theirs.as_fd(), guardian.pipe(), rank == 0)?;
            drop(theirs);
            let number = u32::try_from(started.pid.as_raw_nonzero().get()).expect("process numbers are positive");
            let stream = |fd| Some(Stream { fd, source: Source::new(rank, self.options.prefix_output), heard: false });
            self.processes.push(Process {
                pid: Some(started.pid),
                number,
                channel: Some(channel),
                outbox: VecDeque::new(),
                outbox_heard: false,
                streams: [stream(started.stdout.into()), stream(started.stderr.into())],
                joined: false,
                said_exit: false,
                said_abort: false,
                fault: None,
                line_lost: None,
                unanswered: 0,
            });
            let welcome = Welcome {
                rank,
                job,
                secret: secret.clone(),
                group: number,
                layout: self.layout.clone(),
                options: options.clone(),
            };
            self.listen_to(rank).map_err(LaunchError::system("epoll_ctl"))?;
            let packet = ToProcess::Welcome(Box::new(welcome)).encode();
            self.send(Answer { to: rank, packet: packet.into(), fds: Vec::new() });
            self.note(|| format!("process {rank} is {number}"));
        }
        Ok(())
    }

    fn listen_to(&mut self, rank: u32) -> io::Result<()> {
        let process = &mut self.processes[rank as usize];
        if let Some(channel) = &process.channel {
            channel.set_nonblocking()?;
            epoll::add(&self.epoll, channel, token(What::Channel, rank), EventFlags::IN)?;
        }
        for (stream, what) in process.streams.iter_mut().zip([What::Stdout, What::Stderr]) {
            if let Some(stream) = stream {
                rustix::io::ioctl_fionbio(&stream.fd, true)?;
                epoll::add(&self.epoll, &stream.fd, token(what, rank), EventFlags::IN)?;
                stream.heard = true;
            }
        }
        Ok(())
    }

    /// The loop, until every process has been reaped.
    fn serve(&mut self) {
        let mut events = Vec::with_capacity(256);
        while !self.is_over() {
            self.write_out();
            let timeout = self.next_deadline().map(|at| timespec(at.saturating_duration_since(Instant::now())));
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => panic!("epoll_wait on descriptors of our own: {error}"),
            }
            events.sort_unstable_by_key(|event: &epoll::Event| event.data.u64());
            for event in &events {
                let data = event.data.u64();
                let rank = u32::try_from(data & 0xffff_ffff).expect("masked");
                match data >> 32 {
                    0 => self.on_channel(rank),
                    1 => self.on_signals(),
                    3 => _ = self.read_stream(rank, 0),
                    4 => _ = self.read_stream(rank, 1),
                    // A sink with room: it is written to in the next round anyway.
                    _ => {}
                }
            }
            if self.retry_at.is_some_and(|at| at <= Instant::now()) {
                self.retry_at = None;
                (0..self.layout.processes()).for_each(|rank| self.flush_outbox(rank));
            }
            if self.prompt_at.is_some_and(|at| at <= Instant::now()) {
                self.prompt_at = None;
                self.flush_sources();
            }
            self.on_time();
        }
    }

    /// When the loop must go round though nothing happens.
    fn next_deadline(&self) -> Option<Instant> {
        [self.retry_at, self.prompt_at, self.deadline()].into_iter().flatten().min()
    }

    // What processes say.

    pub(crate) fn on_channel(&mut self, rank: u32) {
        self.flush_outbox(rank);
        loop {
            let Some(channel) = self.processes.get(rank as usize).and_then(|p| p.channel.as_ref()) else { return };
            let mut buf = std::mem::take(&mut self.packet);
            let got = channel.recv(&mut buf);
            let message = match &got {
                Ok(packet) => Some(ToLauncher::decode(buf.get(..packet.len).unwrap_or_default())),
                Err(_) => None,
            };
            self.packet = buf;
            match (got, message) {
                (Err(error), _) if error.kind() == io::ErrorKind::WouldBlock => return,
                (Ok(packet), _) if packet.len == 0 => return self.lose_line(rank),
                (Ok(packet), Some(Ok(message))) if !packet.cut => self.on_message(rank, message, packet.fds),
                (Ok(packet), Some(Ok(_))) => {
                    let what =
                        format!("out of file descriptors: {} and more needed; raise ulimit -n", packet.fds.len());
                    self.fail(Cause::of(self, rank, 71, what));
                }
                (Ok(_), Some(Err(error))) => {
                    let what = match error {
                        WireError::Version(theirs) => format!(
                            "the program speaks version {theirs} of the launcher's protocol, this charmrun version {}",
                            wire::VERSION
                        ),
                        error => format!("process {rank} broke the launcher's protocol: {error}"),
                    };
                    return self.fail(Cause::of(self, rank, 76, what));
                }
                (Err(_) | Ok(_), _) => return self.lose_line(rank),
            }
        }
    }

    fn lose_line(&mut self, rank: u32) {
        let process = &mut self.processes[rank as usize];
        if let Some(channel) = process.channel.take() {
            // Closing it takes it out of the epoll too, but a stale event must not name a new descriptor.
            let _ = epoll::delete(&self.epoll, &channel);
        }
        process.outbox.clear();
        process.line_lost = Some(Instant::now());
    }

    fn on_message(&mut self, rank: u32, message: ToLauncher, fds: Vec<OwnedFd>) {
        let process = &mut self.processes[rank as usize];
        let answers = match message {
            ToLauncher::Join { rank: claimed, .. } if claimed != rank || process.joined => {
                let what = format!("process {rank} joined as process {claimed}, which is taken");
                return self.fail(Cause::of(self, rank, 76, what));
            }
            ToLauncher::Join { .. } => {
                process.joined = true;
                self.end.a_process_joined();
                return;
            }
            ToLauncher::Put { key, value } => self.board.put(rank, key, value).map(|()| Vec::new()),
            ToLauncher::Get { rank: of, key } => Ok(vec![self.board.get(rank, of, &key)]),
            ToLauncher::Fence => self.board.fence(rank),
            ToLauncher::Share { count, more } if usize::from(count) == fds.len() => self.board.share(rank, fds, more),
            ToLauncher::Share { .. } => Err(BoardError::Descriptors),
            ToLauncher::Exit(code) => return self.on_exit_said(rank, code),
            ToLauncher::Abort { code, pe, what } => return self.on_abort_said(rank, code, pe.map(Pe), what),
            ToLauncher::Warning(text) => return self.warn(&text),
            ToLauncher::Fault(fault) => {
                process.fault = Some(fault);
                return;
            }
            ToLauncher::Stacks(text) => return self.on_stacks_said(rank, &text),
            ToLauncher::TakesInterrupt => return self.end.interrupt_is_for(rank),
            ToLauncher::Pong(_) => {
                process.unanswered = 0;
                return;
            }
        };
        match answers {
            Ok(answers) => answers.into_iter().for_each(|answer| self.send(answer)),
            Err(error) => self.fail(Cause::of(self, rank, error.code(), format!("process {rank}: {error}"))),
        }
    }

    pub(crate) fn send(&mut self, answer: Answer) {
        let rank = answer.to;
        let Some(process) = self.processes.get_mut(rank as usize).filter(|p| p.channel.is_some()) else { return };
        process.outbox.push_back(answer);
        if process.outbox.len() == 1 {
            self.flush_outbox(rank);
        }
    }

    fn flush_outbox(&mut self, rank: u32) {
        let Some(process) = self.processes.get_mut(rank as usize) else { return };
        let Some(channel) = &process.channel else { return };
        while let Some(answer) = process.outbox.front() {
            let fds: Vec<_> = answer.fds.iter().map(|fd| fd.as_fd()).collect();
            match channel.send(&answer.packet, &fds) {
                Ok(()) => _ = process.outbox.pop_front(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => {
                    self.retry_at = Some(Instant::now() + Duration::from_millis(2));
                    break;
                }
                // The process is gone or going: its death says how.
                Err(_) => process.outbox.clear(),
            }
        }
        let wants = !process.outbox.is_empty() && self.retry_at.is_none();
        if wants != process.outbox_heard {
            let flags = if wants { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            process.outbox_heard =
                epoll::modify(&self.epoll, channel, token(What::Channel, rank), flags).is_ok() == wants;
        }
    }

    // What processes print.

    /// Reads once; whether there may be more.
    fn read_stream(&mut self, rank: u32, which: usize) -> bool {
        let sink = which.min(self.sinks.len() - 1);
        let Some(slot) = self.processes.get_mut(rank as usize).map(|p| &mut p.streams[which]) else { return false };
        let Some(stream) = slot else { return false };
        let mut buf = [0; READ];
        match rustix::io::retry_on_intr(|| rustix::io::read(&stream.fd, &mut buf)) {
            Ok(n) if n > 0 => {
                stream.source.take(&buf[..n], &mut self.sinks[sink]);
                if stream.source.waits() && self.layout.processes() == 1 {
                    self.prompt_at = Some(Instant::now() + PROMPT);
                }
                true
            }
            Err(Errno::AGAIN) => false,
            // Its end, or an error, which no pipe has.
            _ => {
                let _ = epoll::delete(&self.epoll, &stream.fd);
                stream.source.flush(&mut self.sinks[sink]);
                *slot = None;
                false
            }
        }
    }

    /// All that was printed, when nobody prints any more.
    pub(crate) fn read_all(&mut self) {
        for rank in 0..self.layout.processes() {
            for which in 0..2 {
                while self.read_stream(rank, which) {
                    self.write_out();
                }
            }
        }
        self.flush_sources();
    }

    fn flush_sources(&mut self) {
        let last = self.sinks.len() - 1;
        for process in &mut self.processes {
            for (which, stream) in process.streams.iter_mut().enumerate() {
                if let Some(stream) = stream {
                    stream.source.flush(&mut self.sinks[which.min(last)]);
                }
            }
        }
    }

    /// Writes what can be written, and listens to whom and what this makes sense of.
    pub(crate) fn write_out(&mut self) {
        for (i, sink) in (0..).zip(&mut self.sinks) {
            sink.flush();
            let wants = !sink.is_empty();
            if let (Some(fd), true) = (sink.waits_on(), wants != self.sinks_heard[i as usize]) {
                // Taken out when nothing waits: a reader that has gone would be reported for ever.
                let changed = if wants {
                    epoll::add(&self.epoll, fd, token(What::Sink, i), EventFlags::OUT)
                } else {
                    epoll::delete(&self.epoll, fd)
                };
                self.sinks_heard[i as usize] = if changed.is_ok() { wants } else { !wants };
            }
        }
        self.report_closed_output();
        for (rank, process) in (0..).zip(&mut self.processes) {
            for (which, what) in [What::Stdout, What::Stderr].into_iter().enumerate() {
                let full = self.sinks[which.min(self.sinks.len() - 1)].is_full();
                let Some(stream) = &mut process.streams[which] else { continue };
                if stream.heard == full {
                    let changed = if full {
                        epoll::delete(&self.epoll, &stream.fd)
                    } else {
                        epoll::add(&self.epoll, &stream.fd, token(what, rank), EventFlags::IN)
                    };
                    // Nothing can be done about it but to try again.
                    stream.heard = if changed.is_ok() { !full } else { full };
                }
            }
        }
    }

    /// The launcher's own voice.
    pub(crate) fn sink(&mut self) -> &mut Sink {
        self.sinks.last_mut().expect("there is one")
    }

    pub(crate) fn warn(&mut self, text: &str) {
        if !self.options.quiet {
            self.sink().say(&format!("charmrun: warning: {}\n", text.trim_end()));
        }
    }

    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        if self.options.verbose {
            let line = format!("charmrun: {}\n", text());
            self.sink().say(&line);
        }
    }
}

fn same(a: impl AsFd, b: impl AsFd) -> bool {
    match (rustix::fs::fstat(a), rustix::fs::fstat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => false,
    }
}

fn timespec(duration: Duration) -> rustix::event::Timespec {
    // A little later rather than a little earlier: a deadline that has not quite come would be waited for in rounds.
    let duration = duration + Duration::from_micros(50);
    rustix::event::Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
