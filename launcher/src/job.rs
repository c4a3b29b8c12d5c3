//! A running job: messages and output of its processes, and their consequences. `end` decides how a job ends; `local_processes` serves the processes
//! themselves.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use charm4rs_bootstrap::host_name;
use charm4rs_bootstrap::options::Options;
use charm4rs_bootstrap::wire::{Fault, ToLauncher, Welcome};
use charm4rs_transport_core::Layout;
use charm4rs_transport_core::Pe;
use charm4rs_transport_core::TransportKind;
use charm4rs_transport_core::auth::{JobId, Secret};
use rustix::process::Signal;

use crate::board::{Answer, Board};
use crate::end::{Cause, End};
use crate::error::LaunchError;
use crate::frames::ToAgent;
use crate::local_processes::{self, Event, LocalProcesses, News, Owner, What};
use crate::nodelist::{self, Host};
use crate::output::Sink;
use crate::outputs::Outputs;
use crate::program::{Program, environment};
use crate::remote_hosts::{Orders, RemoteHost, number};
use crate::{Launch, shell};

/// Bytes of one read of a process's output.
const READ: usize = 64 << 10;
/// An unfinished line of the first process is shown after this time without output: it may be a prompt. If other processes print too, a process that
/// waits that long for a processor in the middle of a line must not be mistaken for a prompt.
const PROMPT: Duration = Duration::from_millis(50);
const PROMPT_AMONG_OTHERS: Duration = Duration::from_millis(250);

/// Runs a job to its end. Returns its exit status.
pub(crate) fn run(mut options: Options, launch: Launch) -> Result<u8, LaunchError> {
    let place = Place::of(&mut options)?;
    // The arguments of the program must agree with this number.
    options.pes = Some(place.layout.pes());
    let (pes, processes) = (place.layout.pes(), place.layout.processes());
    if launch.one_pe_each && processes < pes {
        return Err(LaunchError::OnePeEach { pes, processes });
    }
    let program = match &place.here {
        Some(_) => Some(Program::find(&launch.program, &launch.args, environment())?),
        None => None,
    };
    let mut job = Job::new(options, place, launch)?;
    match job.start(program) {
        Ok(()) => {
            local_processes::serve(&mut job);
            Ok(job.finish())
        }
        Err(error) => {
            job.kill();
            local_processes::serve(&mut job);
            job.finish();
            Err(error)
        }
    }
}

/// The hosts of a job.
struct Place {
    layout: Layout,
    /// The hosts of the nodelist that have a part in the job, by their numbers in the layout; empty without a nodelist.
    hosts: Vec<Host>,
    /// The number of this host among them.
    here: Option<u32>,
}

impl Place {
    fn of(options: &mut Options) -> Result<Self, LaunchError> {
        let Some(hosts) = Self::hosts(options)? else {
            options.provision(None)?;
            let (pes, ppn) = Self::size(options);
            return Ok(Self { layout: Layout::one_host(pes, ppn.unwrap_or(pes)), hosts: Vec::new(), here: Some(0) });
        };
        options.provision(Some(u32::try_from(hosts.len()).unwrap_or(u32::MAX)))?;
        let (pes, ppn) = Self::size(options);
        let cpus: Vec<u32> = hosts.iter().map(|host| host.cpus).collect();
        let (layout, used) = nodelist::deal(pes, ppn, &cpus);
        let hosts: Vec<Host> = used.into_iter().map(|host| hosts[host].clone()).collect();
        let here = (0..).zip(&hosts).find(|(_, host)| is_this_host(&host.name)).map(|(number, _)| number);
        Ok(Self { layout, hosts, here })
    }

    /// The number of PEs, and the maximum number of PEs in a process; `None`: no maximum.
    fn size(options: &Options) -> (u32, Option<u32>) {
        let apart = options.transport.is_some_and(|kind| kind == TransportKind::Shm || kind.is_network());
        (options.pes.unwrap_or(1), options.ppn.or(apart.then_some(1)))
    }

    /// The hosts of the nodelist; `None` without one.
    fn hosts(options: &mut Options) -> Result<Option<Vec<Host>>, LaunchError> {
        let Some(file) = options.nodelist.as_ref().filter(|_| !options.local) else {
            let others = [
                ("++nodegroup", options.nodegroup.is_some()),
                ("++numHosts", options.hosts.is_some()),
                ("++remote-shell", options.remote_shell.is_some()),
                ("++remote-charmrun", options.remote_charmrun.is_some()),
            ];
            return match others.into_iter().find(|(_, given)| *given && !options.local) {
                Some((name, _)) => Err(LaunchError::NoNodelist(name)),
                None => Ok(None),
            };
        };
        let group = options.nodegroup.as_deref().unwrap_or(nodelist::MAIN);
        let nodelist = nodelist::read(Path::new(file), group)?;
        options.ignored.extend(nodelist.ignored);
        let mut hosts = nodelist::one_for_all(nodelist.hosts, is_this_host);
        hosts.truncate(options.hosts.map_or(usize::MAX, |n| n as usize));
        Ok(Some(hosts))
    }
}

/// Whether a name or an address is this host's. A name that is not recognized may still be this host's, and is then reached like another host.
fn is_this_host(name: &str) -> bool {
    let own = host_name();
    let short = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let named = name == "localhost" || name == own || name == short(&own) || short(name) == own;
    // An address is this host's if a socket can be bound to it.
    named || name.parse::<IpAddr>().is_ok_and(|ip| UdpSocket::bind((ip, 0)).is_ok())
}

fn is_loopback(name: &str) -> bool {
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A process as the launcher sees it.
#[derive(Default, Debug)]
pub(crate) struct Process {
    /// It was started, and has not been reaped.
    pub(crate) runs: bool,
    /// Its process number, for messages.
    pub(crate) number: u32,
    /// Its channel is open.
    pub(crate) line: bool,
    pub(crate) joined: bool,
    /// It has reported that the job ended.
    pub(crate) said_exit: bool,
    /// It has reported why the job must end.
    pub(crate) said_abort: bool,
    pub(crate) fault: Option<Fault>,
    /// When its channel closed although it runs.
    pub(crate) line_lost: Option<Instant>,
    /// Pings since its last answer.
    pub(crate) unanswered: u32,
}

/// See the [module's text](self).
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) options: Options,
    pub(crate) layout: Layout,
    /// The number of this host in the layout.
    this: Option<u32>,
    /// The name of this host.
    pub(crate) host: String,
    pub(crate) here: LocalProcesses,
    /// The other hosts, by their numbers in the layout.
    pub(crate) remotes: Vec<Option<RemoteHost>>,
    pub(crate) orders: Orders,
    /// Everything has ended but for the final frames of other hosts, which may take until this time.
    pub(crate) finishing: Option<Instant>,
    pub(crate) outputs: Outputs,
    pub(crate) processes: Vec<Process>,
    pub(crate) board: Board,
    pub(crate) end: End,
    prompt_at: Option<Instant>,
    /// A buffer for one read. A stack may be too small for it.
    buf: Vec<u8>,
}

impl Job {
    fn new(options: Options, place: Place, launch: Launch) -> Result<Self, LaunchError> {
        let Place { layout, hosts, here: this } = place;
        let here = LocalProcesses::new(this.map_or(0..0, |host| layout.processes_of(host)), false)?;
        let own = host_name();
        let mut names: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
        match this {
            Some(_) if names.is_empty() => names.push(own.clone()),
            // Other hosts cannot reach this one by a loopback name.
            Some(host) if is_loopback(&names[host as usize]) => names[host as usize].clone_from(&own),
            _ => {}
        }
        let remotes = (0..).zip(hosts).map(|(n, host)| (Some(n) != this).then(|| RemoteHost::new(host, n))).collect();
        let shell = options.remote_shell.clone().unwrap_or_else(|| "ssh".to_owned());
        let words = |command: &String| {
            let words = shell::split(command).filter(|words| !words.is_empty());
            words.ok_or_else(|| LaunchError::Shell { command: command.clone() })
        };
        words(&shell)?;
        let launcher = match &options.remote_charmrun {
            Some(command) => words(command)?.into_iter().map(OsString::from).collect(),
            None => launch.launcher,
        };
        let secret = Secret::random().map_err(|_| LaunchError::system("getrandom")(io::Error::last_os_error()))?;
        let [a, b, c, d, e, f, g, h, ..] = secret.derive("launcher job id");
        let welcome = Welcome {
            rank: 0,
            job: JobId([a, b, c, d, e, f, g, h]),
            secret,
            group: 0,
            layout: layout.clone(),
            options: options.to_pairs(),
            toward: Vec::new(),
        };
        let orders = Orders {
            launcher,
            shell,
            program: launch.program,
            args: launch.args,
            folder: std::env::current_dir().map_err(LaunchError::system("the working directory"))?,
            welcome,
            names,
        };
        Ok(Self {
            outputs: Outputs::new(here.epoll(), layout.processes(), options.prefix_output)?,
            board: Board::new(&layout),
            end: End::new(&options, launch.stranger),
            processes: (0..layout.processes()).map(|_| Process::default()).collect(),
            options,
            layout,
            this,
            host: own,
            here,
            remotes,
            orders,
            finishing: None,
            prompt_at: None,
            buf: vec![0; READ],
        })
    }

    fn start(&mut self, program: Option<Program>) -> Result<(), LaunchError> {
        if let Some(text) = self.options.note() {
            self.note(|| text);
        }
        self.here.make_room(self.remotes.len())?;
        self.dial()?;
        let (Some(mut program), Some(host)) = (program, self.this) else { return Ok(()) };
        let started = self.here.start(&mut program, &self.orders.welcome(host), true);
        local_processes::hand_over(self);
        started
    }

    /// The name of a process's host.
    pub(crate) fn host_of(&self, rank: u32) -> &str {
        &self.orders.names[self.layout.host_of(rank) as usize]
    }

    // Messages from processes.

    pub(crate) fn on_news(&mut self, rank: u32, news: News) {
        let Some(process) = self.processes.get_mut(rank as usize) else { return };
        match news {
            News::Started(number) => {
                *process = Process { runs: true, number, line: true, ..Process::default() };
                self.note(|| format!("process {rank} is {number}"));
            }
            News::Said(message) => self.on_message(rank, message),
            News::Broke(code, what) => self.fail(Cause::of(self, rank, code, what)),
            News::LineLost => {
                process.line = false;
                process.line_lost = Some(Instant::now());
            }
            News::Died(death) => {
                process.runs = false;
                self.on_death(rank, death);
            }
        }
    }

    fn on_message(&mut self, rank: u32, message: ToLauncher) {
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
            ToLauncher::Share { more: true, .. } => return,
            ToLauncher::Share { .. } => return self.board.shares(rank),
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

    /// Sends a packet to a process on any host.
    pub(crate) fn send(&mut self, answer: Answer) {
        match self.remote_of(answer.to) {
            Some(remote) => remote.send(&ToAgent::Packet { rank: answer.to, packet: answer.packet.to_vec() }),
            None => self.here.send(answer),
        }
    }

    /// Sends a signal to all processes and their descendants.
    pub(crate) fn signal_all(&mut self, signal: Signal) {
        self.here.signal_all(signal);
        self.signal_others(signal);
    }

    pub(crate) fn signal(&mut self, rank: u32, signal: Signal) {
        match self.remote_of(rank) {
            Some(remote) => remote.send(&ToAgent::SignalOne { rank, signal: number(signal) }),
            None => self.here.signal(rank, signal),
        }
    }

    // The end of other hosts.

    /// Lets other hosts kill what processes have left behind, and waits for their remaining frames.
    pub(crate) fn finish_others(&mut self, limit: Duration) {
        self.finishing = Some(Instant::now() + limit);
        self.remotes.iter_mut().flatten().for_each(|remote| remote.send(&ToAgent::Finish));
        local_processes::serve(self);
        self.leave_others();
    }

    // Output of processes.

    /// Reads once; returns whether there may be more.
    fn read_stream(&mut self, rank: u32, which: usize) -> bool {
        let mut buf = std::mem::take(&mut self.buf);
        let read = self.here.read(rank, which, &mut buf);
        if let Some(n) = read {
            self.print(rank, which, &buf[..n]);
        }
        self.buf = buf;
        read.is_some_and(|n| n > 0)
    }

    /// Takes output of a process; empty: the stream has ended.
    pub(crate) fn print(&mut self, rank: u32, which: usize, bytes: &[u8]) {
        // The first process reads the user's input.
        if self.outputs.take(rank, which, bytes) && rank == 0 {
            self.await_prompt();
        }
    }

    fn await_prompt(&mut self) {
        let after = if self.layout.processes() == 1 { PROMPT } else { PROMPT_AMONG_OTHERS };
        self.prompt_at = Some(Instant::now() + after);
    }

    /// While the reader of the output is slow, a process may have to wait in the middle of a line.
    fn put_off_prompt(&mut self) {
        if self.prompt_at.is_some() && self.outputs.waiting().next().is_some() {
            self.await_prompt();
        }
    }

    /// Reads all remaining output, after all processes have ended.
    pub(crate) fn read_all(&mut self) {
        for rank in self.here.ranks() {
            for which in 0..2 {
                while self.read_stream(rank, which) {
                    self.write_out();
                }
            }
        }
        self.outputs.flush_sources();
    }

    /// Writes what can be written, and listens to the streams whose sink has room.
    pub(crate) fn write_out(&mut self) {
        self.put_off_prompt();
        self.outputs.write(self.here.epoll());
        self.write_lines();
        self.report_closed_output();
        for which in 0..2 {
            let full = self.outputs.is_full(which);
            self.here.hear(which, !full);
        }
    }

    /// The sink for the launcher's own messages.
    pub(crate) fn sink(&mut self) -> &mut Sink {
        self.outputs.voice()
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

impl Owner for Job {
    fn here(&mut self) -> &mut LocalProcesses {
        &mut self.here
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Process(rank, news) => self.on_news(rank, news),
            // If only final frames are awaited, a signal ends the wait.
            Event::Signal(_) if self.finishing.is_some() => self.finishing = Some(Instant::now()),
            Event::Signal(signal) => self.on_signal(signal),
            Event::Command(pid, death) => self.on_shell_ended(pid, death),
        }
    }

    fn on_ready(&mut self, what: What, number: u32) {
        match what {
            What::Stdout => _ = self.read_stream(number, 0),
            What::Stderr => _ = self.read_stream(number, 1),
            What::Line => _ = self.on_line(number),
            What::Words => self.on_words(number),
            // A sink with room, or a connection: it is written to in the next round anyway.
            What::Sink | What::Channel | What::Signals => {}
        }
    }

    fn before_waiting(&mut self) {
        self.write_out();
    }

    fn deadline(&self) -> Option<Instant> {
        [self.finishing.or_else(|| self.end_deadline()), self.prompt_at].into_iter().flatten().min()
    }

    fn on_time(&mut self) {
        self.put_off_prompt();
        if self.prompt_at.is_some_and(|at| at <= Instant::now()) {
            self.prompt_at = None;
            self.outputs.flush_prompt();
        }
        if self.finishing.is_none() {
            self.see_to_the_end();
        }
    }

    fn is_over(&self) -> bool {
        match self.finishing {
            Some(until) => self.others_are_gone() || until <= Instant::now(),
            None => self.has_ended(),
        }
    }
}
