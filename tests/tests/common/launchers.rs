//! Common code for launchers of sites: how a job is started, and laws that hold for every launcher.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Signal, kill_process};

use super::common;
use super::hosts::Hosts;
use super::job::{self, Ended, Job};

const FAULTY: &str = env!("CARGO_BIN_EXE_faulty");
/// A folder for the files that a launcher leaves behind when it is killed.
const TEMPORARY: &str = env!("CARGO_TARGET_TMPDIR");

/// A site's launcher.
pub(crate) struct Launcher {
    /// The full name, because another launcher may own the shorter ones.
    pub(crate) program: &'static str,
    /// Options for every command line.
    pub(crate) options: &'static [&'static str],
}

impl Launcher {
    /// Whether it is installed.
    pub(crate) fn possible(&self) -> bool {
        let found = Command::new(self.program).arg("--version").output().is_ok_and(|out| out.status.success());
        if !found {
            eprintln!("skipped: there is no {} here (as root, ci/setup installs it)", self.program);
        }
        found
    }

    /// Starts a job with this command line.
    pub(crate) fn start(&self, line: &str) -> Job {
        let (mut command, mark) = job::marked(self.program);
        command.args(self.options).args(line.split_whitespace());
        command.env("RUST_BACKTRACE", "0").env("TMPDIR", TEMPORARY);
        Job::spawn(command, mark)
    }

    pub(crate) fn run(&self, line: &str) -> Ended {
        self.start(line).end()
    }

    /// A job with this command line on hosts that the launcher reaches by a shell, which `reached` configures.
    pub(crate) fn run_on(&self, hosts: &Hosts, reached: impl FnOnce(&mut Command, &Path), line: &str) -> Ended {
        let (marked, mark) = job::marked(self.program);
        let mut command = hosts.on(0, self.program);
        command.envs(marked.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("TMPDIR", TEMPORARY).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let shell = hosts.write("shell", &format!("#!/bin/sh\nexec {} \"$@\"\n", hosts.shell()));
        std::fs::set_permissions(&shell, std::fs::Permissions::from_mode(0o755)).expect("our file");
        command.args(self.options);
        reached(&mut command, &shell);
        command.args(line.split_whitespace());
        let ended = Job::spawn(command, mark).end();
        hosts.assert_empty();
        ended
    }

    /// With that option a program is a job by itself; and within the launcher's job charmrun's own options count.
    pub(crate) fn does_not_include_programs_that_are_jobs_by_themselves(&self) {
        let hello = common::example(FAULTY, "hello");
        let ended = self.run(&format!("-n 2 {hello} ++bootstrap alone +p1"));
        let all = ended.succeeded().stdout.matches("have answered, and one of them again").count();
        assert_eq!(all, 2, "two jobs: {ended:?}");
        let charmrun = common::charmrun(FAULTY);
        let ended = self.run(&format!("-n 1 {} +p4 ++ppn 1 {hello}", charmrun.display()));
        assert!(ended.succeeded().stdout.contains("from 3 of a group on PE 3"), "{ended:?}");
    }

    /// The launcher's own exit code counts, and its line may come before the others'; the test always checks that nothing is left.
    pub(crate) fn ends_the_job_of_a_process_that_is_killed(&self) {
        for (victim, options) in [(0, ""), (3, ""), (2, "++transport tcp")] {
            let mut job = self.start(&format!("-n 4 {FAULTY} ready-and-compute {options}"));
            let pids = job.ready(4);
            kill_process(pids[victim], Signal::KILL).expect("it runs");
            let ended = job.end();
            assert_ne!(ended.code, 0, "{ended:?}");
            assert!(ended.stderr.matches("error[").count() <= 1, "{ended:?}");
        }
    }

    pub(crate) fn is_outlived_by_nothing(&self) {
        for signal in [Signal::KILL, Signal::TERM] {
            let mut job = self.start(&format!("-n 4 {FAULTY} ready-and-compute"));
            job.ready(4);
            job.signal(signal);
            // `end` checks that nothing is left. The launcher decides on its exit code after a signal.
            job.end();
        }
    }
}
