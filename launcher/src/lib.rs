//! `charmrun`: starts the processes of a job on this host, gives each its place and the job's secret, joins their
//! output, passes signals on, and sees to it that a job ends in bounded time, with one message that says why, and leaves
//! nothing behind. Speaks only the transport's bootstrap with what it starts; knows nothing of schedulers and chares.
//!
//! The launcher has one thread and one loop (`job`), on one `epoll`. That matters: the parent's death signal of a
//! process is bound to the thread that started it, and a process with one thread may fork.

mod board;
mod cargo;
mod end;
mod error;
mod guardian;
mod job;
mod output;
mod program;
mod sys;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use charm4rs_transport::bootstrap::options::{self, Action, Extent};
use charm4rs_transport::bootstrap::{error_line, host_name};

pub use error::{LaunchError, Why};

/// The program `charmrun`: its arguments without its name.
#[must_use]
pub fn charmrun(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    finish(run(args))
}

/// The program `cargo-charmrun`: its arguments without its name.
#[must_use]
pub fn cargo_charmrun(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    finish(cargo::run(args))
}

fn run(args: impl IntoIterator<Item = OsString>) -> Result<u8, LaunchError> {
    let parsed = options::parse(args, Extent::ToProgram)?;
    if let Some(text) = asked_for(parsed.options.action, "charmrun") {
        print(&text);
        return Ok(0);
    }
    let (name, args) = parsed.rest.split_first().ok_or(LaunchError::NoProgram)?;
    job::run(parsed.options, name, args)
}

/// What a command line asks to be told instead of running anything.
fn asked_for(action: Action, program: &str) -> Option<String> {
    let version = options::version();
    match action {
        Action::Run => None,
        Action::Version => Some(format!("{program} (charm4rs) {version}\n")),
        Action::Help => Some(format!(
            "{program} [options] PROGRAM [arguments]: runs a program of charm4rs on this host\n\n{}",
            options::help()
        )),
        Action::Info => {
            let cpus = std::thread::available_parallelism().map_or(1, usize::from);
            Some(format!(
                "charm4rs {version} on {}\ncpus        {cpus}\ntransports  local (threads of a process), shm (processes of a host), tcp\n",
                host_name()
            ))
        }
    }
}

fn finish(result: Result<u8, LaunchError>) -> ExitCode {
    ExitCode::from(result.unwrap_or_else(|error| {
        let line = error_line(error.code(), &error.to_string(), None, &host_name(), std::process::id());
        // Nobody is left to tell if this fails.
        let _ = std::io::stderr().write_all(line.as_bytes());
        error.code()
    }))
}

fn print(text: &str) {
    // A reader that has gone wanted no more.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
