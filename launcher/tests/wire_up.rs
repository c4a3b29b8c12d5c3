//! What processes exchange through the launcher, and that no other process can see it.

mod common;

use common::{command, run};

#[test]
fn what_each_process_puts_all_get_after_the_fence() {
    let ended = run("+p8 ++ppn 1 PROCESS exchange");
    assert_eq!(ended.succeeded().sorted(), (0..8).map(|r| format!("{r} exchanged")).collect::<Vec<_>>());
}

#[test]
fn descriptors_reach_every_process_by_rank_in_any_number() {
    for base in [0, 3, 252, 600] {
        let ended = run(&format!("+p4 ++ppn 1 PROCESS share {base}"));
        assert_eq!(ended.succeeded().sorted(), (0..4).map(|r| format!("{r} shared")).collect::<Vec<_>>());
    }
}

#[test]
fn the_secret_is_one_for_all_and_in_no_argument_or_environment() {
    assert_eq!(run("+p3 ++ppn 1 PROCESS secret").succeeded().sorted(), ["secret"; 3]);
}

#[test]
fn a_process_inherits_its_channel_and_the_standard_descriptors_only() {
    // Descriptors that this test itself was given, and passes on to every process, do not count.
    let own = std::fs::read_dir("/proc/self/fd").expect("proc").filter_map(|fd| {
        let path = fd.expect("an entry").path();
        let to = std::fs::read_link(&path).ok()?;
        Some(format!("{} {}", path.file_name()?.display(), to.display()))
    });
    let own: Vec<String> = own.filter(|line| !["0 ", "1 ", "2 "].iter().any(|fd| line.starts_with(fd))).collect();
    let ended = run("+p3 ++ppn 1 PROCESS fds");
    let kind = |line: &str| line.split_once(' ').map(|(_, to)| to.split(':').next().unwrap_or(to).to_owned());
    let lines = ended.succeeded().stdout.lines().filter(|line| !own.iter().any(|own| own == line));
    let mut kinds: Vec<_> = lines.filter_map(kind).filter(|kind| !kind.starts_with("/proc/")).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, [vec!["/dev/null"; 3], vec!["pipe"; 6], vec!["socket"; 3]].concat());
}

#[test]
fn only_process_0_reads_standard_input() {
    use std::io::Write as _;
    let (mut command, mark) = command("+p3 ++ppn 1 PROCESS read");
    command.stdin(std::process::Stdio::piped());
    let mut job = common::Job::spawn(command, mark);
    job.input().write_all(b"some words").expect("a pipe");
    assert_eq!(job.end().succeeded().sorted(), ["0 read some words", "1 read ", "2 read "]);
}
