//! `charmrun`: starts the processes of a job on this host, gives each its rank and the job's secret, merges their output, forwards signals, and
//! ensures that a job ends in bounded time, with one message that states the cause, and leaves nothing behind. Communicates with the processes only
//! through the transport's bootstrap; knows nothing of schedulers and chares.
//!
//! The launcher has one thread and one loop (`local_processes`), on one `epoll`. One thread is essential: the parent-death signal of a process is
//! bound to the thread that started it, and a process with one thread may fork.

mod agent;
mod board;
mod caller;
mod cargo;
mod end;
mod error;
mod frames;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod guardian;
mod job;
mod line;
mod local_processes;
mod nodelist;
mod output;
mod outputs;
mod processes;
mod program;
mod remote_hosts;
mod sharing;
mod shell;
mod signals;
mod survey;
mod sys;

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::process::ExitCode;

use charm4rs_bootstrap::options::{self, Action, Options};
use charm4rs_bootstrap::{error_line, host_name, open_standard_descriptors};

pub use error::{LaunchError, Why};
pub use nodelist::{NodelistError, Problem};

/// The program `charmrun`: `args` are its arguments without its name.
#[must_use]
pub fn charmrun(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    ExitCode::from(finish(agent_or(args, |args| run_by(args, None))))
}

/// `charmrun` for an interpreter's package: a program whose name ends in `.py`, or that begins with a dash (`-m`, `-c`), is run by `interpreter`, and
/// its processes have one PE each. `stranger` is printed for a script that ends with 0 without having joined the job: it says what the script lacks.
/// Returns the exit status.
#[must_use]
pub fn launch_script(args: impl IntoIterator<Item = OsString>, interpreter: &OsStr, stranger: &'static str) -> u8 {
    finish(agent_or(args, |args| run_by(args, Some((interpreter, stranger)))))
}

/// The question in the error about a program that ends with 0 without having joined the job.
const STRANGER: &str = "is it a charm4rs program?";

/// The program `cargo-charmrun`: `args` are its arguments without its name.
#[must_use]
pub fn cargo_charmrun(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    ExitCode::from(finish(agent_or(args, cargo::run)))
}

/// Runs an agent if the command line asks for one (of either program), and otherwise `other`.
fn agent_or(
    args: impl IntoIterator<Item = OsString>,
    run: impl FnOnce(Vec<OsString>) -> Result<u8, LaunchError>,
) -> Result<u8, LaunchError> {
    // So that no other descriptor gets their numbers. Programs in Rust do this at their start, interpreters do not.
    open_standard_descriptors().map_err(LaunchError::system("/dev/null"))?;
    let args: Vec<OsString> = args.into_iter().collect();
    if let [word] = &args[..]
        && word == shell::AGENT
    {
        return agent::run();
    }
    run(args)
}

fn run_by(
    args: impl IntoIterator<Item = OsString>,
    interpreter: Option<(&OsStr, &'static str)>,
) -> Result<u8, LaunchError> {
    let mut parsed = options::parse_launcher(args)?;
    if let Some(text) = asked_for(parsed.options.action, "charmrun") {
        print(&text);
        return Ok(0);
    }
    let mut stranger = STRANGER;
    let mut one_pe_each = false;
    if let Some((interpreter, missing)) = interpreter
        && parsed.rest.first().is_some_and(|name| is_script(name))
    {
        parsed.rest.insert(0, interpreter.to_owned());
        parsed.options.ppn.get_or_insert(1);
        stranger = missing;
        one_pe_each = true;
    }
    let launch = Launch::new(&parsed.options, parsed.rest, stranger, launcher(interpreter)?)?;
    let launch = Launch { one_pe_each, ..launch };
    job::run(parsed.options, launch)
}

/// What to launch.
#[derive(Debug)]
struct Launch {
    program: OsString,
    args: Vec<OsString>,
    /// The question in the error about a program that has not joined.
    stranger: &'static str,
    /// A process of the program can have only one PE.
    one_pe_each: bool,
    /// The command of this launcher, which also runs on other hosts.
    launcher: Vec<OsString>,
}

impl Launch {
    /// `words` are the program and its arguments.
    fn new(
        options: &Options,
        mut words: Vec<OsString>,
        stranger: &'static str,
        launcher: Vec<OsString>,
    ) -> Result<Self, LaunchError> {
        if words.is_empty() {
            return Err(LaunchError::NoProgram);
        }
        if let Some(script) = &options.runscript {
            let script = shell::split(script).filter(|script| !script.is_empty());
            let script = script.ok_or_else(|| LaunchError::Script(options.runscript.clone().unwrap_or_default()))?;
            words.splice(0..0, script.into_iter().map(OsString::from));
        }
        let program = words.remove(0);
        Ok(Self { program, args: words, stranger, one_pe_each: false, launcher })
    }
}

/// The command of the running program: its path on this host and its arguments.
fn launcher(interpreter: Option<(&OsStr, &'static str)>) -> Result<Vec<OsString>, LaunchError> {
    match interpreter {
        Some((interpreter, _)) => {
            Ok([interpreter, "-m".as_ref(), "charmrun.start".as_ref()].map(OsStr::to_owned).into())
        }
        None => Ok(vec![std::env::current_exe().map_err(LaunchError::system("the launcher's own path"))?.into()]),
    }
}

fn is_script(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.ends_with(b".py") || name.starts_with(b"-")
}

/// The text that a command line asks for instead of a run.
fn asked_for(action: Action, program: &str) -> Option<String> {
    let version = options::version();
    match action {
        Action::Run => None,
        Action::Version => Some(format!("{program} (charm4rs) {version}\n")),
        Action::Help => {
            Some(format!("{program} [options] PROGRAM [arguments]: runs a charm4rs program\n\n{}", options::help()))
        }
        Action::Info => Some(format!("charm4rs {version} on {}\n{}", host_name(), survey::report())),
    }
}

/// Reports an error; returns the exit status.
fn finish(result: Result<u8, LaunchError>) -> u8 {
    result.unwrap_or_else(|error| {
        let line = error_line(error.code(), &error.to_string(), None, &host_name(), std::process::id());
        // If this fails, there is no way to report it.
        let _ = std::io::stderr().write_all(line.as_bytes());
        error.code()
    })
}

fn print(text: &str) {
    // A reader that is gone needs no more.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
