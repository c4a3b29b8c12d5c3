//! Several hosts for jobs under test (`ci/hosts`), each with an ssh server. Knows nothing of what the jobs do.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::job::{GONE, Job, marked};

/// The hosts exist until this is dropped.
pub(crate) struct Hosts {
    child: Child,
    /// The hosts exist while this is open.
    stdin: Option<ChildStdin>,
    names: Vec<String>,
    folder: PathBuf,
}

const SERVERS: &str = r#"mkdir -p /run/sshd
i=0
for name in $CHARM4RS_HOSTS; do
    "$CHARM4RS_ON" on $i /usr/sbin/sshd -D -e -f "$FOLDER/sshd_config" 2>"$FOLDER/log$i" </dev/null >/dev/null &
    i=$((i + 1))
done
echo "$CHARM4RS_HOSTS"
read -r _ || true
"#;

fn tool(name: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
    Command::new(root.join("ci").join(name))
}

impl Hosts {
    /// Creates `count` hosts; `None` if namespaces cannot be created.
    pub(crate) fn new(count: usize) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: making network namespaces needs root");
            return None;
        }
        assert!(Path::new("/usr/sbin/sshd").exists(), "sshd is installed by ci/setup");
        let accounts = std::fs::read_to_string("/etc/shadow").unwrap_or_default();
        if accounts.lines().any(|line| line.starts_with("root:!")) {
            eprintln!(
                "skipped: root's account is locked, and ssh does not accept it (passwd --unlock, or a password of *)"
            );
            return None;
        }
        let name = format!("hosts-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        assert!(tool("keys").arg(&folder).status().expect("ci/keys can be started").success());
        let mut command = tool("hosts");
        command.args([&count.to_string(), "bash", "-c", SERVERS]).env("FOLDER", &folder);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ci/hosts can be started");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a pipe");
        let names: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        if names.is_empty() {
            let status = child.wait().expect("our child");
            eprintln!("skipped: network namespaces cannot be made here (ci/hosts: {status})");
            let _ = std::fs::remove_dir_all(&folder);
            return None;
        }
        let hosts = Self { stdin: child.stdin.take(), child, names, folder };
        hosts.write("nodelist", &hosts.names.join("\n"));
        until("the servers listen", || {
            (0..count).all(|i| {
                let log = std::fs::read_to_string(hosts.folder.join(format!("log{i}"))).unwrap_or_default();
                log.contains("Server listening")
            })
        });
        Some(hosts)
    }

    pub(crate) fn name(&self, host: usize) -> &str {
        &self.names[host]
    }

    /// A file that is removed with the hosts.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn hosts(&self, args: &[&str]) -> Command {
        let mut command = tool("hosts");
        command.args(args).env("CHARM4RS_HOSTS", self.names.join(" "));
        command
    }

    /// Unplugs a host's cable, or plugs it in again.
    pub(crate) fn cut(&self, host: usize) {
        assert!(self.hosts(&["cut", &host.to_string()]).status().expect("ci/hosts").success());
    }

    /// A job over all hosts, started on the first: `charmrun` with these options, and then those after `--`.
    pub(crate) fn start(&self, charmrun: &Path, line: &str) -> Job {
        let (command, mark) = self.command(charmrun, line);
        Job::spawn(command, mark)
    }

    /// A command on a host.
    pub(crate) fn on(&self, host: usize, program: &str) -> Command {
        self.hosts(&["on", &host.to_string(), program])
    }

    /// The command of such a job and its mark.
    pub(crate) fn command(&self, charmrun: &Path, line: &str) -> (Command, String) {
        let (job, mark) = marked(charmrun.to_str().expect("a path of text"));
        let mut command = self.on(0, charmrun.to_str().expect("a path of text"));
        command.envs(job.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.arg("++nodelist").arg(self.folder.join("nodelist"));
        command.arg("++remote-shell").arg(self.shell());
        command.args(line.split_whitespace());
        (command, mark)
    }

    /// The remote shell that reaches the other hosts.
    pub(crate) fn shell(&self) -> String {
        format!("ssh -F {}/ssh_config", self.folder.display())
    }

    /// The processes of a host except its ssh server: numbers and command lines.
    pub(crate) fn processes(&self, host: usize) -> Vec<(i32, String)> {
        let list = Command::new("ip").args(["netns", "pids", &self.names[host]]).output().expect("ip");
        let numbers = String::from_utf8_lossy(&list.stdout).into_owned();
        let line = |number: &str| {
            let text = std::fs::read(Path::new("/proc").join(number).join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&text).replace('\0', " ").trim().to_owned()
        };
        numbers
            .split_whitespace()
            .map(|number| (number.parse().expect("a number"), line(number)))
            // A process that has ended has no command line.
            .filter(|(_, line)| !line.is_empty() && !line.contains("sshd"))
            .collect()
    }

    /// The processes of a host whose command lines begin with `what`.
    #[track_caller]
    pub(crate) fn all(&self, host: usize, what: &str) -> Vec<rustix::process::Pid> {
        let all = self.processes(host);
        let found = all.iter().filter(|(_, line)| line.starts_with(what));
        let found: Vec<_> = found.filter_map(|(pid, _)| rustix::process::Pid::from_raw(*pid)).collect();
        assert!(!found.is_empty(), "{what} on host {host}: {all:?}");
        found
    }

    /// Asserts that within the contract's time nothing of a job is left on any host.
    #[track_caller]
    pub(crate) fn assert_empty(&self) {
        let since = Instant::now();
        loop {
            let left: Vec<_> = (0..self.names.len()).flat_map(|host| self.processes(host)).collect();
            if left.is_empty() {
                return;
            }
            assert!(since.elapsed() < GONE, "the job has left behind {left:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Waits until `so` returns true.
#[track_caller]
pub(crate) fn until(what: &str, so: impl Fn() -> bool) {
    let since = Instant::now();
    while !so() {
        assert!(since.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
