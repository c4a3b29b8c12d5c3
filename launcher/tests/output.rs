//! The output of processes consists of whole lines, whether or not it is read.

mod common;

use std::io::{BufRead as _, Read as _, Write as _};
use std::process::Stdio;

use common::{Job, check_lines, command, run, start};

#[test]
fn lines_of_eight_processes_come_out_whole_and_in_order() {
    let seed = 20_261_122;
    let ended = run(&format!("+p8 ++ppn 1 PROCESS lines 200 {seed}"));
    check_lines(&ended.succeeded().stdout, 8, 200);
}

#[test]
fn a_slow_reader_loses_nothing_and_blocks_nothing() {
    let mut job = start("+p4 ++ppn 1 PROCESS lines 500 7");
    let mut output = job.output();
    let mut text = Vec::new();
    let mut buf = [0; 2000];
    // Reads a little, then pauses until the job's pipes must be full, then reads the rest.
    output.read_exact(&mut buf).expect("output");
    text.extend_from_slice(&buf);
    std::thread::sleep(std::time::Duration::from_millis(300));
    output.read_to_end(&mut text).expect("output");
    job.end().succeeded();
    check_lines(std::str::from_utf8(&text).expect("text"), 4, 500);
}

#[test]
fn a_job_whose_reader_sleeps_can_still_be_interrupted() {
    let mut job = start("+p2 ++ppn 1 PROCESS endless");
    let mut output = job.output();
    let mut line = String::new();
    output.read_line(&mut line).expect("output");
    assert!(line.ends_with(" is still here\n"));
    std::thread::sleep(std::time::Duration::from_millis(300));
    job.signal(rustix::process::Signal::INT);
    job.end().failed(130, "interrupted by SIGINT");
    drop(output);
}

#[test]
fn a_reader_that_goes_away_does_not_stop_the_job() {
    let mut job = start("+p4 ++ppn 1 PROCESS lines 500 7");
    let mut output = job.output();
    let mut line = String::new();
    output.read_line(&mut line).expect("output");
    drop(output);
    let ended = job.end();
    assert_eq!(ended.code, 0);
    assert_eq!(ended.stderr, "charmrun: warning: standard output is closed: further output of the job is lost\n");
}

#[test]
fn both_outputs_into_one_pipe_keep_their_lines_whole() {
    let script = "i=0; while [ $i -lt 300 ]; do echo \"<o:$i>\"; echo \"<e:$i>\" >&2; i=$((i+1)); done; exit 9";
    let (base, mark) = command("+p3 ++ppn 1 sh -c");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "exec \"$0\" \"$@\" 2>&1", common::CHARMRUN]).args(base.get_args()).arg(script);
    shell.envs(base.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = Job::spawn(shell, mark).end();
    assert_eq!(ended.code, 9, "{ended:?}");
    let whole = |line: &str| (line.starts_with('<') && line.ends_with('>')) || line.starts_with("charmrun: error[9]");
    assert!(ended.stdout.lines().all(whole), "{ended:?}");
}

#[test]
fn the_last_line_needs_no_end_and_a_prefix_names_the_process() {
    let (mut command, mark) = command("+p2 ++ppn 1 ++prefix-output sh -c");
    command.arg("printf 'one\\ntwo'; exit 3");
    let ended = Job::spawn(command, mark).end();
    assert_eq!(ended.code, 3);
    let mut lines = ended.sorted();
    // The other process may have been killed before it printed.
    lines.dedup();
    assert!(lines == ["[0] one", "[0] two"] || lines == ["[1] one", "[1] two"] || lines.len() == 4, "{ended:?}");
}

#[test]
fn a_line_of_any_length_comes_out() {
    let (mut command, mark) = command("+p1 sh -c");
    command.arg("head -c 3000000 /dev/zero | tr '\\0' y; echo; exit 3");
    let ended = Job::spawn(command, mark).end();
    assert_eq!((ended.stdout.len(), ended.stdout.lines().count()), (3_000_001, 1));
}

#[test]
fn a_prompt_of_a_single_process_is_seen_before_its_answer() {
    let (mut command, mark) = command("+p2 PROCESS prompt");
    command.stdin(Stdio::piped());
    let mut job = Job::spawn(command, mark);
    let (mut input, mut output) = (job.input(), job.output());
    let mut prompt = [0; 6];
    output.read_exact(&mut prompt).expect("output");
    assert_eq!(&prompt, b"name? ");
    input.write_all(b"Ada\n").expect("input");
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("output");
    assert_eq!(rest, "hello Ada\n");
    job.end().succeeded();
}

#[test]
fn output_that_cannot_be_written_is_an_error_of_the_job() {
    let (mut command, mark) = command("+p1 PROCESS lines 5 1");
    command.stdout(std::fs::File::options().write(true).open("/dev/full").expect("it is there"));
    Job::spawn(command, mark).end().failed(74, "cannot write standard output: No space left");
}

#[test]
fn warnings_are_printed_unless_they_are_disabled() {
    assert_eq!(run("+p1 PROCESS warn").stderr, "charmrun: warning: mind this\n");
    run("+p1 ++quiet PROCESS warn").succeeded();
}

#[test]
fn a_file_of_the_longest_length_and_a_pipe_without_a_reader_are_errors_and_no_signals() {
    let full = common::Scratch::new("full", "", 0o644);
    let ended =
        common::run_after("ulimit -f 0; trap - XFSZ", &format!(">{}", full.path()), "+p2 ++ppn 1 PROCESS lines 3 7");
    assert_eq!(ended.code, 74, "{ended:?}");
    assert!(ended.stderr.starts_with("charmrun: error[74]: cannot write standard output: File too large"), "{ended:?}");
    let ended = common::run_after("", "2> >(exec true)", "+p2 ++ppn 1 PROCESS kill 1");
    assert_eq!(ended.code, 137, "{ended:?}");
}
