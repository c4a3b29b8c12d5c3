//! The operations of Python's chares: the programs of `benches/python`, which are embedded in this one, run by interpreters.

use std::path::PathBuf;

use charm4rs::Job;
use clap::Args;

use crate::child::{Folder, Running, command};

/// Measures the operations of charm4py's model, with the installed package of that name.
pub(crate) const PROGRAM: &str = include_str!("../../python/charmbench.py");

const PROGRAMS: [(&str, &str); 2] =
    [("charmbench.py", PROGRAM), ("compare.py", include_str!("../../python/compare.py"))];

#[derive(Args, Clone, PartialEq, Eq)]
pub(crate) struct Python {
    /// PEs of the jobs that are measured.
    #[arg(long, default_value_t = 2)]
    pes: u32,
    /// The number of rounds, in each of which every interpreter has its turn.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Few repetitions: a quick check.
    #[arg(long)]
    quick: bool,
    /// An interpreter that has a package charm4py.
    #[arg(default_value = "python3")]
    python: PathBuf,
    /// Another one, for the ratios: for example with charm4py's own package.
    other: Option<PathBuf>,
}

/// Runs them; this PE sleeps in the meantime.
///
/// # Errors
/// A text, if they cannot be run, or an interpreter fails, which has printed the reason.
pub(crate) async fn run(job: &Job, what: &Python) -> Result<(), String> {
    let folder = Folder::new()?;
    PROGRAMS.iter().try_for_each(|(name, text)| folder.write(name, text).map(drop))?;
    let mut compare = command(&what.python);
    compare.arg(folder.path().join("compare.py"));
    compare.args([format!("+p{}", what.pes), format!("--rounds={}", what.rounds)]);
    compare.args(what.quick.then_some("--quick")).arg(&what.python).args(&what.other);
    match Running::new(&mut compare)?.end(job).await? {
        status if status.success() => Ok(()),
        status => Err(format!("{} ended with {status}", what.python.display())),
    }
}
