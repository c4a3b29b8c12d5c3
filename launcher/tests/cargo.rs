//! `cargo charmrun`, on a small workspace of its own.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::Job;

struct Workspace(PathBuf);

impl Workspace {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("workspace-{name}-{}", std::process::id()));
        let write = |file: &str, text: &str| {
            let file = path.join(file);
            std::fs::create_dir_all(file.parent().expect("it has one")).expect("a folder");
            std::fs::write(file, text).expect("a file");
        };
        write("Cargo.toml", "[workspace]\n[package]\nname = \"small\"\nversion = \"0.0.0\"\nedition = \"2024\"\n");
        let program = r#"fn main() {
            println!("{} {:?}", if cfg!(debug_assertions) { "dev" } else { "release" }, std::env::args().skip(1).collect::<Vec<_>>());
            std::process::exit(7);
        }"#;
        write("src/bin/seven.rs", program);
        write("examples/eight.rs", "fn main() { std::process::exit(8); }");
        write("examples/broken.rs", "fn main() { let x: u8 = \"no number\"; }");
        Self(path)
    }

    fn run(&self, line: &str) -> common::Ended {
        let (base, mark) = common::command("");
        let mut command = Command::new(env!("CARGO_BIN_EXE_cargo-charmrun"));
        // As cargo starts a subcommand.
        command.arg("charmrun").args(line.split_whitespace()).current_dir(&self.0);
        command.envs(base.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("CARGO_TARGET_DIR", self.0.join("target")).env("CARGO_NET_OFFLINE", "true");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut ended = Job::spawn(command, mark).end();
        // A build that takes long on a busy machine is announced first.
        if ended.stderr.starts_with("charmrun: building ") {
            let at = ended.stderr.find("charmrun: error[").unwrap_or(ended.stderr.len());
            ended.stderr.drain(..at);
        }
        ended
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(Path::new(&self.0));
    }
}

#[test]
fn a_program_or_example_is_built_and_run_by_its_name() {
    let workspace = Workspace::new("runs");
    let ended = workspace.run("+p2 seven --opt ++x");
    ended.failed(7, "process 0 ended with exit code 7");
    assert_eq!(ended.stdout, "release [\"--opt\", \"++x\"]\n");
    assert_eq!(workspace.run("--profile dev +p 2 seven").stdout, "dev []\n");
    workspace.run("+p2 eight").failed(8, "process 0 ended with exit code 8");
}

#[test]
fn a_name_that_does_not_exist_and_a_program_that_does_not_compile_are_errors() {
    let workspace = Workspace::new("fails");
    workspace
        .run("+p2 sevn")
        .failed(64, "no program or example of this workspace is called sevn (did you mean seven?)");
    workspace.run("+p2").failed(64, "no program given");
    let ended = workspace.run("+p2 broken");
    assert_eq!(ended.code, 101);
    assert!(ended.stderr.starts_with("charmrun: error[101]: cargo build failed, pe=- "), "{ended:?}");
    assert!(ended.stderr.contains("mismatched types"), "{ended:?}");
}
