//! Runs `charmrun` on the test program.

#![allow(dead_code, unused_imports, reason = "each test program uses a part of it")]

pub(crate) mod hosts;
mod job;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

pub(crate) use job::{Ended, GONE, Job, assert_gone, processes};

pub(crate) const CHARMRUN: &str = env!("CARGO_BIN_EXE_charmrun");
pub(crate) const PROCESS: &str = env!("CARGO_BIN_EXE_charmrun-test-process");

/// `charmrun` with these arguments, in which `PROCESS` stands for the test program.
pub(crate) fn command(line: &str) -> (Command, String) {
    let (mut command, mark) = job::marked(CHARMRUN);
    command.args(line.split_whitespace().map(|word| if word == "PROCESS" { PROCESS } else { word }));
    (command, mark)
}

/// Runs a job from a shell that first runs `prelude`.
pub(crate) fn run_after(prelude: &str, redirections: &str, line: &str) -> Ended {
    let (base, mark) = command(line);
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("{prelude}\nexec \"$0\" \"$@\" {redirections}"), CHARMRUN]).args(base.get_args());
    shell.envs(base.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Job::spawn(shell, mark).end()
}

/// Starts a job.
pub(crate) fn start(line: &str) -> Job {
    let (command, mark) = command(line);
    Job::spawn(command, mark)
}

/// Runs a job to its end, and checks that nothing of it is left.
pub(crate) fn run(line: &str) -> Ended {
    start(line).end()
}

/// A file that is removed at the end of the test.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str, text: &str, mode: u32) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its mode");
        Self(path)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("text")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Asserts that the output consists of the whole lines `<rank:i:xxx>`, in order, `count` of each rank.
pub(crate) fn check_lines(text: &str, ranks: u32, count: usize) {
    let mut next: HashMap<u32, usize> = HashMap::new();
    for line in text.lines() {
        let inside = line.strip_prefix('<').and_then(|l| l.strip_suffix('>')).unwrap_or_else(|| panic!("cut: {line}"));
        let [rank, i, x] = inside.split(':').collect::<Vec<_>>()[..] else { panic!("mixed: {line}") };
        assert!(x.bytes().all(|b| b == b'x'), "mixed: {line}");
        let expected = next.entry(rank.parse().expect("a rank")).or_default();
        assert_eq!(i.parse(), Ok(*expected), "order of process {rank}");
        *expected += 1;
    }
    assert_eq!(next, (0..ranks).map(|r| (r, count)).collect());
}
