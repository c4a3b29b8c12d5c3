//! The launcher of the same build.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The launcher that lies beside `program`. Another package's program: cargo does not build it for a test of this one alone.
pub(crate) fn charmrun(program: &str) -> PathBuf {
    let folder = Path::new(program).parent().expect("a program lies in a folder");
    let path = folder.join("charmrun");
    if !path.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "charm4rs-launcher", "--bin", "charmrun"]);
        if folder.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo can be started").success(), "charmrun can be built");
    }
    path
}
