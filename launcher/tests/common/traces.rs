//! What a job has outside of its processes, by which a test sees that nothing is left of it: listening sockets, objects in `/dev/shm`, temporary
//! files. Tests run side by side, so only what the job's own processes have had counts. Knows nothing of jobs but the mark in their environment.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A variable in the environment of everything that a job starts.
pub(crate) const MARK: &str = "CHARMRUN_TEST_JOB";

/// See the [module's text](self).
#[derive(Debug)]
pub(crate) struct Traces {
    /// Older objects are not the job's.
    since: SystemTime,
    /// Inodes.
    sockets: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
}

impl Traces {
    /// The traces of a job that is about to start.
    pub(crate) fn new() -> Self {
        Self { since: SystemTime::now(), sockets: BTreeSet::new(), files: BTreeSet::new() }
    }

    /// Adds what the job's processes have now.
    pub(crate) fn look(&mut self, mark: &str) {
        let listening = listening();
        for (pid, _) in processes(mark) {
            let folder = PathBuf::from(format!("/proc/{pid}"));
            let open = std::fs::read_dir(folder.join("fd")).into_iter().flatten().flatten();
            let open = open.filter_map(|fd| std::fs::read_link(fd.path()).ok());
            let maps = std::fs::read_to_string(folder.join("maps")).unwrap_or_default();
            let mapped = maps.lines().filter_map(|line| Some(PathBuf::from(&line[line.find('/')?..])));
            for path in open.chain(mapped) {
                let text = path.to_string_lossy();
                if let Some(inode) = text.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
                    if listening.contains(inode) {
                        self.sockets.insert(inode.to_owned());
                    }
                } else if (text.starts_with("/dev/shm/") || path.starts_with(std::env::temp_dir()))
                    && self.is_new(&path)
                {
                    self.files.insert(path);
                }
            }
        }
    }

    fn is_new(&self, path: &Path) -> bool {
        path.metadata().and_then(|file| file.created()).is_ok_and(|made| made >= self.since)
    }

    /// What is left, besides processes.
    pub(crate) fn left(&self) -> Vec<String> {
        let listening = if self.sockets.is_empty() { BTreeSet::new() } else { listening() };
        let sockets = self.sockets.intersection(&listening).map(|inode| format!("a listening socket, {inode}"));
        let files = self.files.iter().filter(|path| path.exists()).map(|path| path.display().to_string());
        sockets.chain(files).collect()
    }
}

/// Running processes that have inherited the job's mark, with their command lines.
pub(crate) fn processes(mark: &str) -> Vec<(i32, String)> {
    let wanted = format!("{MARK}={mark}");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // A process that cannot be read has just ended. A zombie has neither environment nor command line.
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|b| *b == 0).any(|variable| variable == wanted.as_bytes()) {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push((pid, String::from_utf8_lossy(&command).replace('\0', " ")));
        }
    }
    found
}

/// Inodes of all listening sockets.
fn listening() -> BTreeSet<String> {
    // The column of the state, its value for a listening socket, and the column of the inode.
    let tables = [("tcp", 3, "0A", 9), ("tcp6", 3, "0A", 9), ("unix", 3, "00010000", 6)];
    let rows = tables.into_iter().flat_map(|(table, at, state, inode)| {
        let text = std::fs::read_to_string(Path::new("/proc/net").join(table)).unwrap_or_default();
        let rows = text.lines().skip(1).map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        rows.filter(move |row| row.get(at).is_some_and(|s| s == state))
            .filter_map(move |row| row.get(inode).cloned())
            .collect::<Vec<_>>()
    });
    rows.collect()
}
