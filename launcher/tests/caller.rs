//! The launcher as a function: its caller's state is restored when the job is over. Knows nothing of what jobs do.

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use common::PROCESS;
use rustix::process::{Resource, Rlimit, child_subreaper, getrlimit, set_child_subreaper, setrlimit};

/// A process runs one job at a time.
static ONE: Mutex<()> = Mutex::new(());

fn launch(line: &str) -> u8 {
    let words = line.split_whitespace().map(|word| if word == "PROCESS" { PROCESS } else { word }.into());
    charm4rs_launcher::launch_script(words, OsStr::new("python3"), "")
}

/// The state of this process that a job could change: signals that this thread blocks, ignores or catches; whether it adopts orphans; the limit of
/// open files; open descriptors; children.
fn state() -> (Vec<String>, bool, Rlimit, BTreeSet<String>, Vec<String>) {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("proc");
    let signals = status.lines().filter(|line| line.starts_with("Sig") && !line.starts_with("SigQ"));
    let open = std::fs::read_dir("/proc/self/fd").expect("proc").flatten();
    let open = open.filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.display().to_string()));
    let tasks = std::fs::read_dir("/proc/self/task").expect("proc").flatten();
    let children = tasks.flat_map(|task| {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    });
    let adopts = child_subreaper().expect("prctl").is_some();
    (signals.map(str::to_owned).collect(), adopts, getrlimit(Resource::Nofile), open.collect(), children.collect())
}

fn sleeper() -> Child {
    Command::new("sleep").arg("1000.125").stdin(Stdio::null()).spawn().expect("sleep")
}

#[test]
fn a_caller_of_the_launcher_is_as_before() {
    let _one = ONE.lock();
    let mut own = [sleeper(), sleeper()];
    own[1].kill().expect("ours");
    // Lower than some jobs need, so that it is raised.
    setrlimit(Resource::Nofile, Rlimit { current: Some(60), ..getrlimit(Resource::Nofile) }).expect("a limit");
    for adopts in [false, true] {
        set_child_subreaper(adopts.then(rustix::process::getpid)).expect("prctl");
        let before = state();
        for (line, code) in [
            ("+p2 ++ppn 1 PROCESS children", 0),
            ("+p3 ++ppn 1 PROCESS kill 1", 137),
            ("+p12 ++ppn 1 PROCESS exit 4", 4),
            ("+p1 /no/such/program", 78),
            ("+pnone", 64),
        ] {
            assert_eq!(launch(line), code, "{line}");
            assert_eq!(state(), before, "{line}");
        }
    }
    assert!(own[0].try_wait().expect("ours").is_none(), "the launcher has killed its caller's child");
    own[0].kill().and_then(|()| own[0].wait()).expect("ours");
    let status = own[1].wait().expect("the launcher has taken the status of its caller's child");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}

#[test]
fn a_second_job_in_a_process_is_refused() {
    let _one = ONE.lock();
    let first = std::thread::spawn(|| {
        // This launch may be refused itself, while the other one is tried.
        loop {
            match launch("+p2 ++ppn 1 ++timeout 1 PROCESS never-joins-the-fence") {
                64 => {}
                code => return code,
            }
        }
    });
    // The first job is running when the second is refused.
    while launch("+p1 PROCESS exit 3") != 64 {}
    assert_eq!(first.join().expect("it ends"), 69);
}
