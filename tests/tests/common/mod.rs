//! Programs of the same build.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The launcher in the folder of `program`.
pub(crate) fn charmrun(program: &str) -> PathBuf {
    beside(program, "charm4rs-launcher", "charmrun")
}

/// A program of the examples, as a word of a command line.
#[allow(dead_code, reason = "tests of launchers use it")]
pub(crate) fn example(program: &str, name: &str) -> String {
    beside(program, "charm4rs-examples", name).display().to_string()
}

/// A program of another package in the folder of `program`: cargo does not build it for a test of this package alone.
pub(crate) fn beside(program: &str, package: &str, name: &str) -> PathBuf {
    let folder = Path::new(program).parent().expect("a program lies in a folder");
    let path = folder.join(name);
    if !path.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", package, "--bin", name]);
        if folder.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo can be started").success(), "{name} can be built");
    }
    path
}
