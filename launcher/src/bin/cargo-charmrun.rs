//! `cargo charmrun +p4 NAME`: builds a program or example of the workspace, then runs it as `charmrun` does.

use std::process::ExitCode;

fn main() -> ExitCode {
    charm4rs_launcher::cargo_charmrun(std::env::args_os().skip(1))
}
