//! How a job starts, and the errors if it cannot.

mod common;

use std::process::Command;
use std::time::Duration;

use common::{CHARMRUN, PROCESS, Scratch, command, run, run_after};

#[test]
fn a_job_is_one_process_of_threads_unless_something_else_is_asked_for() {
    let check = |options: &str, want: &[&str]| {
        let ended = run(&format!("{options} PROCESS where"));
        let lines: Vec<_> = ended.succeeded().sorted().into_iter().filter(|line| !line.starts_with("args")).collect();
        assert_eq!(lines, want, "{options}");
    };
    check("", &["0/1 0..1 0"]);
    check("+p4", &["0/1 0..4 0"]);
    check("+p 4 ++ppn 2", &["0/2 0..2 0", "1/2 2..4 0"]);
    check("+p5 ++ppn=2 ++seed 7", &["0/3 0..2 7", "1/3 2..4 7", "2/3 4..5 7"]);
    check("+p3 ++transport shm", &["0/3 0..1 0", "1/3 1..2 0", "2/3 2..3 0"]);
    check("+p2 ++transport tcp ++ppn 2", &["0/1 0..2 0"]);
    check("+p2 ++transport extern:some-net", &["0/2 0..1 0", "1/2 1..2 0"]);
    check("+p2 ++transport local", &["0/1 0..2 0"]);
    check("++n 2 ++ppn 2", &["0/2 0..2 0", "1/2 2..4 0"]);
    check("++processPerHost 2 ++local", &["0/2 0..1 0", "1/2 1..2 0"]);
}

#[test]
fn a_programs_own_arguments_reach_it_untouched() {
    let ended = run("+p1 PROCESS where --opt -x=1 +5 a,b -- ++x +p9");
    assert!(ended.stdout.contains(r#"args ["--opt", "-x=1", "+5", "a,b", "++x", "+p9"]"#), "{ended:?}");
}

#[test]
fn options_behind_the_program_count_as_those_in_front_and_do_not_reach_it() {
    let check = |line: &str, want: &str| {
        let ended = run(line);
        let lines = ended.succeeded().sorted();
        assert!(lines.contains(&want) && ended.stdout.contains(r#"args ["a", "+what"]"#), "{line}: {ended:?}");
    };
    check("PROCESS where a +p4 +what", "0/1 0..4 0");
    check("+p4 PROCESS where a ++seed 7 +what +p 4", "0/1 0..4 7");
    check("PROCESS where ++quiet a +p2 +balancer GreedyRefineLB ++ppn 1 +LBDebug 1 +what", "1/2 1..2 0");
}

#[test]
fn options_of_charm_that_do_nothing_are_named_once_under_verbose() {
    let ended = run("+p2 ++ppn 1 ++scalable-start ++verbose PROCESS where +balancer GreedyRefineLB");
    let want = "charmrun: options of Charm++ that do nothing here: ++scalable-start, +balancer GreedyRefineLB\n";
    assert_eq!(ended.stderr.matches(want).count(), 1, "{ended:?}");
    assert!(run("++scalable-start PROCESS where").succeeded().stderr.is_empty());
}

#[test]
fn a_script_runs_the_program_where_one_is_given() {
    let script = Scratch::new("runscript", "#!/bin/sh\necho with $1\nexec \"$@\"\n", 0o755);
    let ended = run(&format!("++runscript {} PROCESS where a +p2", script.path()));
    assert!(ended.succeeded().stdout.contains(r#"args ["a"]"#) && ended.stdout.starts_with("with /"), "{ended:?}");
}

#[test]
fn a_job_is_ended_with_1_when_its_time_is_over() {
    let ended = run("+p2 ++ppn 1 ++timelimit 0.2 /bin/sleep 60");
    ended.failed(1, "the job was still running after 0.2 s (++timelimit)");
}

#[test]
fn a_wrong_command_line_is_refused_with_64_and_a_hint() {
    for (line, what) in [
        ("++transprot shm PROCESS where", "unknown option ++transprot (did you mean ++transport?)"),
        ("+p0 PROCESS where", "between 1 and 1048576"),
        ("+pfour PROCESS where", "unknown option +pfour"),
        ("++ppn", "++ppn needs a value"),
        ("+p4", "no program given"),
        ("++numHosts 2 PROCESS where", "++numHosts needs hosts: charmrun ++nodelist FILE"),
        // The program reads its own arguments, and the launcher reports the error once for all processes.
        ("+p2 ++ppn 1 PROCESS where ++sed 3", "unknown option ++sed (did you mean ++seed?)"),
        ("+p2 ++ppn 1 PROCESS where +p3", "+p 2 and +p 3 contradict each other"),
        // The launcher has to ask the program for what it has not seen.
        ("+p2 ++ppn 1 -- PROCESS where +p3", "+p 2 for charmrun and +p 3 for the program contradict each other"),
        ("PROCESS where ++server-port 70000", "++server-port 70000: must be a port"),
        ("++encrypt PROCESS where", "++encrypt does not work here: use a trusted network"),
    ] {
        run(line).failed(64, what);
    }
}

#[test]
fn a_transport_that_does_not_exist_is_refused_with_78() {
    run("++transport mpi PROCESS where").failed(78, "++transport mpi");
}

#[test]
fn what_cannot_be_executed_is_named_and_ends_with_78() {
    let text = Scratch::new("text", "this is no program\n", 0o755);
    let closed = Scratch::new("closed", "#!/bin/sh\n", 0o644);
    let lost = Scratch::new("lost", "#!/no/such/interpreter\n", 0o755);
    for (program, what) in [
        ("/no/such/program", "there is no such file"),
        ("/etc", "it is not a file"),
        ("no-such-program-anywhere", "it is not in PATH"),
        (text.path(), "it is not a program for this machine"),
        (closed.path(), "permission denied"),
        (lost.path(), "there is no such file"),
    ] {
        let ended = run(&format!("+p3 ++ppn 1 {program} x"));
        assert!(ended.failed(78, what).stderr.contains(program), "{ended:?}");
    }
}

#[test]
fn a_process_that_fails_before_it_joins_gives_its_own_code() {
    let script = Scratch::new("fails", "#!/bin/sh\nexit 7\n", 0o755);
    let ended = run(&format!("+p3 ++ppn 1 {}", script.path()));
    ended.failed(7, "ended with exit code 7 before it joined the job");
    assert!(ended.took < Duration::from_secs(1), "{ended:?}");
    run("+p2 ++ppn 1 /bin/false").failed(1, "before it joined");
}

#[test]
fn a_program_that_never_starts_the_runtime_is_an_error() {
    run("+p2 ++ppn 1 /bin/true").failed(69, "ended with 0 before it joined the job: is it a charm4rs program?");
}

#[test]
fn a_script_may_stand_between_the_launcher_and_the_program() {
    let script = Scratch::new("wraps", &format!("#!/bin/sh\n{PROCESS} \"$@\"\n"), 0o755);
    let ended = run(&format!("+p3 ++ppn 1 {} exchange", script.path()));
    assert_eq!(ended.succeeded().sorted(), ["0 exchanged", "1 exchanged", "2 exchanged"]);
    // The shell prints a message about it too, before or after the launcher's.
    let ended = run(&format!("+p2 ++ppn 1 {} kill 1", script.path()));
    assert_eq!(ended.code, 137, "{ended:?}");
    assert!(ended.stderr.contains("charmrun: error[137]: process 1 "), "{ended:?}");
}

#[test]
fn a_wrapper_that_closes_the_launchers_descriptor_is_named_as_the_likely_cause() {
    let closes = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))";
    let (mut command, mark) = command("+p1 python3 -c");
    command.args([closes, PROCESS, "where"]);
    let ended = common::Job::spawn(command, mark).end();
    assert_eq!(ended.code, 69);
    assert!(ended.stderr.contains("did a wrapper close it?"), "{ended:?}");
}

#[test]
fn a_process_that_breaks_the_protocol_ends_the_job_with_76() {
    let check = |packet: &str, what: &str| {
        let program = format!(
            "import os, socket, time
fd = int(os.environ['CHARM4RS_BOOT'].split(':')[0])
line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=fd)
line.recv(65536)
line.send({packet})
time.sleep(1000.5)"
        );
        let (mut command, mark) = command("+p2 ++ppn 1 python3 -c");
        command.arg(program);
        common::Job::spawn(command, mark).end().failed(76, what);
    };
    check("b'c4\\x63\\0garbage'", "speaks version 99 of the launcher's protocol, this charmrun version 4");
    check("b'GET / HTTP/1.1\\r\\n'", "broke the launcher's protocol: not a packet");
    check("b'c4\\x04\\0\\x01' + b'\\x09\\0\\0\\0' * 2", "joined as process 9, which is taken");
    check("b'c4\\x04\\0\\x02\\xff\\xff\\xff\\xff'", "broke the launcher's protocol: impossible length");
    check("b'c4\\x04\\0\\x05\\x03\\0\\0'", "descriptors");
}

#[test]
fn a_process_that_never_joins_is_named_at_the_time_limit() {
    let script = Scratch::new("sleeps", "#!/bin/sh\nexec sleep 1000.5\n", 0o755);
    let ended = run(&format!("+p3 ++ppn 1 ++timeout 0.5 {}", script.path()));
    ended.failed(69, "not all processes joined within 0.5 s: processes 0, 1, 2 of 3 missing");
    run("+p3 ++ppn 1 ++timeout 0.5 PROCESS never-joins-the-fence").failed(69, "process 1 of 3 missing");
}

#[test]
fn a_program_without_a_launcher_is_a_job_of_its_own() {
    let ask = |args: &[&str]| {
        let out = Command::new(PROCESS).args(args).output().expect("it runs");
        (out.status.code(), [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let (code, [stdout, _]) = ask(&["where", "+p4", "a"]);
    assert_eq!((code, &*stdout), (Some(0), "0/1 0..4 0\nargs [\"a\"]\n"));
    let (code, [_, stderr]) = ask(&["where", "++what"]);
    assert!(code == Some(64) && stderr.starts_with("charmrun: error[64]: unknown option ++what"), "{stderr}");
    let (code, [_, stderr]) = ask(&["where", "+p4", "++ppn", "2"]);
    assert!(code == Some(64) && stderr.contains("charmrun +p4 ++ppn 2 PROGRAM"), "{stderr}");
    let (code, [_, stderr]) = ask(&["abort", "0"]);
    assert!(code == Some(1) && stderr.starts_with("charmrun: error[1]: it broke: here, pe=0 "), "{stderr}");
    let (code, [_, stderr]) = ask(&["overflow", "0"]);
    assert!(
        code.is_none() && stderr.starts_with("charmrun: error[139]: killed by signal 11 (stack overflow), pe=0 "),
        "{stderr}"
    );
}

#[test]
fn help_version_and_info_need_no_program() {
    let ask = |option: &str| {
        let out = Command::new(CHARMRUN).arg(option).output().expect("it runs");
        assert_eq!((out.status.code(), &*out.stderr), (Some(0), &b""[..]));
        String::from_utf8(out.stdout).expect("text")
    };
    assert!(ask("++help").contains("++ppn K"));
    assert!(ask("++version").starts_with("charmrun (charm4rs) "));
    let info = ask("++info");
    for what in ["cpus ", "libfabric ", "UCX ", "within a host ", "between hosts ", "open files ", "locked memory"] {
        assert!(info.lines().any(|line| line.starts_with(what)), "{what}: {info}");
    }
}

#[test]
fn too_few_descriptors_are_an_error_only_if_the_hard_limit_is_too_low() {
    let limited = |limit, line| run_after(limit, "", line);
    limited("ulimit -S -n 48", "+p12 ++ppn 1 PROCESS exchange").succeeded();
    limited("ulimit -n 48", "+p12 ++ppn 1 PROCESS exchange").failed(71, "80 needed, 48 allowed");
}

#[test]
fn standard_descriptors_may_be_closed() {
    for closed in 0..8 {
        let redirections: String = (0..3).filter(|fd| closed & (1 << fd) != 0).map(|fd| format!(" {fd}>&-")).collect();
        let end = |line: &str| run_after("", &redirections, line);
        let ended = end("+p2 ++ppn 1 PROCESS exchange");
        assert_eq!((ended.code, &*ended.stderr), (0, ""), "{redirections}: {ended:?}");
        assert_eq!(ended.stdout.lines().count(), if closed & 2 == 0 { 2 } else { 0 }, "{redirections}: {ended:?}");
        assert_eq!(end("+p2 ++ppn 1 PROCESS exit 3").code, 3, "{redirections}");
    }
}

#[test]
fn a_small_stack_is_enough() {
    let ended = run_after("ulimit -s 64", "", "+p2 ++ppn 1 PROCESS exchange");
    assert_eq!((ended.code, &*ended.stderr), (0, ""), "{ended:?}");
}

#[test]
fn a_process_that_cannot_start_a_thread_is_reported_once_with_71() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root becomes another user, whose processes are counted");
        return;
    }
    let (base, mark) = command("+p2 ++ppn 1 PROCESS exchange");
    // The limit of processes and threads of the user, which is below what this job needs. The files of the tests are accessible to their user only.
    for limit in 1..6 {
        let mut user = Command::new("setpriv");
        user.args(["--reuid=65533", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "bash", "-c"]);
        user.args([&format!("ulimit -u {limit}; exec \"$0\" \"$@\""), CHARMRUN]).args(base.get_args());
        user.envs(base.get_envs().filter_map(|(name, value)| Some((name, value?))));
        user.stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let ended = common::Job::spawn(user, mark.clone()).end();
        ended.failed(71, "");
    }
}
