//! Faults of jobs over UCX, and of jobs that request it when it is not installed.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::job::Job;
use crate::{command, run, start_with};

/// Whether UCX is installed here. Prints a message if not.
fn is_here() -> bool {
    let found = charm4rs_ucx::find();
    found.inspect_err(|error| eprintln!("skipped: {error}")).is_ok()
}

/// Over memory that the processes of a host share, and over sockets.
const WAYS: [(&str, &str); 2] = [("UCX_TLS", "sysv,cma,self"), ("UCX_TLS", "tcp,self")];

#[test]
fn a_job_that_requests_ucx_without_an_installation_ends_with_78_and_the_searched_names() {
    let ended = start_with("+p2 ++transport ucx - sleep 0", ("CHARM4RS_UCX", "/nowhere/libucp.so.0")).end();
    ended.failed(78, "UCX cannot be opened: looked for /nowhere/libucp.so.0 (by CHARM4RS_UCX)");
}

#[test]
fn a_job_over_ucx_prints_the_same_as_over_other_transports() {
    if is_here() {
        assert_eq!(run("+p4 ++transport ucx - sleep 1").succeeded().stdout, "slept\n");
        assert_eq!(run("+p4 ++ppn 2 ++transport ucx - compute 100").succeeded().stdout, "computed\n");
    }
}

#[test]
fn messages_of_ucx_become_warnings_unless_the_user_names_another_log() {
    if is_here() {
        // UCX prints this one when the process ends.
        const UNUSED: (&str, &str) = ("UCX_NO_SUCH_SETTING", "1");
        let (mut command, mark) = command("+p2 ++transport ucx - sleep 0");
        command.envs([UNUSED, ("UCX_NET_DEVICES", "lo,none0")]);
        let ended = Job::spawn(command, mark).end();
        assert_eq!((ended.code, &*ended.stdout), (0, "slept\n"), "{ended:?}");
        assert!(
            ended.stderr.contains("charmrun: warning: UCX WARN network device 'none0' is not available"),
            "{ended:?}"
        );
        assert!(ended.stderr.contains("UCX_NO_SUCH_SETTING"), "{ended:?}");
        let (mut command, mark) = crate::command("+p2 ++transport ucx - sleep 0");
        command.envs([UNUSED, ("UCX_LOG_FILE", "stdout")]);
        let ended = Job::spawn(command, mark).end();
        assert!(ended.succeeded().stdout.contains("UCX_NO_SUCH_SETTING"), "{ended:?}");
    }
}

#[test]
fn an_ucx_without_a_usable_transport_is_an_error_with_its_own_text() {
    if is_here() {
        let ended = start_with("+p2 ++transport ucx - sleep 0", ("UCX_TLS", "nonsense")).end();
        ended.failed(78, "UCX cannot be used: ucp_init: No such device; ");
        assert!(ended.stderr.contains("UCX ERROR no usable transports/devices"), "{ended:?}");
    }
}

/// Sockets of a process that listen on TCP.
fn listening(pid: Pid) -> usize {
    let folder = format!("/proc/{}", pid.as_raw_nonzero());
    let own: Vec<String> = std::fs::read_dir(format!("{folder}/fd"))
        .expect("it runs")
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()?.to_str().map(str::to_owned))
        .collect();
    let tables =
        ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("{folder}/net/{table}")).unwrap_or_default());
    let rows =
        tables.iter().flat_map(|table| table.lines().skip(1)).map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[3] == "0A" && own.contains(&format!("socket:[{}]", row[9]))).count()
}

#[test]
fn a_job_of_one_host_over_ucx_listens_only_on_authenticated_sockets_or_warns() {
    if !is_here() {
        return;
    }
    let listening = |line: &str, tls: Option<&str>| {
        let (mut command, mark) = command(line);
        command.envs(tls.map(|tls| ("UCX_TLS", tls)));
        let mut job = Job::spawn(command, mark);
        let most = job.ready(2).into_iter().map(listening).max();
        job.signal(Signal::TERM);
        (most.expect("two"), job.end().stderr)
    };
    let (tcp, _) = listening("+p2 ++transport tcp - ready", None);
    let (ucx, said) = listening("+p2 ++transport ucx - ready", None);
    assert!(tcp >= 1 && ucx == tcp && !said.contains("authentication"), "{tcp} {ucx} {said}");
    let (ucx, said) = listening("+p2 ++transport ucx - ready", Some("tcp,self"));
    assert!(ucx > tcp && said.contains("without authentication"), "{tcp} {ucx} {said}");
}

#[test]
fn a_job_over_ucx_is_gone_within_a_second_of_any_process_s_death() {
    for way in WAYS.iter().filter(|_| is_here()) {
        for victim in [0, 2] {
            let mut job = start_with("+p3 ++quiet ++transport ucx - ready", *way);
            let pids = job.ready(3);
            let since = Instant::now();
            kill_process(pids[victim], Signal::KILL).expect("it runs");
            job.end().failed(137, "was killed by signal 9 (out of memory?)");
            assert!(since.elapsed() < Duration::from_secs(1), "{way:?}: {:?}", since.elapsed());
        }
    }
}

#[test]
fn a_stopped_process_of_a_job_over_ucx_is_unresponsive_within_six_seconds() {
    if !is_here() {
        return;
    }
    let stopped = WAYS.map(|way| {
        let mut job = start_with("+p2 ++transport ucx - ready", way);
        let pids = job.ready(2);
        kill_process(pids[1], Signal::STOP).expect("it runs");
        (job, Instant::now())
    });
    for (job, since) in stopped {
        let ended = job.end();
        assert!(since.elapsed() < Duration::from_secs(7), "{:?}", since.elapsed());
        assert_eq!(ended.code, 69, "{ended:?}");
        // A process that waits for a handshake may lose contact before the launcher gives up: by then it has reported that there is no answer.
        assert!(ended.stderr.contains("unresponsive"), "{ended:?}");
    }
}

#[test]
fn a_sender_over_ucx_to_a_receiver_that_takes_nothing_holds_no_more_than_its_credit() {
    if is_here() {
        let ended = run("+p2 ++transport ucx - flood 1000");
        let most: u64 = ended.succeeded().stdout.trim().parse().expect("KiB");
        assert!(most < 200 << 10, "{most} KiB for 300 MB");
    }
}
