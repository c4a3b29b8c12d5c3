//! The operations of Python's chares: the programs of `benches/python`, which are a part of this one, run by interpreters.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use charm4rs::Job;
use clap::Args;

/// What the job that this program is part of tells its processes: not for those of other jobs.
const OURS: &str = "CHARM4RS_";

const PROGRAMS: [(&str, &str); 2] = [
    ("charmbench.py", include_str!("../../python/charmbench.py")),
    ("compare.py", include_str!("../../python/compare.py")),
];

#[derive(Args, Clone, PartialEq, Eq)]
pub(crate) struct Python {
    /// PEs of the jobs that are measured.
    #[arg(long, default_value_t = 2)]
    pes: u32,
    /// How often each interpreter has its turn.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Few repetitions: to see that it works.
    #[arg(long)]
    quick: bool,
    /// An interpreter that has a package charm4py.
    #[arg(default_value = "python3")]
    python: PathBuf,
    /// Another one, for the ratios: with charm4py's own package, say.
    other: Option<PathBuf>,
}

/// A folder that is gone with it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs them; this PE sleeps meanwhile.
///
/// # Errors
/// In words, if that cannot be done, or an interpreter fails, which has said why.
pub(crate) async fn run(job: &Job, what: &Python) -> Result<(), String> {
    let folder = Folder(std::env::temp_dir().join(format!("charmbench-{}", std::process::id())));
    let write = || {
        std::fs::create_dir(&folder.0)?;
        PROGRAMS.iter().try_for_each(|(name, text)| std::fs::write(folder.0.join(name), text))
    };
    write().map_err(|error| format!("{} cannot be written: {error}", folder.0.display()))?;
    let mut command = Command::new(&what.python);
    std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with(OURS)).for_each(|(name, _)| {
        command.env_remove(name);
    });
    command.arg(folder.0.join("compare.py")).args([format!("+p{}", what.pes), format!("--rounds={}", what.rounds)]);
    command.args(what.quick.then_some("--quick")).arg(&what.python).args(&what.other);
    let ended = match command.spawn() {
        Ok(child) => end_of(job, child).await,
        Err(error) => Err(error),
    };
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} ended with {status}", what.python.display())),
        Err(error) => Err(format!("{} cannot be run: {error}", what.python.display())),
    }
}

async fn end_of(job: &Job, mut child: Child) -> std::io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        job.sleep(Duration::from_millis(50)).await;
    }
}
