//! What processes exchange through the launcher, and what nobody else may see of it.

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
    let (mut command, mark) = command("+p3 ++ppn 1 PROCESS fds");
    // What the test's own process leaves open is inherited by everybody: not here.
    // SAFETY: `close_range` touches nothing of the parent's.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, || {
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            Ok(())
        });
    }
    let ended = common::Job::spawn(command, mark).end();
    let kind = |line: &str| {
        line.rsplit(' ').next().unwrap_or_default().split([':', '"']).next().unwrap_or_default().to_owned()
    };
    let mut kinds: Vec<_> = ended.succeeded().stdout.lines().map(kind).collect();
    kinds.sort_unstable();
    kinds.retain(|kind| !kind.starts_with("/proc/"));
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
