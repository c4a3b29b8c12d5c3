//! `cargo charmrun +p4 NAME …`: finds the program or example of the workspace that is called NAME, builds it in the
//! release profile, and runs it as `charmrun` would.
//!
//! Cargo's own options (`--profile`, `--package`, …) may stand anywhere before the name. The build prints nothing unless it fails or takes long.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use charm4rs_bootstrap::options::{End, Options, Reader, nearest};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

use crate::error::LaunchError;
use crate::{Launch, STRANGER, asked_for, job, launcher};

/// A build that takes longer is announced.
const LONG: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };
/// After that, its output is shown at this interval.
const OFTEN: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Cargo's options that select what to build and how; those with a value.
const WITH_VALUE: [&str; 8] =
    ["--profile", "--package", "-p", "--features", "-F", "--manifest-path", "--target-dir", "--config"];
/// Those without a value.
const WITHOUT: [&str; 6] =
    ["--release", "--all-features", "--no-default-features", "--offline", "--locked", "--frozen"];

/// A command line, split.
#[derive(Debug)]
struct Line {
    options: Options,
    cargo: Vec<OsString>,
    /// The target and its arguments.
    program: Vec<OsString>,
}

/// A target that can be run.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Target {
    package: String,
    /// `bin` or `example`.
    kind: String,
    name: String,
}

pub(crate) fn run(args: impl IntoIterator<Item = OsString>) -> Result<u8, LaunchError> {
    let line = read(args)?;
    if let Some(text) = asked_for(line.options.action, "cargo charmrun") {
        crate::print(&text);
        return Ok(0);
    }
    let name = line.program.first().ok_or(LaunchError::NoProgram)?;
    let path = match name.to_str() {
        Some(name) if !name.contains('/') => build(&find(&targets(&line.cargo)?, name, &line.cargo)?, &line.cargo)?,
        _ => PathBuf::from(name),
    };
    let mut program = line.program;
    program[0] = path.into();
    let launch = Launch::new(&line.options, program, STRANGER, launcher(None)?)?;
    job::run(line.options, launch)
}

fn read(args: impl IntoIterator<Item = OsString>) -> Result<Line, LaunchError> {
    let mut words: VecDeque<OsString> = args.into_iter().collect();
    // Cargo passes the subcommand's name.
    if words.front().is_some_and(|word| word == "charmrun") {
        words.pop_front();
    }
    let (mut ours, mut cargo) = (Reader::default(), Vec::new());
    loop {
        let end = ours.in_front(&mut words)?;
        let next = words.front().and_then(|word| word.to_str()).filter(|_| end == End::Word).unwrap_or_default();
        let name = next.split('=').next().unwrap_or_default();
        let values = if WITHOUT.contains(&next) {
            0
        } else if WITH_VALUE.contains(&name) {
            usize::from(name == next)
        } else {
            let parsed = ours.with_program(words, end)?;
            return Ok(Line { options: parsed.options, cargo, program: parsed.rest });
        };
        cargo.extend(words.drain(..(1 + values).min(words.len())));
    }
}

/// Only the options that `cargo metadata` accepts.
fn for_metadata(cargo: &[OsString]) -> Vec<&OsStr> {
    let mut kept = Vec::new();
    let mut words = cargo.iter();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        let name = text.split('=').next().unwrap_or_default();
        let keep = matches!(name, "--manifest-path" | "--offline" | "--locked" | "--frozen" | "--config");
        let value = if WITH_VALUE.contains(&&*text) { words.next() } else { None };
        if keep {
            kept.extend([Some(word), value].into_iter().flatten().map(OsString::as_os_str));
        }
    }
    kept
}

/// All targets of the workspace that can be run.
fn targets(cargo: &[OsString]) -> Result<Vec<Target>, LaunchError> {
    let mut command = command();
    command.args(["metadata", "--no-deps", "--format-version", "1"]).args(for_metadata(cargo));
    let json = ask(&mut command, "metadata", None)?;
    let metadata: Value = serde_json::from_str(&json).unwrap_or_default();
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut targets = Vec::new();
    for package in list(&metadata, "packages") {
        for target in list(&package, "targets") {
            let kind = list(&target, "kind").first().map(&text).unwrap_or_default();
            if kind == "bin" || kind == "example" {
                targets.push(Target { package: text(&package["name"]), kind, name: text(&target["name"]) });
            }
        }
    }
    Ok(targets)
}

/// The target called `name`; programs before examples.
fn find(targets: &[Target], name: &str, cargo: &[OsString]) -> Result<Target, LaunchError> {
    let mut words = cargo.iter().map(|w| w.to_string_lossy());
    let mut package = None;
    while let Some(word) = words.next() {
        package = match word.split_once('=') {
            Some(("-p" | "--package", value)) => Some(value.to_owned()),
            None if word == "-p" || word == "--package" => words.next().map(Into::into),
            _ => package,
        };
    }
    let found = targets.iter().filter(|t| t.name == name && package.as_ref().is_none_or(|p| *p == t.package));
    found.min_by_key(|t| t.kind != "bin").cloned().ok_or_else(|| LaunchError::NoTarget {
        name: name.to_owned(),
        nearest: nearest(name, targets.iter().map(|t| &*t.name)).map(str::to_owned),
    })
}

/// Builds the target, and returns its path.
fn build(target: &Target, cargo: &[OsString]) -> Result<PathBuf, LaunchError> {
    let chosen = cargo.iter().any(|w| w == "--release" || w.to_string_lossy().starts_with("--profile"));
    let named = cargo.iter().any(|w| w == "-p" || w.to_string_lossy().starts_with("--package"));
    let mut command = command();
    command.args(["build", "--message-format=json-render-diagnostics"]);
    command.arg(format!("--{}", target.kind)).arg(&target.name).args(cargo);
    if !named {
        command.args(["--package", &target.package]);
    }
    if !chosen {
        command.arg("--release");
    }
    let long = format!("building {}", target.name);
    let messages = ask(&mut command, "build", Some(&long))?;
    let built = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    built
        .filter(|m| m["target"]["name"] == *target.name)
        .filter_map(|m| m["executable"].as_str().map(PathBuf::from))
        .next_back()
        .filter(|path| path != Path::new(""))
        .ok_or(LaunchError::Cargo { what: "build", code: 70, said: "it named no program".to_owned() })
}

fn command() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a cargo command and returns its standard output. Its standard error is part of the error if it fails; if `long` is some text and the command
/// takes long, both are shown while it runs. Files in memory receive both streams, so that no thread has to read them.
fn ask(command: &mut Command, what: &'static str, long: Option<&str>) -> Result<String, LaunchError> {
    let failed = |source: std::io::Error| LaunchError::System { call: "cargo", source };
    let memory = || memfd_create("output", MemfdFlags::CLOEXEC).map(File::from).map_err(|e| failed(e.into()));
    let (out, err) = (memory()?, memory()?);
    let copy = |file: &File| file.try_clone().map(Stdio::from).map_err(failed);
    let mut child = command.stdin(Stdio::null()).stdout(copy(&out)?).stderr(copy(&err)?).spawn().map_err(failed)?;
    let mut shown = 0;
    if let Some(text) = long
        && takes(&child, LONG)
    {
        eprintln!("charmrun: {text}");
        while takes(&child, OFTEN) {
            let news = read_from(&err, shown).map_err(failed)?;
            shown += news.len() as u64;
            // If this fails, there is no way to report it.
            let _ = std::io::stderr().write_all(&news);
        }
    }
    let status = child.wait().map_err(failed)?;
    let text = |file: &File, at| read_from(file, at).map(|b| String::from_utf8_lossy(&b).into_owned()).map_err(failed);
    if !status.success() {
        let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        return Err(LaunchError::Cargo { what, code, said: text(&err, shown)? });
    }
    text(&out, 0)
}

/// All bytes from `at` on; does not move the offset at which the other process writes.
fn read_from(file: &File, at: u64) -> std::io::Result<Vec<u8>> {
    let len = file.metadata()?.len().saturating_sub(at);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

/// Whether the child still runs after `time`. `false` if the kernel cannot say.
fn takes(child: &Child, time: Timespec) -> bool {
    pidfd_open(Pid::from_child(child), PidfdFlags::empty())
        .is_ok_and(|fd| poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&time)) == Ok(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn cargos_options_and_ours_may_mix_before_the_name_and_all_after_it_is_the_programs() {
        let check = |line: &str, pes, cargo: &str, program: &str| {
            let line = read(words(line)).unwrap();
            assert_eq!((line.options.pes, line.cargo, line.program), (pes, words(cargo), words(program)));
        };
        check("charmrun +p4 stencil --opt ++x", Some(4), "", "stencil --opt ++x");
        check(
            "--profile dev +p 4 -p a ++ppn 2 --features=x stencil --release",
            Some(4),
            "--profile dev -p a --features=x",
            "stencil --release",
        );
        check("+p2 -- --profile dev", Some(2), "", "--profile dev");
        check("--release", None, "--release", "");
    }

    #[test]
    fn a_target_is_found_by_its_name_and_package() {
        let target = |package: &str, kind: &str, name: &str| Target {
            package: package.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
        };
        let targets = [target("a", "example", "ring"), target("b", "bin", "ring"), target("c", "example", "stencil3d")];
        assert_eq!(find(&targets, "ring", &[]).unwrap(), targets[1]);
        assert_eq!(find(&targets, "ring", &words("--package=a")).unwrap(), targets[0]);
        let error = find(&targets, "stencil", &[]).unwrap_err();
        assert_eq!(error.code(), 64);
        assert!(error.to_string().ends_with("(did you mean stencil3d?)"), "{error}");
    }
}
