//! Other programs, run while this PE sleeps.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use charm4rs::Job;

use crate::place::unpin;

/// The prefix of the variables that a job sets for its processes: they must not be passed to other jobs.
const OURS: &str = "CHARM4RS_";

/// A folder of this run, removed with it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("charmbench-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|error| format!("{} cannot be made: {error}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file into it.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.0.join(name);
        std::fs::write(&path, text).map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
        Ok(path)
    }
}

impl Folder {
    /// Returns what a program prints, or its error if it fails. This PE sleeps in the meantime, and checks now and then.
    pub(crate) async fn said(&self, job: &Job, command: &mut Command) -> Result<String, String> {
        let status = Running::new(self.heard(command)?)?.end(job).await?;
        self.what_was_said(command, status)
    }

    /// The same; this PE does nothing else in the meantime, so that the end is noticed at once.
    pub(crate) fn said_at_once(&self, command: &mut Command) -> Result<String, String> {
        let status = Running::new(self.heard(command)?)?.0.wait().map_err(|error| error.to_string())?;
        self.what_was_said(command, status)
    }

    /// Redirects a program's output into files of this folder.
    fn heard<'a>(&self, command: &'a mut Command) -> Result<&'a mut Command, String> {
        let open = |name| std::fs::File::create(self.path().join(name)).map_err(|error| error.to_string());
        Ok(command.stdin(Stdio::null()).stdout(open("out")?).stderr(open("err")?))
    }

    fn what_was_said(&self, command: &Command, status: ExitStatus) -> Result<String, String> {
        let read = |name| std::fs::read_to_string(self.path().join(name)).unwrap_or_default();
        if status.success() {
            return Ok(read("out"));
        }
        let name = command.get_program().to_string_lossy();
        Err(format!("{name} ended with {status}: {}", read("err").lines().next().unwrap_or_default()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A program of another job, or of none.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with(OURS)).for_each(|(name, _)| {
        command.env_remove(name);
    });
    command
}

/// This program.
pub(crate) fn this_program() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|error| error.to_string())
}

/// The launcher that was built with this program.
pub(crate) fn launcher() -> Result<PathBuf, String> {
    let launcher = this_program()?.with_file_name("charmrun");
    if launcher.exists() {
        Ok(launcher)
    } else {
        Err(format!("there is no {} (cargo build --release)", launcher.display()))
    }
}

/// A running process, which is killed when this is dropped.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn new(command: &mut Command) -> Result<Self, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        // A process inherits the affinity of the thread that starts it: it must not run only on this PE's core.
        let spawned = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unpin();
                command.spawn()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        spawned.map(Self).map_err(|error| format!("{name} cannot be run: {error}"))
    }

    pub(crate) async fn end(&mut self, job: &Job) -> Result<ExitStatus, String> {
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) => job.sleep(Duration::from_millis(20)).await,
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
