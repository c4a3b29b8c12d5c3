//! A program of the pages: the variable `BOOK_PROGRAM` names it. `build.rs` extracts them from the pages, `tests/programs.rs` runs them in jobs of
//! all kinds.

#![forbid(unsafe_code)]

use std::process::ExitCode;

include!(concat!(env!("OUT_DIR"), "/programs.rs"));

fn main() -> ExitCode {
    let wanted = std::env::var("BOOK_PROGRAM").unwrap_or_default();
    let Some((_, run)) = PROGRAMS.iter().find(|(name, _)| *name == wanted) else { return ExitCode::from(64) };
    run();
    ExitCode::SUCCESS
}
