//! `charmrun`: starts the processes of a job on this host, gives each its place and the job's secret, joins their
//! output, passes signals on, and sees to it that a job ends in bounded time, with one message that says why, and leaves
//! nothing behind. Speaks only the transport's bootstrap with what it starts; knows nothing of schedulers and chares.
//!
//! The launcher has one thread and one loop (`here`), on one `epoll`. That matters: the parent's death signal of a
//! process is bound to the thread that started it, and a process with one thread may fork.

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

/// The program `charmrun`: its arguments without its name.
#[must_use]
pub fn charmrun(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    ExitCode::from(finish(agent_or(args, |args| run_by(args, None))))
}

/// What `charmrun` does, for an interpreter's package: a program whose name ends in `.py`, or that begins with a dash (`-m`,
/// `-c`), is run by `interpreter`, and its processes have one PE each. `stranger` says of a script that ends well without having
/// joined the job what it has left out. Gives the exit status.
#[must_use]
pub fn launch_script(args: impl IntoIterator<Item = OsString>, interpreter: &OsStr, stranger: &'static str) -> u8 {
    finish(agent_or(args, |args| run_by(args, Some((interpreter, stranger)))))
}

/// What to ask of a program that has ended well without having joined the job.
const STRANGER: &str = "is it a program of charm4rs?";

/// The program `cargo-charmrun`: its arguments without its name.
#[must_use]
pub fn cargo_charmrun(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    ExitCode::from(finish(agent_or(args, cargo::run)))
}

/// Runs an agent if that is all that is asked for (whichever program of ours is asked), or does what else is.
fn agent_or(
    args: impl IntoIterator<Item = OsString>,
    run: impl FnOnce(Vec<OsString>) -> Result<u8, LaunchError>,
) -> Result<u8, LaunchError> {
    // Nothing of ours may get their numbers. Rust's own programs begin like this, interpreters do not.
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
    /// What to ask of a program that has not joined.
    stranger: &'static str,
    /// A process of it can have one PE only.
    one_pe_each: bool,
    /// What runs this launcher, on other hosts too.
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

/// The program that runs, with its arguments: where it is on this host.
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

/// What a command line asks to be told instead of running anything.
fn asked_for(action: Action, program: &str) -> Option<String> {
    let version = options::version();
    match action {
        Action::Run => None,
        Action::Version => Some(format!("{program} (charm4rs) {version}\n")),
        Action::Help => {
            Some(format!("{program} [options] PROGRAM [arguments]: runs a program of charm4rs\n\n{}", options::help()))
        }
        Action::Info => Some(format!("charm4rs {version} on {}\n{}", host_name(), survey::report())),
    }
}

/// Reports an error; gives the exit status.
fn finish(result: Result<u8, LaunchError>) -> u8 {
    result.unwrap_or_else(|error| {
        let line = error_line(error.code(), &error.to_string(), None, &host_name(), std::process::id());
        // Nobody is left to tell if this fails.
        let _ = std::io::stderr().write_all(line.as_bytes());
        error.code()
    })
}

fn print(text: &str) {
    // A reader that has gone wanted no more.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
