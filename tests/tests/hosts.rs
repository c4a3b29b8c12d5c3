//! `ci/hosts`, on which other tests rely: hosts reach one another, cables can be cut, and nothing is left behind. Knows nothing of jobs. Needs root,
//! for namespaces; without root it prints that it tests nothing.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn hosts(count: &str, script: &str) -> Command {
    let tool =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").join("ci/hosts");
    let mut command = Command::new(tool);
    command.args([count, "bash", "-c", script]).stdin(Stdio::null());
    command
}

fn run(count: &str, script: &str) -> Output {
    hosts(count, script).output().expect("ci/hosts can be started")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text").trim()
}

fn namespaces() -> String {
    let list = Command::new("ip").args(["netns", "list"]).output().expect("ip is installed by ci/setup");
    text(&list.stdout).to_owned()
}

/// Whether namespaces can be created here.
fn possible() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("not tested: making network namespaces needs root");
    }
    root
}

/// Whether a process runs: it exists, and is not a zombie.
fn runs(pid: &str) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid).join("status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains("zombie"))
}

/// Prints `refused` if host $2 answers host $1, and `silent` otherwise. No process listens, so an answer is a refusal.
const ASK: &str = r#"ask() {
  local to=($CHARM4RS_HOSTS) said
  said=$("$CHARM4RS_ON" on "$1" timeout 2 bash -c "echo >/dev/tcp/${to[$2]}/9" 2>&1)
  [[ $said == *refused* ]] && echo refused || echo silent
}
"#;

#[test]
fn the_code_of_the_command_is_that_of_the_whole() {
    if possible() {
        assert_eq!(run("1", "exit 7").status.code(), Some(7));
    }
}

#[test]
fn an_invalid_number_of_hosts_is_a_usage_error() {
    for count in ["0", "-1", "many", "1000"] {
        assert_eq!(run(count, "true").status.code(), Some(64), "{count}");
    }
}

#[test]
fn hosts_have_names_and_addresses_and_reach_one_another() {
    if !possible() {
        return;
    }
    let out = run(
        "2",
        &format!(
            r#"{ASK} "$CHARM4RS_ON" on 1 hostname; echo $CHARM4RS_HOSTS; echo $CHARM4RS_HOST_ADDRS; ask 0 1; ask 1 0"#
        ),
    );
    let lines: Vec<&str> = text(&out.stdout).lines().collect();
    let [hostname, names, addresses, there, back] = lines[..] else { panic!("{out:?}") };
    assert_eq!(names.split_whitespace().nth(1), Some(hostname));
    assert_eq!(addresses, "10.77.0.1 10.77.0.2");
    assert_eq!((there, back), ("refused", "refused"), "{out:?}");
}

#[test]
fn a_cut_cable_is_silent_until_it_is_plugged_in_again() {
    if !possible() {
        return;
    }
    let out = run(
        "2",
        &format!(
            r#"{ASK} "$CHARM4RS_ON" cut 1; ask 0 1; "$CHARM4RS_ON" mend 1; for i in 1 2 3 4 5; do
        [[ $(ask 0 1) == refused ]] && echo refused && exit; done"#
        ),
    );
    assert_eq!(text(&out.stdout), "silent\nrefused", "{out:?}");
}

#[test]
fn nothing_is_left_of_the_hosts_and_of_what_runs_on_them() {
    if !possible() {
        return;
    }
    let out = run(
        "2",
        r#""$CHARM4RS_ON" on 1 sleep 600 >/dev/null 2>&1 & until pids=$(ip netns pids ${CHARM4RS_HOSTS#* }) && [[ $pids ]]; do :; done
        echo $CHARM4RS_HOSTS $pids"#,
    );
    let words: Vec<&str> = text(&out.stdout).split_whitespace().collect();
    assert!(words.len() >= 3, "{out:?}");
    let left = namespaces();
    assert!(
        words[..2].iter().all(|name| !left.contains(name) && !Path::new("/etc/netns").join(name).exists()),
        "{left}"
    );
    assert!(!words[2..].iter().any(|pid| runs(pid)), "{words:?} have ended");
}

#[test]
fn leftovers_of_a_killed_run_are_removed_by_the_next() {
    if !possible() {
        return;
    }
    // The command kills the ci/hosts in which it runs.
    let out = run("1", r#"echo ${CHARM4RS_HOSTS%h*}; kill -KILL $PPID"#);
    assert_eq!(out.status.signal(), Some(9));
    let id = text(&out.stdout);
    assert!(id.starts_with("c4r"), "{out:?}");
    assert_eq!(run("1", "true").status.code(), Some(0));
    assert!(!namespaces().contains(&format!("{id}h")), "{id} was swept");
}
