//! See the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    charm4rs_launcher::charmrun(std::env::args_os().skip(1))
}
