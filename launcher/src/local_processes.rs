//! The processes of a job on this host: starts them, carries packets to and from them, reads their output, and reaps them; and the loop around this.
//! A launcher serves the processes of its own host with it, an agent those of another host. Knows nothing of the job: events go to the [`Owner`],
//! which decides.
//!
//! Every round handles, in this order, messages on the processes' channels, deaths, and output: so a process's own report of its failure comes before
//! its death, and the message about either before the output that followed.

mod deaths;

use std::collections::{HashSet, VecDeque};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use charm4rs_bootstrap::channel::{Channel, Packet};
use charm4rs_bootstrap::wire::{self, PACKET_MAX, ToLauncher, ToProcess, Welcome, WireError};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::board::{Answer, BoardError};
use crate::caller::Caller;
use crate::error::LaunchError;
use crate::guardian::Guardian;
use crate::processes::Identity;
use crate::program::Program;
use crate::sharing::Sharing;
use crate::signals::Signals;
use crate::sys::{Death, Reads, Started};

/// How long the kernel may take to end killed processes.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(1);

/// Descriptors that a process costs its launcher or agent, without those that it shares; and that another host costs its launcher.
const FDS_EACH: u64 = 4;

/// How many times a guardian may be replaced.
const GUARDIANS: u32 = 10;

/// An event.
#[derive(Debug)]
pub(crate) enum Event {
    /// Of a process of the job, by its rank.
    Process(u32, News),
    /// This process received a signal.
    Signal(i32),
    /// A command that was started beside them has ended.
    Command(Pid, Death),
}

/// An event of a process of the job.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// It was started with this process number.
    Started(u32),
    /// It sent a message.
    Said(ToLauncher),
    /// It broke the protocol: the exit status, and the reason.
    Broke(u8, String),
    /// Its channel closed.
    LineLost,
    /// It has ended. All its messages came before.
    Died(Death),
}

/// The user of the loop.
pub(crate) trait Owner {
    fn here(&mut self) -> &mut LocalProcesses;
    fn on_event(&mut self, event: Event);
    /// There may be something to read: output of a process, or a descriptor that the owner itself listens to.
    fn on_ready(&mut self, what: What, number: u32);
    /// A new round begins: the last chance to write before the loop waits.
    fn before_waiting(&mut self);
    /// When [`Owner::on_time`] has something to do without an event.
    fn deadline(&self) -> Option<Instant>;
    fn on_time(&mut self);
    fn is_over(&self) -> bool;
}

/// Runs the loop until it is over.
pub(crate) fn serve(owner: &mut impl Owner) {
    let mut ready = Vec::with_capacity(256);
    while !owner.is_over() {
        owner.before_waiting();
        let deadline = [owner.here().retry_at, owner.deadline()].into_iter().flatten().min();
        owner.here().wait(deadline, &mut ready);
        for event in &ready {
            let data = event.data.u64();
            let number = u32::try_from(data & 0xffff_ffff).expect("masked");
            match What::of(data) {
                What::Channel => owner.here().on_channel(number),
                What::Signals => owner.here().on_signals(),
                what => owner.on_ready(what, number),
            }
            hand_over(owner);
        }
        owner.here().retry();
        owner.on_time();
    }
}

/// Gives the pending events to the owner.
pub(crate) fn hand_over(owner: &mut impl Owner) {
    while let Some(event) = owner.here().events.pop_front() {
        owner.on_event(event);
    }
}

/// What a descriptor of the loop is. Events are handled in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Channel = 0,
    /// The connection between a launcher and an agent.
    Line = 1,
    Signals = 2,
    Sink = 3,
    /// The standard error of a remote shell.
    Words = 4,
    Stdout = 5,
    Stderr = 6,
}

impl What {
    const ALL: [Self; 7] =
        [Self::Channel, Self::Line, Self::Signals, Self::Sink, Self::Words, Self::Stdout, Self::Stderr];

    fn of(data: u64) -> Self {
        Self::ALL.into_iter().find(|what| *what as u64 == data >> 32).expect("made by `token`")
    }
}

/// A process's two streams, in the order of their numbers.
pub(crate) const STREAMS: [What; 2] = [What::Stdout, What::Stderr];

pub(crate) fn token(what: What, number: u32) -> EventData {
    EventData::new_u64(((what as u64) << 32) | u64::from(number))
}

#[derive(Debug)]
struct Child {
    /// The process, which is also the leader of its group; `None`: it has been reaped.
    leader: Option<Identity>,
    channel: Option<Channel>,
    /// Packets that do not fit into its channel now.
    outbox: VecDeque<Answer>,
    /// The loop waits for room in its channel.
    outbox_heard: bool,
    streams: [Option<Stream>; 2],
}

#[derive(Debug)]
struct Stream {
    fd: OwnedFd,
    /// The loop listens to it.
    heard: bool,
}

/// See the [module's text](self).
#[derive(Debug)]
pub(crate) struct LocalProcesses {
    /// The ranks of this host, in order.
    ranks: Range<u32>,
    children: Vec<Child>,
    commands: Vec<Identity>,
    guardian: Option<Guardian>,
    /// How many more guardians may be started.
    guardians: u32,
    agent: bool,
    epoll: OwnedFd,
    caller: Caller,
    /// The sessions of all processes started here, which is where their descendants may be found.
    sessions: HashSet<Pid>,
    sharing: Sharing,
    events: VecDeque<Event>,
    /// Descriptors in flight have reached the kernel's limit: when to try again.
    retry_at: Option<Instant>,
    packet: Vec<u8>,
}

impl LocalProcesses {
    /// The state for these processes. `agent`: it belongs to an agent, which the guardian ends if it is stopped.
    pub(crate) fn new(ranks: Range<u32>, agent: bool) -> Result<Self, LaunchError> {
        let system = |call| move |e: Errno| LaunchError::system(call)(e.into());
        let caller = Caller::new()?;
        let guardian = Guardian::start(caller.mark(), agent).map_err(LaunchError::system("fork"))?;
        caller.adopt()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system("epoll_create1"))?;
        let signals = caller.signals.fd();
        epoll::add(&epoll, signals, token(What::Signals, 0), EventFlags::IN).map_err(system("epoll_ctl"))?;
        Ok(Self {
            sharing: Sharing::new(ranks.clone()),
            ranks,
            children: Vec::new(),
            commands: Vec::new(),
            guardian: Some(guardian),
            guardians: GUARDIANS,
            agent,
            epoll,
            caller,
            sessions: HashSet::new(),
            events: VecDeque::new(),
            retry_at: None,
            packet: vec![0; PACKET_MAX],
        })
    }

    /// Makes room for the descriptors of all processes here, and of the connections to so many hosts.
    pub(crate) fn make_room(&self, hosts: usize) -> Result<(), LaunchError> {
        self.caller.make_room((self.ranks.len() + hosts) as u64 * FDS_EACH + 32)
    }

    /// The epoll of the loop: the owner may add to it.
    pub(crate) fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    pub(crate) fn signals_fd(&self) -> BorrowedFd<'_> {
        self.caller.signals.fd().as_fd()
    }

    pub(crate) fn signals(&mut self) -> &mut Signals {
        &mut self.caller.signals
    }

    /// Starts all processes; each gets a welcome, derived from that of the first. The job's first process reads the launcher's standard input, if
    /// `reads`.
    pub(crate) fn start(&mut self, program: &mut Program, welcome: &Welcome, reads: bool) -> Result<(), LaunchError> {
        for rank in self.ranks.clone() {
            let (channel, theirs) = Channel::pair().map_err(LaunchError::system("socketpair"))?;
            let reads = if reads && rank == 0 { Reads::Ours } else { Reads::Nothing };
            let guardian = self.guardian.as_ref().map(Guardian::pipe);
            let started = program.start(self.caller.mark(), Some(theirs.as_fd()), guardian, reads)?;
            drop(theirs);
            self.sessions.insert(started.leader.pid);
            let number = started.leader.pid.as_raw_nonzero().get().unsigned_abs();
            let stream = |fd| Some(Stream { fd, heard: false });
            self.children.push(Child {
                leader: Some(started.leader),
                channel: Some(channel),
                outbox: VecDeque::new(),
                outbox_heard: false,
                streams: [stream(started.stdout.into()), stream(started.stderr.into())],
            });
            let welcome = Welcome { rank, group: number, ..welcome.clone() };
            self.listen_to(rank).map_err(LaunchError::system("epoll_ctl"))?;
            self.events.push_back(Event::Process(rank, News::Started(number)));
            self.send(Answer::new(rank, &ToProcess::Welcome(Box::new(welcome))));
        }
        Ok(())
    }

    /// Starts another command, whose standard input we write, and which is not a process of the job.
    pub(crate) fn start_command(&mut self, program: &mut Program) -> Result<Started, LaunchError> {
        let guardian = self.guardian.as_ref().map(Guardian::pipe);
        let started = program.start(self.caller.mark(), None, guardian, Reads::Us)?;
        self.sessions.insert(started.leader.pid);
        self.commands.push(started.leader);
        Ok(started)
    }

    /// Kills a command with its descendants.
    pub(crate) fn kill_command(&self, command: Pid) {
        if self.commands.iter().any(|leader| leader.pid == command) {
            let _ = kill_process_group(command, Signal::KILL);
        }
    }

    fn child(&mut self, rank: u32) -> Option<&mut Child> {
        self.children.get_mut(rank.checked_sub(self.ranks.start)? as usize)
    }

    fn listen_to(&mut self, rank: u32) -> io::Result<()> {
        let process = &mut self.children[(rank - self.ranks.start) as usize];
        if let Some(channel) = &process.channel {
            channel.set_nonblocking()?;
            epoll::add(&self.epoll, channel, token(What::Channel, rank), EventFlags::IN)?;
        }
        for (stream, what) in process.streams.iter_mut().zip(STREAMS) {
            if let Some(stream) = stream {
                rustix::io::ioctl_fionbio(&stream.fd, true)?;
                epoll::add(&self.epoll, &stream.fd, token(what, rank), EventFlags::IN)?;
                stream.heard = true;
            }
        }
        Ok(())
    }

    fn wait(&mut self, deadline: Option<Instant>, ready: &mut Vec<epoll::Event>) {
        let timeout = deadline.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        ready.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(ready), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("epoll_wait on descriptors of our own: {error}"),
        }
        ready.sort_unstable_by_key(|event: &epoll::Event| event.data.u64());
    }

    // Packets.

    fn tell(&mut self, rank: u32, news: News) {
        self.events.push_back(Event::Process(rank, news));
    }

    fn on_channel(&mut self, rank: u32) {
        self.flush_outbox(rank);
        loop {
            let mut buf = std::mem::take(&mut self.packet);
            let got = self.child(rank).and_then(|child| child.channel.as_ref()).map(|channel| channel.recv(&mut buf));
            let message = match &got {
                Some(Ok(packet)) if packet.len > 0 => {
                    Some(ToLauncher::decode(buf.get(..packet.len).unwrap_or_default()))
                }
                _ => None,
            };
            self.packet = buf;
            let news = match (got, message) {
                (None, _) => return,
                (Some(Err(error)), _) if error.kind() == io::ErrorKind::WouldBlock => return,
                (Some(Ok(packet)), Some(message)) => self.understood(rank, packet, message),
                _ => return self.lose_line(rank),
            };
            let broke = matches!(news, News::Broke(..));
            self.tell(rank, news);
            if broke {
                return;
            }
        }
    }

    /// Interprets a packet. Handles here what processes of this host share.
    fn understood(&mut self, rank: u32, packet: Packet, message: Result<ToLauncher, WireError>) -> News {
        let message = match message {
            Ok(message) => message,
            Err(WireError::Version(theirs)) => {
                let ours = wire::VERSION;
                let what = format!(
                    "the program speaks version {theirs} of the launcher's protocol, this charmrun version {ours}"
                );
                return News::Broke(76, what);
            }
            Err(error) => return News::Broke(76, format!("process {rank} broke the launcher's protocol: {error}")),
        };
        if packet.cut {
            let what = format!("out of file descriptors: {} and more needed; raise ulimit -n", packet.fds.len());
            return News::Broke(71, what);
        }
        let answers = match &message {
            ToLauncher::Share { count, more } if usize::from(*count) == packet.fds.len() => {
                self.sharing.share(rank, packet.fds, *more)
            }
            ToLauncher::Share { .. } => Err(BoardError::Descriptors),
            _ => Ok(Vec::new()),
        };
        match answers {
            Ok(answers) => answers.into_iter().for_each(|answer| self.send(answer)),
            Err(error) => return News::Broke(error.code(), format!("process {rank}: {error}")),
        }
        News::Said(message)
    }

    fn lose_line(&mut self, rank: u32) {
        let Some(child) = self.child(rank) else { return };
        child.outbox.clear();
        if let Some(channel) = child.channel.take() {
            // Closing it removes it from the epoll too, but a stale event must not refer to a new descriptor.
            let _ = epoll::delete(&self.epoll, &channel);
        }
        self.tell(rank, News::LineLost);
    }

    /// Sends a packet to a process of this host, now or when there is room.
    pub(crate) fn send(&mut self, answer: Answer) {
        let rank = answer.to;
        let Some(process) = self.child(rank).filter(|p| p.channel.is_some()) else { return };
        process.outbox.push_back(answer);
        if process.outbox.len() == 1 {
            self.flush_outbox(rank);
        }
    }

    fn flush_outbox(&mut self, rank: u32) {
        let mut retry_at = self.retry_at;
        let Some(process) = self.child(rank) else { return };
        let Some(channel) = &process.channel else { return };
        while let Some(answer) = process.outbox.front() {
            let fds: Vec<_> = answer.fds.iter().map(|fd| fd.as_fd()).collect();
            match channel.send(&answer.packet, &fds) {
                Ok(()) => _ = process.outbox.pop_front(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => {
                    retry_at = Some(Instant::now() + Duration::from_millis(2));
                    break;
                }
                // The process is gone or ending: its death tells how.
                Err(_) => process.outbox.clear(),
            }
        }
        let wants = !process.outbox.is_empty() && retry_at.is_none();
        self.retry_at = retry_at;
        let process = &mut self.children[(rank - self.ranks.start) as usize];
        if let (Some(channel), true) = (&process.channel, wants != process.outbox_heard) {
            let flags = if wants { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            process.outbox_heard =
                epoll::modify(&self.epoll, channel, token(What::Channel, rank), flags).is_ok() == wants;
        }
    }

    /// Sends what the kernel refused before, when it is time.
    fn retry(&mut self) {
        if self.retry_at.is_some_and(|at| at <= Instant::now()) {
            self.retry_at = None;
            self.ranks.clone().for_each(|rank| self.flush_outbox(rank));
        }
    }

    // Output.

    /// Reads once from the output of a process: returns the number of bytes; 0 at its end; `None` if there is nothing.
    pub(crate) fn read(&mut self, rank: u32, which: usize, buf: &mut [u8]) -> Option<usize> {
        let child = self.children.get_mut(rank.checked_sub(self.ranks.start)? as usize)?;
        let stream = child.streams[which].as_ref()?;
        match rustix::io::retry_on_intr(|| rustix::io::read(&stream.fd, &mut *buf)) {
            Ok(n) if n > 0 => Some(n),
            Err(Errno::AGAIN) => None,
            // Its end, or an error, which a pipe does not have.
            _ => {
                let _ = epoll::delete(&self.epoll, &stream.fd);
                child.streams[which] = None;
                Some(0)
            }
        }
    }

    /// Sets whether the loop listens to one of the output streams of the processes.
    pub(crate) fn hear(&mut self, which: usize, on: bool) {
        for (rank, child) in self.ranks.clone().zip(&mut self.children) {
            let Some(stream) = &mut child.streams[which] else { continue };
            if stream.heard != on {
                let changed = if on {
                    epoll::add(&self.epoll, &stream.fd, token(STREAMS[which], rank), EventFlags::IN)
                } else {
                    epoll::delete(&self.epoll, &stream.fd)
                };
                // The only remedy is to try again.
                stream.heard = if changed.is_ok() { on } else { !on };
            }
        }
    }

    /// The ranks of this host.
    pub(crate) fn ranks(&self) -> Range<u32> {
        self.ranks.clone()
    }

    // Signals.

    /// Sends a signal to every process and its descendants.
    pub(crate) fn signal_all(&self, signal: Signal) {
        for leader in self.children.iter().filter_map(|child| child.leader) {
            let _ = kill_process_group(leader.pid, signal);
        }
    }

    /// Sends a signal to one process and its descendants.
    pub(crate) fn signal(&mut self, rank: u32, signal: Signal) {
        if let Some(leader) = self.child(rank).and_then(|child| child.leader) {
            let _ = kill_process_group(leader.pid, signal);
        }
    }

    fn on_signals(&mut self) {
        let mut ended = false;
        while let Some(signal) = self.caller.signals.next() {
            if signal == libc::SIGCHLD {
                ended = true;
            } else {
                self.events.push_back(Event::Signal(signal));
            }
        }
        if ended {
            self.on_deaths();
        }
    }
}

fn timespec(duration: Duration) -> rustix::event::Timespec {
    // Slightly later rather than slightly earlier: otherwise the loop would spin until the deadline.
    let duration = duration + Duration::from_micros(50);
    rustix::event::Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
