//! A running job: what its processes say, what they print, and what it means. How a job ends is `end`'s; the processes
//! themselves are served by `here`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::time::{Duration, Instant};

use charm4rs_transport::Layout;
use charm4rs_transport::Pe;
use charm4rs_transport::auth::{JobId, Secret};
use charm4rs_transport::bootstrap::host_name;
use charm4rs_transport::bootstrap::options::Options;
use charm4rs_transport::bootstrap::wire::{Fault, ToLauncher, ToProcess};
use charm4rs_transport::wireup::TransportKind;
use rustix::process::{Resource, Rlimit, Signal};

use crate::board::{Answer, Board};
use crate::end::{Cause, End};
use crate::error::LaunchError;
use crate::here::{self, Event, Here, News, Owner, Told, What};
use crate::output::Sink;
use crate::outputs::Outputs;
use crate::program::Program;

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
    let mut job = Job::new(options, layout, stranger)?;
    match job.start(program) {
        Ok(()) => {
            here::serve(&mut job);
            Ok(job.finish())
        }
        Err(error) => {
            job.kill();
            here::serve(&mut job);
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
#[derive(Default, Debug)]
pub(crate) struct Process {
    /// It was started, and has not been reaped.
    pub(crate) runs: bool,
    /// Its number, for messages.
    pub(crate) number: u32,
    /// Its channel is open.
    pub(crate) line: bool,
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

/// See the [module's text](self).
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) options: Options,
    pub(crate) layout: Layout,
    pub(crate) host: String,
    pub(crate) here: Here,
    pub(crate) outputs: Outputs,
    pub(crate) processes: Vec<Process>,
    pub(crate) board: Board,
    pub(crate) end: End,
    prompt_at: Option<Instant>,
}

impl Job {
    fn new(options: Options, layout: Layout, stranger: &'static str) -> Result<Self, LaunchError> {
        let here = Here::new(layout.processes_of(0))?;
        Ok(Self {
            outputs: Outputs::new(here.epoll(), layout.processes(), options.prefix_output)?,
            board: Board::new(&layout),
            end: End::new(&options, stranger),
            processes: (0..layout.processes()).map(|_| Process::default()).collect(),
            options,
            layout,
            host: host_name(),
            here,
            prompt_at: None,
        })
    }

    fn start(&mut self, mut program: Program) -> Result<(), LaunchError> {
        let secret = Secret::random().map_err(|_| LaunchError::system("getrandom")(io::Error::last_os_error()))?;
        let [a, b, c, d, e, f, g, h, ..] = secret.derive("launcher job id");
        let job = JobId([a, b, c, d, e, f, g, h]);
        let told = Told { job, secret, layout: self.layout.clone(), options: self.options.to_pairs() };
        let started = self.here.start(&mut program, &told, true);
        here::hand_over(self);
        started
    }

    // What processes say.

    fn on_news(&mut self, rank: u32, news: News) {
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
            Ok(answers) => answers.into_iter().for_each(|answer| self.here.send(answer)),
            Err(error) => self.fail(Cause::of(self, rank, error.code(), format!("process {rank}: {error}"))),
        }
    }

    pub(crate) fn send(&mut self, to: u32, message: &ToProcess) {
        self.here.send(Answer::new(to, message));
    }

    pub(crate) fn signal_all(&mut self, signal: Signal) {
        self.here.signal_all(signal);
    }

    pub(crate) fn signal(&mut self, rank: u32, signal: Signal) {
        self.here.signal(rank, signal);
    }

    // What processes print.

    /// Reads once; whether there may be more.
    fn read_stream(&mut self, rank: u32, which: usize) -> bool {
        let mut buf = [0; READ];
        let Some(n) = self.here.read(rank, which, &mut buf) else { return false };
        if self.outputs.take(rank, which, &buf[..n]) && self.layout.processes() == 1 {
            self.prompt_at = Some(Instant::now() + PROMPT);
        }
        n > 0
    }

    /// All that was printed, when nobody prints any more.
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

    /// Writes what can be written, and listens to whom and what this makes sense of.
    pub(crate) fn write_out(&mut self) {
        self.outputs.write(self.here.epoll());
        self.report_closed_output();
        for which in 0..2 {
            let full = self.outputs.is_full(which);
            self.here.hear(which, !full);
        }
    }

    /// The launcher's own voice.
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
    fn here(&mut self) -> &mut Here {
        &mut self.here
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Process(rank, news) => self.on_news(rank, news),
            Event::Signal(signal) => self.on_signal(signal),
        }
    }

    fn on_ready(&mut self, what: What, number: u32) {
        match what {
            What::Stdout => _ = self.read_stream(number, 0),
            What::Stderr => _ = self.read_stream(number, 1),
            // A sink with room: it is written to in the next round anyway.
            What::Sink | What::Channel | What::Signals => {}
        }
    }

    fn before_waiting(&mut self) {
        self.write_out();
    }

    fn deadline(&self) -> Option<Instant> {
        [self.prompt_at, self.end_deadline()].into_iter().flatten().min()
    }

    fn on_time(&mut self) {
        if self.prompt_at.is_some_and(|at| at <= Instant::now()) {
            self.prompt_at = None;
            self.outputs.flush_sources();
        }
        self.see_to_the_end();
    }

    fn is_over(&self) -> bool {
        self.has_ended()
    }
}
