//! The processes of a job that run on this host: starts them, carries packets to and from them, reads what they print, and
//! reaps them; and the loop around it. A launcher serves those of its own host with it, an agent of a launcher's those of another. Knows
//! nothing of the job: what happens goes to the [`Owner`], which decides.
//!
//! Every round handles, in this order, what processes say on their channels, who has died, and what was printed: so
//! a process's own words about its failure come before its death, and the message about either before the
//! output that followed.

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

/// How long the kernel may take to end what was killed.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(1);

/// Descriptors that a process costs its launcher or agent, those that it shares not counted; and another host its launcher.
const FDS_EACH: u64 = 4;

/// How many guardians may follow the first one.
const GUARDIANS: u32 = 10;

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// To a process of the job, by its rank.
    Process(u32, News),
    /// This process was sent a signal.
    Signal(i32),
    /// A command that was started beside them has ended.
    Command(Pid, Death),
}

/// What happened to a process of the job.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// It was started, and this is its number.
    Started(u32),
    /// It says something.
    Said(ToLauncher),
    /// It cannot be understood, for this reason, with the exit status for it.
    Broke(u8, String),
    /// Its channel closed.
    LineLost,
    /// It has ended. All that it said came before.
    Died(Death),
}

/// Whom the loop serves.
pub(crate) trait Owner {
    fn here(&mut self) -> &mut LocalProcesses;
    fn on_event(&mut self, event: Event);
    /// There may be something to read: what a process has printed, or what the owner itself listens to.
    fn on_ready(&mut self, what: What, number: u32);
    /// A new round begins: the last chance to write before the loop waits.
    fn before_waiting(&mut self);
    /// When [`Owner::on_time`] has something to do though nothing happens.
    fn deadline(&self) -> Option<Instant>;
    fn on_time(&mut self);
    fn is_over(&self) -> bool;
}

/// The loop, until it is over.
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

/// Gives the owner what has happened.
pub(crate) fn hand_over(owner: &mut impl Owner) {
    while let Some(event) = owner.here().events.pop_front() {
        owner.on_event(event);
    }
}

/// What a descriptor of the loop is. Events are handled in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Channel = 0,
    /// The line between a launcher and an agent.
    Line = 1,
    Signals = 2,
    Sink = 3,
    /// What a remote shell says for itself.
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
    /// Who it is, and the leader of its group too; `None`: it has been reaped.
    leader: Option<Identity>,
    channel: Option<Channel>,
    /// What does not fit into its channel now.
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
    /// Those that belong here, in order.
    ranks: Range<u32>,
    children: Vec<Child>,
    commands: Vec<Identity>,
    guardian: Option<Guardian>,
    /// So many more there may be.
    guardians: u32,
    agent: bool,
    epoll: OwnedFd,
    caller: Caller,
    /// Of all that was started here, which is where what they have started may be found.
    sessions: HashSet<Pid>,
    sharing: Sharing,
    events: VecDeque<Event>,
    /// Descriptors on their way hit the kernel's limit: try again then.
    retry_at: Option<Instant>,
    packet: Vec<u8>,
}

impl LocalProcesses {
    /// A place for these processes. `agent`: it is an agent's, which is ended if it stands still.
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

    /// Makes room for the descriptors of all processes here, and of the lines to so many hosts.
    pub(crate) fn make_room(&self, hosts: usize) -> Result<(), LaunchError> {
        self.caller.make_room((self.ranks.len() + hosts) as u64 * FDS_EACH + 32)
    }

    /// Where the loop listens: the owner may have it listen to more.
    pub(crate) fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    pub(crate) fn signals_fd(&self) -> BorrowedFd<'_> {
        self.caller.signals.fd().as_fd()
    }

    pub(crate) fn signals(&mut self) -> &mut Signals {
        &mut self.caller.signals
    }

    /// Starts them all, and welcomes each as the first of them would be. The job's first process reads our standard input, if
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

    /// Starts another command, which reads what we write, and is nobody's process of the job.
    pub(crate) fn start_command(&mut self, program: &mut Program) -> Result<Started, LaunchError> {
        let guardian = self.guardian.as_ref().map(Guardian::pipe);
        let started = program.start(self.caller.mark(), None, guardian, Reads::Us)?;
        self.sessions.insert(started.leader.pid);
        self.commands.push(started.leader);
        Ok(started)
    }

    /// Kills it, with what it has started.
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

    /// What a packet means. What is shared with processes of this host is seen to here.
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
            // Closing it takes it out of the epoll too, but a stale event must not name a new descriptor.
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
                // The process is gone or going: its death says how.
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

    /// Sends what the kernel could not take, when it is time.
    fn retry(&mut self) {
        if self.retry_at.is_some_and(|at| at <= Instant::now()) {
            self.retry_at = None;
            self.ranks.clone().for_each(|rank| self.flush_outbox(rank));
        }
    }

    // Output.

    /// Reads once what a process has printed: how many bytes; 0: its end, after which there is nothing.
    pub(crate) fn read(&mut self, rank: u32, which: usize, buf: &mut [u8]) -> Option<usize> {
        let child = self.children.get_mut(rank.checked_sub(self.ranks.start)? as usize)?;
        let stream = child.streams[which].as_ref()?;
        match rustix::io::retry_on_intr(|| rustix::io::read(&stream.fd, &mut *buf)) {
            Ok(n) if n > 0 => Some(n),
            Err(Errno::AGAIN) => None,
            // Its end, or an error, which no pipe has.
            _ => {
                let _ = epoll::delete(&self.epoll, &stream.fd);
                child.streams[which] = None;
                Some(0)
            }
        }
    }

    /// Whether to listen to what processes print on one of their streams.
    pub(crate) fn hear(&mut self, which: usize, on: bool) {
        for (rank, child) in self.ranks.clone().zip(&mut self.children) {
            let Some(stream) = &mut child.streams[which] else { continue };
            if stream.heard != on {
                let changed = if on {
                    epoll::add(&self.epoll, &stream.fd, token(STREAMS[which], rank), EventFlags::IN)
                } else {
                    epoll::delete(&self.epoll, &stream.fd)
                };
                // Nothing can be done about it but to try again.
                stream.heard = if changed.is_ok() { on } else { !on };
            }
        }
    }

    /// Those that belong here.
    pub(crate) fn ranks(&self) -> Range<u32> {
        self.ranks.clone()
    }

    // Signals.

    /// To every process and what it has started.
    pub(crate) fn signal_all(&self, signal: Signal) {
        for leader in self.children.iter().filter_map(|child| child.leader) {
            let _ = kill_process_group(leader.pid, signal);
        }
    }

    /// To one process and what it has started.
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
    // A little later rather than a little earlier: a deadline that has not quite come would be waited for in rounds.
    let duration = duration + Duration::from_micros(50);
    rustix::event::Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
