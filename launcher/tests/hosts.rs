//! Jobs over several hosts, reached by ssh: how they start, what they exchange, how they fail, and that nothing is left of them on any host. Knows
//! nothing of how the hosts are made.

mod common;

use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::hosts::{Hosts, until};
use common::{CHARMRUN, Ended, Job, PROCESS, check_lines};
use rustix::process::{Signal, kill_process};

/// A job over all hosts, in whose line `PROCESS` is the test program.
fn start(hosts: &Hosts, line: &str) -> Job {
    hosts.start(Path::new(CHARMRUN), &line.replace("PROCESS", PROCESS))
}

fn run(hosts: &Hosts, line: &str) -> Ended {
    let ended = start(hosts, line).end();
    hosts.assert_empty();
    ended
}

#[test]
fn pes_are_spread_over_hosts_in_blocks_and_what_they_print_comes_home() {
    let Some(hosts) = Hosts::new(3) else { return };
    let check = |options: &str, want: &[&str]| {
        let ended = run(&hosts, &format!("{options} PROCESS where"));
        let lines: Vec<_> = ended.succeeded().sorted().into_iter().filter(|line| !line.starts_with("args")).collect();
        assert_eq!(lines, want, "{options}");
    };
    check("+p5", &["0/3 0..2 0", "1/3 2..4 0", "2/3 4..5 0"]);
    check("+p4 ++ppn 1 ++seed 7", &["0/4 0..1 7", "1/4 1..2 7", "2/4 2..3 7", "3/4 3..4 7"]);
    check("+p4 ++numHosts 2", &["0/2 0..2 0", "1/2 2..4 0"]);
    // This host is not one of the job's.
    let nodelist = hosts.write("others", &format!("group far\nhost {} ++cpus 2\n", hosts.name(2)));
    check(&format!("+p2 ++ppn 1 ++nodelist {} ++nodegroup far", nodelist.display()), &["0/2 0..1 0", "1/2 1..2 0"]);
}

#[test]
fn processes_of_all_hosts_exchange_values_and_those_of_one_descriptors() {
    let Some(hosts) = Hosts::new(2) else { return };
    let ended = run(&hosts, "+p4 ++ppn 1 PROCESS exchange");
    assert_eq!(ended.succeeded().sorted(), ["0 exchanged", "1 exchanged", "2 exchanged", "3 exchanged"]);
    let ended = run(&hosts, "+p4 ++ppn 1 PROCESS share 3");
    assert_eq!(ended.succeeded().sorted(), ["0 shared", "1 shared", "2 shared", "3 shared"]);
    assert_eq!(run(&hosts, "+p4 ++ppn 1 PROCESS secret").succeeded().sorted(), ["secret"; 4]);
}

#[test]
fn a_process_finds_the_launchers_folder_arguments_and_environment() {
    let Some(hosts) = Hosts::new(2) else { return };
    let script = "import os, sys; print(os.getcwd(), os.environ['MARK'], sys.argv[1:], 'SSH_AUTH_SOCK' in os.environ); \
                  os.execv(sys.argv[1], sys.argv[1:])";
    let (mut command, mark) = hosts.command(Path::new(CHARMRUN), "+p2 ++ppn 1 python3 -c");
    command.args([script, PROCESS, "where", "a b", "'$x'"]).current_dir(hosts.folder());
    command.env("MARK", "a 'b' $c\n").env("SSH_AUTH_SOCK", "/nowhere");
    let ended = Job::spawn(command, mark).end();
    let here = hosts.folder().display();
    let line = |own| format!("{here} a 'b' $c\n ['{PROCESS}', 'where', 'a b', \"'$x'\"] {own}\n");
    assert!(ended.stdout.contains(&line("True")) && ended.stdout.contains(&line("False")), "{ended:?}");
    assert_eq!(ended.stdout.matches(r#"args ["a b", "'$x'"]"#).count(), 2, "{ended:?}");
    hosts.assert_empty();
}

#[test]
fn lines_of_all_hosts_are_whole_and_none_is_lost() {
    let Some(hosts) = Hosts::new(2) else { return };
    // More than may be on its way, for a reader that sleeps for a while.
    let mut job = start(&hosts, "+p4 ++ppn 1 PROCESS lines 500 7");
    let mut output = job.output();
    let mut text = vec![0; 2000];
    output.read_exact(&mut text).expect("output");
    std::thread::sleep(Duration::from_millis(500));
    output.read_to_end(&mut text).expect("output");
    job.end().succeeded();
    check_lines(std::str::from_utf8(&text).expect("text"), 4, 500);
    hosts.assert_empty();
}

#[test]
fn the_jobs_exit_status_is_the_programs_wherever_it_ends() {
    let Some(hosts) = Hosts::new(2) else { return };
    let ended = run(&hosts, "+p4 ++ppn 1 PROCESS exit 3");
    assert_eq!((ended.code, &*ended.stderr), (3, ""));
    let ended = run(&hosts, "+p4 ++ppn 1 PROCESS hard-exit 3 5");
    assert_eq!(ended.failed_on(hosts.name(1), 5, "process 3 ended with exit code 5").pe(), Some(3));
    let ended = run(&hosts, "+p4 ++ppn 1 ++timeout 2 PROCESS never-joins-the-fence");
    let what = format!("process 1 of 4 missing on {}", hosts.name(0));
    ended.failed_on(hosts.name(0), 69, &what);
    let ended = run(&hosts, "+p4 ++ppn 1 PROCESS abort 2");
    assert_eq!(ended.failed_on(hosts.name(1), 1, "it broke: here").pe(), Some(2));
    assert_eq!(ended.stderr.lines().skip(1).collect::<Vec<_>>(), ["  at a", "  at b"]);
    let ended = run(&hosts, "+p4 ++ppn 1 PROCESS segv 3");
    ended.failed_on(hosts.name(1), 139, "killed by signal 11 (access outside memory)");
}

#[test]
fn a_process_killed_on_another_host_ends_the_job_with_137() {
    let Some(hosts) = Hosts::new(2) else { return };
    let ended = run(&hosts, "+p4 ++ppn 1 PROCESS kill 3");
    let what = "process 3 was killed by signal 9 (out of memory?)";
    assert_eq!(ended.failed_on(hosts.name(1), 137, what).pe(), Some(3));
    let ended = run(&hosts, "+p4 ++ppn 1 PROCESS lost-peer");
    ended.failed_on(hosts.name(0), 137, "process 0 was killed by signal 9");
}

#[test]
fn what_processes_leave_behind_on_another_host_ends_with_the_job() {
    let Some(hosts) = Hosts::new(2) else { return };
    run(&hosts, "+p2 PROCESS children").succeeded();
}

#[test]
fn a_stopped_process_of_another_host_is_detected() {
    let Some(hosts) = Hosts::new(2) else { return };
    let ended = run(&hosts, "+p2 ++ppn 1 PROCESS stop 1");
    assert_eq!(ended.code, 69, "{ended:?}");
    assert!(ended.stderr.contains("error[69]: process 1 has been unresponsive for 5 s"), "{ended:?}");
    assert!(ended.took < Duration::from_secs(8), "{ended:?}");
}

/// A running job of two hosts and four processes.
fn running(hosts: &Hosts, what: &str) -> Job {
    let mut job = start(hosts, &format!("+p4 ++ppn 1 PROCESS {what}"));
    job.ready(4);
    job
}

#[test]
fn a_killed_shell_or_agent_is_a_lost_host() {
    let Some(hosts) = Hosts::new(2) else { return };
    for (host, which) in [(0, "ssh -F"), (1, "++agent")] {
        let job = running(&hosts, "ready");
        let since = std::time::Instant::now();
        // The agent's guardian has the same command line, and may end before it.
        let pid = match host {
            0 => hosts.all(0, which)[0],
            _ => agent(&hosts),
        };
        kill_process(pid, Signal::KILL).expect("it runs");
        let ended = job.end();
        ended.failed_on(hosts.name(1), 69, &format!("host {} is lost", hosts.name(1)));
        assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
        hosts.assert_empty();
    }
}

#[test]
fn a_stopped_agent_is_a_lost_host_and_leaves_nothing_there() {
    let Some(hosts) = Hosts::new(2) else { return };
    for what in ["ready", "children-in-group"] {
        let job = running(&hosts, what);
        kill_process(agent(&hosts), Signal::STOP).expect("it runs");
        let ended = job.end();
        ended.failed_on(hosts.name(1), 69, &format!("host {} is lost", hosts.name(1)));
        hosts.assert_empty();
    }
}

/// The agent on the second host: of two processes with its command line, the one that is not a child of the other.
fn agent(hosts: &Hosts) -> rustix::process::Pid {
    let mut all: Vec<_> = hosts.processes(1).into_iter().filter(|(_, line)| line.ends_with("++agent")).collect();
    all.sort_unstable();
    let parent = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let (_, fields) = stat.rsplit_once(") ").expect("a name");
        fields.split(' ').nth(1).and_then(|field| field.parse::<i32>().ok()).expect("a parent")
    };
    let numbers: Vec<i32> = all.iter().map(|(pid, _)| *pid).collect();
    let pid = numbers.iter().find(|pid| !numbers.contains(&parent(**pid))).expect("one began");
    rustix::process::Pid::from_raw(*pid).expect("a number")
}

#[test]
fn nothing_outlives_a_killed_launcher_on_any_host() {
    let Some(hosts) = Hosts::new(2) else { return };
    for what in ["ready", "stubborn", "children-in-group"] {
        let job = running(&hosts, what);
        job.signal(Signal::KILL);
        assert_eq!(job.end().code, -9);
        hosts.assert_empty();
    }
}

#[test]
fn nothing_outlives_a_launcher_that_is_killed_while_it_starts_other_hosts() {
    let Some(hosts) = Hosts::new(2) else { return };
    for delay_ms in (0..300).step_by(30) {
        let job = start(&hosts, "+p4 ++ppn 1 PROCESS ready");
        std::thread::sleep(Duration::from_millis(delay_ms));
        job.signal(Signal::KILL);
        assert_eq!(job.end().code, -9);
        hosts.assert_empty();
    }
}

#[test]
fn signals_of_the_user_reach_all_hosts() {
    let Some(hosts) = Hosts::new(2) else { return };
    let job = running(&hosts, "obeys");
    job.signal(Signal::INT);
    let ended = job.end();
    ended.failed_on(hosts.name(0), 130, "interrupted by SIGINT");
    assert_eq!(ended.sorted(), ["stops by 2"; 4]);
    hosts.assert_empty();
    let job = running(&hosts, "stubborn");
    job.signal(Signal::TERM);
    let ended = job.end();
    ended.failed_on(hosts.name(0), 143, "interrupted by SIGTERM");
    hosts.assert_empty();
}

#[test]
fn an_interrupted_job_does_not_wait_for_a_host_that_has_not_answered() {
    let Some(hosts) = Hosts::new(2) else { return };
    let silent = hosts.write("silent", "#!/bin/sh\nexec sleep 1000.5\n");
    let (mut command, mark) = hosts.command(Path::new(CHARMRUN), "+p2 ++ppn 1 ++remote-shell");
    command.args([&format!("sh {}", silent.display()), PROCESS, "ready"]);
    let mut job = Job::spawn(command, mark);
    job.ready(1);
    let since = std::time::Instant::now();
    job.signal(Signal::INT);
    job.end().failed_on(hosts.name(0), 130, "interrupted by SIGINT");
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    hosts.assert_empty();
}

#[test]
fn a_job_is_suspended_and_continued_on_all_hosts() {
    let Some(hosts) = Hosts::new(2) else { return };
    let job = running(&hosts, "ready");
    let state = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let programs = || hosts.processes(1).into_iter().filter(|(_, line)| line.ends_with("ready")).collect::<Vec<_>>();
    job.signal(Signal::TSTP);
    until("they sleep", || programs().iter().all(|(pid, _)| state(*pid).contains("T (stopped)")));
    // Longer than a launcher that is not suspended may be silent.
    std::thread::sleep(Duration::from_millis(5500));
    job.signal(Signal::CONT);
    until("they continue", || {
        programs().len() == 2 && programs().iter().all(|(pid, _)| !state(*pid).contains("T (stopped)"))
    });
    job.signal(Signal::INT);
    job.end().failed_on(hosts.name(0), 130, "interrupted by SIGINT");
    hosts.assert_empty();
}

#[test]
fn a_host_whose_cable_is_cut_is_lost_within_six_seconds() {
    let Some(hosts) = Hosts::new(2) else { return };
    let job = running(&hosts, "ready");
    hosts.cut(1);
    let since = std::time::Instant::now();
    let ended = job.end();
    ended.failed_on(hosts.name(1), 69, "is lost: nothing was received from it for 5 s");
    assert!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
    // On that host the launcher is silent.
    until("the other host has noticed", || hosts.processes(1).is_empty());
    assert!(since.elapsed() < Duration::from_secs(7), "{:?}", since.elapsed());
}

#[test]
fn what_cannot_be_started_on_another_host_is_named_with_it() {
    let Some(hosts) = Hosts::new(2) else { return };
    let other = hosts.name(1).to_owned();
    // This file is on this host only: the other one does not see its folder.
    let program = hosts.write("only-here", "#!/bin/sh\nexit 0\n");
    let (mut command, mark) = hosts.command(Path::new(CHARMRUN), "+p2 ++ppn 1 ++remote-charmrun /no/charmrun");
    command.arg(PROCESS).arg("ready");
    let ended = Job::spawn(command, mark).end();
    ended.failed_on(&other, 78, &format!("cannot run /no/charmrun on host {other}"));
    hosts.assert_empty();
    let elsewhere = hosts.write("elsewhere", &other);
    let ended = run(&hosts, &format!("+p1 ++nodelist {} {}", elsewhere.display(), program.display()));
    ended.failed_on(&other, 78, &format!("host {other}: cannot execute {}: permission denied", program.display()));
    let ended = run(&hosts, &format!("+p1 ++nodelist {} /no/program", elsewhere.display()));
    ended.failed_on(&other, 78, &format!("host {other}: cannot execute /no/program: there is no such file"));
}

#[test]
fn an_ssh_that_refuses_or_would_ask_ends_the_job_with_its_words() {
    let Some(hosts) = Hosts::new(2) else { return };
    let other = hosts.name(1).to_owned();
    let with = |shell: &str| {
        let (mut command, mark) = hosts.command(Path::new(CHARMRUN), "+p2 ++ppn 1 ++remote-shell");
        command.args([shell, PROCESS, "ready"]);
        let ended = Job::spawn(command, mark).end();
        hosts.assert_empty();
        assert!(ended.took < Duration::from_secs(10), "{ended:?}");
        ended
    };
    let shell = hosts.shell();
    // A port without a listener; an unknown key; an unknown host, for which ssh would ask the user.
    with(&format!("{shell} -p 9")).failed_on(&other, 69, "Connection refused");
    with(&format!(
        "{shell} -i /dev/null -o IdentityFile=/dev/null -F /dev/null -o UserKnownHostsFile={}/known_hosts",
        hosts.folder().display()
    ))
    .failed_on(&other, 69, "Permission denied");
    with(&format!("{shell} -o StrictHostKeyChecking=ask -o UserKnownHostsFile=/dev/null")).failed_on(
        &other,
        69,
        "Host key verification failed",
    );
    with("sleep 1000.5 #").failed_on(&other, 69, "cannot reach host");
    // A shell that prints nothing at all.
    let silent = hosts.write("silent", "#!/bin/sh\nexec sleep 1000.5\n");
    let ended = with(&format!("sh {}", silent.display()));
    ended.failed_on(&other, 69, &format!("host {other} has not answered"));
}

#[test]
fn a_greeting_is_skipped_and_another_version_refused() {
    let Some(hosts) = Hosts::new(2) else { return };
    let other = hosts.name(1).to_owned();
    let with = |script: &str| {
        let script = hosts.write("shell", &format!("#!/bin/sh\n{script}\n"));
        let (mut command, mark) = hosts.command(Path::new(CHARMRUN), "+p2 ++ppn 1 ++remote-shell");
        command.args([&format!("sh {}", script.display()), PROCESS, "where"]);
        let ended = Job::spawn(command, mark).end();
        hosts.assert_empty();
        ended
    };
    let shell = hosts.shell();
    let ended = with(&format!("echo hello; echo mind this >&2; exec {shell} \"$@\""));
    assert_eq!((ended.code, ended.stdout.matches("args").count()), (0, 2), "{ended:?}");
    assert_eq!(ended.stderr, format!("charmrun: {other}: mind this\n"));
    let ended = with(r"printf '\0charm4rs-line\011\000'; cat >/dev/null");
    ended.failed_on(&other, 76, "speaks version 9 of the agent protocol, this one version 1");
    let ended = with(r"printf '\0charm4rs-line\001\000\200\000\000\000\000'; cat >/dev/null");
    ended.failed_on(&other, 76, "broke the protocol: unknown kind 128");
}

#[test]
fn a_wrong_nodelist_is_refused_with_78_and_its_line() {
    let scratch = common::Scratch::new("nodelist", "localhost\nhost a ++cpu 3\n", 0o644);
    let ended = common::run(&format!("++nodelist {} PROCESS where", scratch.path()));
    ended.failed(78, &format!("{}:2: unknown word ++cpu (did you mean ++cpus?)", scratch.path()));
    common::run("++nodelist /no/such/file PROCESS where").failed(78, "cannot read the nodelist /no/such/file");
    let quote = common::Scratch::new("one", "localhost\n", 0o644);
    let (mut command, mark) = common::command(&format!("++nodelist {} ++remote-shell", quote.path()));
    command.args(["ssh 'x", PROCESS, "where"]);
    Job::spawn(command, mark).end().failed(78, "an unterminated quote");
}

#[test]
fn this_host_needs_no_shell_under_any_of_its_names() {
    let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let all = format!("localhost\n127.0.0.1\n{own}");
    for name in ["localhost", "127.0.0.1", "::1", &own, &all] {
        let scratch = common::Scratch::new("this", name, 0o644);
        let line = format!("+p2 ++nodelist {} ++remote-shell /bin/false PROCESS where", scratch.path());
        assert_eq!(common::run(&line).succeeded().sorted()[0], "0/1 0..2 0", "{name}");
    }
}

#[test]
fn an_agent_without_a_launcher_ends_and_prints_nothing_more() {
    let out = Command::new(CHARMRUN).arg("++agent").stdin(std::process::Stdio::null()).output().expect("it runs");
    assert_eq!(out.status.code(), Some(69));
    assert!(out.stdout.starts_with(b"\0charm4rs-line") && out.stderr.is_empty(), "{out:?}");
}
