//! The start of a job, from `main` to the first entry method, and its end, from the last one to the exit status.
//!
//! A process finds its job, opens a port for each of its PEs, and runs each PE on a thread of its own; the first PE of a
//! process runs on the process's first thread. The program's `main` is a task of PE 0.

use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use charm4rs_bootstrap as bootstrap;
use charm4rs_bootstrap::options::{Action, Options};
use charm4rs_bootstrap::{Control, Found, Report};
use charm4rs_scheduler::placement::{self, Machine};
use charm4rs_scheduler::{Clock, Config};
use charm4rs_transport::port::{Port, PortBuilder};
use charm4rs_transport::wireup;
use charm4rs_transport::{Layout, Pe, TransportError};
use charm4rs_transport::{Notices, TransportKind, TransportOptions};

use crate::runtime::deadlock::Deadlock;
use crate::runtime::registry::registry;
use crate::runtime::{self, Failure, Host, Rt};
use crate::testing::{self, End, SimOptions};
use crate::watch::Watch;
use crate::{Job, pe, readonly};

/// The stack size of a PE's thread: that of a process's first thread on most systems.
const STACK: usize = 8 << 20;

/// The program's arguments: its name, and then the arguments without the runtime's own options.
#[derive(Clone, Debug)]
pub struct Args(Vec<OsString>);

impl Args {
    /// The number of arguments after the program's name.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len().saturating_sub(1)
    }

    /// The argument at `position` (the first after the name is 1) as a number or other value; `default` if it is missing.
    ///
    /// # Panics
    /// If it is present and cannot be parsed. A job whose `main` does not catch that ends with status 64 (usage) and a message that names the
    /// argument and the expected type.
    #[track_caller]
    #[must_use]
    pub fn get<T: std::str::FromStr<Err: fmt::Display>>(&self, position: usize, default: T) -> T {
        let Some(arg) = self.0.get(position) else { return default };
        let text = arg.to_string_lossy();
        text.parse().unwrap_or_else(|error| wrong_argument(position, &text, std::any::type_name::<T>(), &error))
    }
}

#[cold]
#[track_caller]
fn wrong_argument(position: usize, text: &str, expected: &str, error: &dyn fmt::Display) -> ! {
    let expected = expected.rsplit("::").next().unwrap_or_default();
    runtime::wrong_usage(format!("argument {position} is {text:?}, which is not a valid {expected}: {error}"))
}

impl IntoIterator for Args {
    type Item = OsString;
    type IntoIter = std::vec::IntoIter<OsString>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The type of a program's second parameter of `main`: [`Args`]; or, with the feature `clap`, any type that derives `clap::Parser`.
///
/// The arguments are parsed on PE 0. Invalid arguments end the job with status 64 and the reason; a question (`--help`) is answered on standard
/// output, and the job ends with status 0.
#[diagnostic::on_unimplemented(
    message = "`main` cannot take its options as a `{Self}`",
    note = "take `args: Args`; or, with the feature `clap` of charm4rs, a type that derives `clap::Parser`"
)]
pub trait FromArgs: Sized + 'static {
    /// Parses the arguments.
    ///
    /// # Errors
    /// If the program must not start.
    fn from_args(args: Args) -> Result<Self, NotStarted>;
}

/// Why a program does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotStarted {
    /// The arguments asked for this text instead. Status 0.
    Asked(String),
    /// The arguments are wrong, for this reason. Status 64.
    Usage(String),
}

impl FromArgs for Args {
    fn from_args(args: Args) -> Result<Self, NotStarted> {
        Ok(args)
    }
}

#[cfg(feature = "clap")]
impl<T: clap::Parser + 'static> FromArgs for T {
    fn from_args(args: Args) -> Result<Self, NotStarted> {
        T::try_parse_from(args).map_err(|error| {
            let text = error.render().to_string();
            match error.exit_code() {
                0 => NotStarted::Asked(text),
                _ => NotStarted::Usage(text.strip_prefix("error: ").unwrap_or(&text).to_owned()),
            }
        })
    }
}

/// A type that a program's `main` may return. When it returns, the job ends: with status 0, or with the error's text and status 1.
pub trait MainResult {
    /// The job's exit status, or why it failed.
    fn status(self) -> Result<i32, String>;
}

impl MainResult for () {
    fn status(self) -> Result<i32, String> {
        Ok(0)
    }
}

impl<E: fmt::Display> MainResult for Result<(), E> {
    fn status(self) -> Result<i32, String> {
        self.map(|()| 0).map_err(|error| error.to_string())
    }
}

/// The host of a PE is a process: a failure ends it.
struct Process {
    control: Control,
    watch: Watch,
    around_sleep: Option<Box<AroundSleep>>,
}

/// Called instead of a sleep; it must call its argument, which sleeps.
pub(crate) type AroundSleep = dyn Fn(&mut dyn FnMut());

impl Host for Process {
    fn fail(&self, pe: Pe, failure: Failure) {
        self.control.abort(failure.code, Some(pe), &failure.what);
    }

    fn has_the_process(&self) -> bool {
        true
    }

    fn deadlock(&self, found: &Deadlock) {
        self.watch.deadlock(found);
    }

    fn take_interrupt(&self) {
        self.control.report(Report::TakesInterrupt);
    }

    fn sleep(&self, sleep: &mut dyn FnMut()) {
        match &self.around_sleep {
            Some(around) => around(sleep),
            None => sleep(),
        }
    }
}

/// What every PE does with its port before the object layer uses it.
pub(crate) type Before = fn(&mut Port, &Args) -> Result<(), TransportError>;

/// Runs a program: `#[charm4rs::main]` calls this with the program's `main`.
pub fn main<A: FromArgs, F: Future<Output: MainResult> + 'static>(program: fn(Job, A) -> F) -> ! {
    main_after(|_, _| Ok(()), program)
}

/// [`main`] for programs that measure the layers below: before the program begins, each PE runs `before`, on its pinned thread and with the port that
/// the object layer uses afterwards. `before` must receive everything that it sends. A simulated job has no ports.
pub fn main_after<A: FromArgs, F: Future<Output: MainResult> + 'static>(before: Before, program: fn(Job, A) -> F) -> ! {
    run_program(
        before,
        Box::new(move |rt, args| A::from_args(args).map(|args| testing::start(rt, program(Job::of(rt), args)))),
    )
}

/// A program's `main`, independent of its types: so the code that starts a job is compiled once, and not for each program.
type Program = Box<dyn FnOnce(Rt, Args) -> Result<(), NotStarted>>;

fn run_program(before: Before, program: Program) -> ! {
    let joining = Joining::find(std::env::args_os());
    let status = joining.map_or_else(|status| status, |joining| start(joining, before, program));
    std::process::exit(status)
}

/// The error for `++server` in a Rust program.
const NO_SERVER: &str =
    "++server is for Python programs: a Rust program does not answer CCS requests; it can listen on a port of its own";

fn inform(action: &Action) -> u8 {
    let text = match action {
        Action::Version => bootstrap::options::version().to_string() + "\n",
        _ => bootstrap::options::help(),
    };
    print(&text)
}

/// Prints, and returns the exit status: 74 if that fails.
fn print(text: &str) -> u8 {
    use std::io::Write as _;
    u8::from(std::io::stdout().write_all(text.as_bytes()).is_err()) * 74
}

fn start(joining: Joining, before: Before, program: Program) -> i32 {
    let Joining { found: Found { mut boot, options, .. }, args } = joining;
    let control = boot.control();
    if options.serves() {
        control.abort(64, None, NO_SERVER);
    }
    runtime::install_panic_hook();
    let below = Below { args: args.clone(), run: before };
    let first: pe::Begin<'_> = Box::new(move |rt| match program(rt, args) {
        Ok(()) => {}
        Err(NotStarted::Asked(text)) => Job::of(rt).exit(print(&text)),
        Err(NotStarted::Usage(what)) => rt.fail(Failure { code: 64, what }),
    });
    let code = if options.transport == Some(TransportKind::Sim) {
        simulate(boot.layout(), &options, &control, first)
    } else {
        let builders = open(&mut *boot, &options, &control);
        drop(boot);
        run_pes(builders, &options, &control, below, first)
    };
    control.report(Report::Exit { code });
    code
}

fn open(boot: &mut dyn bootstrap::Bootstrap, options: &Options, control: &Control) -> Vec<PortBuilder> {
    let reports = control.clone();
    let transport = TransportOptions {
        digest: registry().digest,
        notices: Notices::new(move |text| reports.report(Report::Warning(text))),
        ..TransportOptions::from(options)
    };
    wireup::open(boot, &transport).unwrap_or_else(|error| control.abort(error.code(), None, &error.to_string()))
}

/// Simulates the whole job on this thread: the same program, `++transport sim ++seed N`.
fn simulate(layout: &Layout, options: &Options, control: &Control, first: pe::Begin<'_>) -> i32 {
    if layout.processes() > 1 {
        let what = "++transport sim: a simulated job is one process; start the program without a launcher";
        control.abort(78, None, what);
    }
    let outcome = testing::run(&SimOptions::new(layout.pes(), options.seed.unwrap_or_default()), first);
    let pe = if let End::Failed(pe, _) = outcome.end { Some(pe) } else { None };
    outcome.result().unwrap_or_else(|failure| control.abort(failure.code, pe, &outcome.to_string()))
}

/// Runs all PEs of this process until the job ends. `first` runs on PE 0, before its loop.
fn run_pes(
    builders: Vec<PortBuilder>,
    options: &Options,
    control: &Control,
    below: Below,
    first: pe::Begin<'_>,
) -> i32 {
    let setup = Arc::new(Setup::find(options, control, below));
    let mut builders = builders.into_iter();
    let own = builders.next().expect("a process has a PE");
    let others: Vec<_> = builders
        .map(|builder| {
            let setup = setup.clone();
            let name = format!("pe-{}", builder.pe());
            let thread = thread::Builder::new().name(name).stack_size(STACK);
            thread
                .spawn(move || run_pe(builder, &setup, None, Box::new(|_| {})))
                .unwrap_or_else(|error| control.abort(71, None, &format!("no thread for a PE: {error}; see ulimit -u")))
        })
        .collect();
    let first = if own.pe() == Pe(0) { first } else { Box::new(|_| {}) };
    let code = run_pe(own, &setup, None, first);
    for other in others {
        if other.join().is_err() {
            control.abort(70, None, "a PE's thread panicked outside user code");
        }
    }
    code
}

fn pinning(options: &Options) -> Result<placement::Options, String> {
    let pin = match &options.pemap {
        _ if options.no_pin => placement::Pin::Never,
        Some(map) => placement::Pin::Map(map.parse().map_err(|error| format!("+pemap {map}: {error}"))?),
        None => placement::Pin::Auto,
    };
    let cpus = options.exclude.iter().flat_map(|cpus| cpus.split(','));
    let exclude = cpus.map(|cpu| cpu.parse().map_err(|error| format!("+excludecore {cpu}: {error}")));
    let exclude = exclude.collect::<Result<Vec<u32>, String>>()?;
    Ok(placement::Options { pin, exclude, ..placement::Options::default() })
}

/// What the PEs of a process share at the start.
struct Setup {
    clock: Clock,
    machine: Machine,
    placement: placement::Options,
    control: Control,
    watch: Watch,
    below: Below,
}

/// What runs before the object layer.
struct Below {
    args: Args,
    run: Before,
}

impl Setup {
    /// Must be called before the first thread is pinned: threads inherit the mask of the thread that creates them. Runs the functions of the program that run
    /// once in a process, before its PEs.
    fn find(options: &Options, control: &Control, below: Below) -> Self {
        let machine = Machine::detect().unwrap_or_else(|error| control.abort(71, None, &error.to_string()));
        let placement = pinning(options).unwrap_or_else(|error| control.abort(64, None, &error));
        let clock = Clock::real();
        let watch = Watch::start(options, control, clock.clone());
        readonly::init_process().unwrap_or_else(|failure| control.abort(failure.code, None, &failure.what));
        Self { clock, machine, placement, control: control.clone(), watch, below }
    }
}

/// Runs one PE on this thread until the job ends; calls `first` before its loop.
fn run_pe(builder: PortBuilder, setup: &Setup, around_sleep: Option<Box<AroundSleep>>, first: pe::Begin<'_>) -> i32 {
    bootstrap::crash::this_thread_is(builder.pe());
    bootstrap::on_fork(pe::leave_fork);
    let pe = builder.pe();
    let abort = |error: &TransportError| -> ! { setup.control.abort(error.code(), Some(pe), &error.to_string()) };
    let layout = builder.layout();
    let host = layout.pes_of_host(layout.host_of(layout.process_of(pe)));
    let place = setup
        .machine
        .pin(pe.index() - host.start as usize, host.len(), &setup.placement)
        .unwrap_or_else(|error| setup.control.abort(78, Some(pe), &error.to_string()));
    let mut port = builder.open().unwrap_or_else(|error| abort(&error));
    (setup.below.run)(&mut port, &setup.below.args).unwrap_or_else(|error| abort(&error));
    let config = Config { clock: setup.clock.clone(), oversubscribed: place.oversubscribed, ..Config::default() };
    let process = Process { control: setup.control.clone(), watch: setup.watch.clone(), around_sleep };
    let rt = pe::open(port, config, Rc::new(process));
    rt.enter(|| {
        let seated = setup.watch.seat(rt);
        first(rt);
        let code = pe::run(rt).unwrap_or_else(|error| abort(&error));
        drop(seated);
        pe::close(rt).unwrap_or_else(|error| abort(&error));
        code
    })
}

/// This process's part of a job that has been found and not begun: for a program whose `main` belongs to another runtime, an interpreter for example.
/// Such a process has one PE.
///
/// ```no_run
/// use charm4rs::Joining;
///
/// let joining = Joining::find(std::env::args_os()).unwrap_or_else(|status| std::process::exit(status));
/// let status = joining.run(|sleep| sleep(), |job| {
///     if job.pe().0 == 0 {
///         job.exit(0);
///     }
/// });
/// std::process::exit(status);
/// ```
#[derive(Debug)]
pub struct Joining {
    found: Found,
    args: Args,
}

/// `++server` and its companions, for front ends that serve clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerOptions {
    /// The port; 0: any free port.
    pub port: u16,
    /// The address to listen on, if one was given.
    pub address: Option<String>,
    /// The path of the key file, if one was given.
    pub key_file: Option<String>,
}

impl Joining {
    /// Finds the job. `args` begins with the program's name; the runtime's own options are removed from the arguments. Must be called once.
    ///
    /// # Errors
    /// The exit status, if there is no job, or a question was answered instead. The error has been reported.
    pub fn find(args: impl IntoIterator<Item = OsString>) -> Result<Self, i32> {
        Self::find_in(args.into_iter().collect())
    }

    fn find_in(args: Vec<OsString>) -> Result<Self, i32> {
        let mut args = args.into_iter();
        let name = args.next().unwrap_or_default();
        let mut found = bootstrap::find(args).map_err(|error| i32::from(error.code()))?;
        match found.options.action {
            Action::Run => {}
            ref other => return Err(inform(other).into()),
        }
        let args = Args(std::iter::once(name).chain(std::mem::take(&mut found.args)).collect());
        Ok(Self { found, args })
    }

    /// The program's name and its own arguments.
    #[must_use]
    pub fn args(&self) -> &Args {
        &self.args
    }

    /// The job's shape.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        self.found.boot.layout()
    }

    /// The command line's options for a server for clients of the program: its port, address and key file.
    #[must_use]
    pub fn server(&self) -> Option<ServerOptions> {
        let options = &self.found.options;
        options.serves().then(|| ServerOptions {
            port: options.server_port.unwrap_or(0),
            address: options.server_address.clone(),
            key_file: options.server_auth.clone(),
        })
    }

    /// Ends the process and the job with a message and a status.
    pub fn abort(&self, code: u8, what: &str) -> ! {
        self.found.boot.control().abort(code, None, what)
    }

    /// Runs this process's PE on this thread until the job ends; returns the job's exit status. Calls `first` before the PE's loop, and
    /// `around_sleep` whenever its thread is about to sleep; the thread sleeps when `around_sleep` calls its argument.
    ///
    /// # Panics
    /// If the process has several PEs.
    pub fn run(self, around_sleep: impl Fn(&mut dyn FnMut()) + 'static, first: impl FnOnce(Job)) -> i32 {
        self.run_boxed(Box::new(around_sleep), Box::new(|rt| first(Job::of(rt))))
    }

    fn run_boxed(self, around_sleep: Box<AroundSleep>, first: pe::Begin<'_>) -> i32 {
        let Self { found: Found { mut boot, options, .. }, args } = self;
        let control = boot.control();
        runtime::install_panic_hook();
        let mut builders = open(&mut *boot, &options, &control);
        drop(boot);
        assert_eq!(builders.len(), 1, "a process that joins a job has one PE");
        let setup = Setup::find(&options, &control, Below { args, run: |_, _| Ok(()) });
        let builder = builders.remove(0);
        let code = run_pe(builder, &setup, Some(around_sleep), first);
        control.report(Report::Exit { code });
        code
    }
}
