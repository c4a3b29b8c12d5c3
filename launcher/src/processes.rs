//! Process information from `/proc`: identity, children, and the job that a process belongs to. Knows nothing of how it is used.
//!
//! A process's number is reused after the process is gone. The number together with the start time identifies a process uniquely. The processes of a
//! job, and their descendants, inherit an environment variable, [`MARK`], that identifies the launcher in this way: a list, the outermost launcher
//! first, because a job may run within a job.

use rustix::fs::{Mode, OFlags};
use rustix::io::{read, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The variable that names the launchers to whose jobs a process belongs.
pub(crate) const MARK: &str = "CHARM4RS_JOB";

/// A unique identification of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub(crate) pid: Pid,
    /// When it started, in the kernel's ticks since the machine did.
    pub(crate) began: u64,
}

/// What `/proc` tells of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stat {
    /// A signal has stopped it.
    pub(crate) stopped: bool,
    pub(crate) group: i32,
    pub(crate) session: i32,
    pub(crate) began: u64,
}

/// Maximum length of `/proc/PID/stat` up to the start time: a name of 64 bytes and 21 numbers.
const STAT_MAX: usize = 1024;

impl Stat {
    /// Of a process that runs, or has ended and was not reaped.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Self::parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name, which may contain any character, ends with the last parenthesis.
    fn parse(text: &[u8]) -> Option<Self> {
        let end = text.iter().rposition(|b| *b == b')')?;
        let mut fields = text.get(end + 1..)?.split(|b| *b == b' ').skip(1);
        let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse::<u64>().ok();
        let stopped = fields.next()? == b"T";
        let [group, session] = [fields.nth(1)?, fields.next()?].map(|field| number(field).unwrap_or(0));
        let began = number(fields.nth(15)?)?;
        Some(Self { stopped, group: i32::try_from(group).ok()?, session: i32::try_from(session).ok()?, began })
    }
}

impl Identity {
    /// This process's identity. Does not allocate, so it may be called between `fork` and `exec`.
    pub(crate) fn own() -> Option<Self> {
        let fd = rustix::fs::open("/proc/self/stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut text = [0; STAT_MAX];
        let n = retry_on_intr(|| read(&fd, &mut text)).ok()?;
        let began = Stat::parse(&text[..n])?.began;
        Some(Self { pid: rustix::process::getpid(), began })
    }

    /// Of a child of this process that was not reaped.
    pub(crate) fn of_child(pid: Pid) -> Option<Self> {
        Some(Self { pid, began: Stat::of(pid.as_raw_nonzero().get())?.began })
    }

    /// The identity in the format of [`MARK`].
    pub(crate) fn mark(self) -> String {
        format!("{}.{}", self.pid, self.began)
    }
}

/// Whether a process has not ended. (A process that has ended and was not reaped is a zombie.)
pub(crate) fn runs(process: Identity) -> bool {
    let text = std::fs::read(format!("/proc/{}/stat", process.pid.as_raw_nonzero())).unwrap_or_default();
    let end = text.iter().rposition(|b| *b == b')').unwrap_or(text.len());
    let state = text.get(end + 2).copied();
    Stat::parse(&text).is_some_and(|stat| stat.began == process.began) && !matches!(state, Some(b'Z' | b'X'))
}

/// Whether no other process has the number of this one.
pub(crate) fn has_its_number(process: Identity) -> bool {
    Stat::of(process.pid.as_raw_nonzero().get()).is_none_or(|stat| stat.began == process.began)
}

/// The children of this process, of all its threads, including those that have ended.
pub(crate) fn children() -> Vec<Pid> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|n| Pid::from_raw(n.parse().ok()?)).collect::<Vec<_>>())
        .collect()
}

/// Whether no other thread of this process can start a process.
pub(crate) fn has_one_thread() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

/// All processes.
pub(crate) fn all() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether a running process has a mark in its environment, as it was when its program started. `None`: it has no environment, which is the case for
/// a moment while it executes a program.
pub(crate) fn mark_of(pid: i32, mark: &str) -> Option<bool> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok().filter(|bytes| !bytes.is_empty())?;
    let values =
        environment.split(|b| *b == 0).filter_map(|entry| entry.strip_prefix(MARK.as_bytes())?.strip_prefix(b"="));
    Some(values.flat_map(|value| value.split(|b| *b == b' ')).any(|one| one == mark.as_bytes()))
}

fn has_mark(pid: i32, mark: &str) -> bool {
    mark_of(pid, mark) == Some(true)
}

/// Kills all processes with a mark, including those that they start in the meantime. Gives up after some rounds: a program that starts processes
/// faster than that has to be stopped by other means.
pub(crate) fn kill_marked(mark: &str) {
    const ROUNDS: usize = 50;
    let mut clean = 0;
    for _ in 0..ROUNDS {
        let found: Vec<i32> = all().filter(|pid| has_mark(*pid, mark)).collect();
        clean = if found.is_empty() { clean + 1 } else { 0 };
        // A process that executes a program just now is not seen the first time.
        if clean == 3 {
            return;
        }
        found.into_iter().for_each(|pid| kill_if(pid, || has_mark(pid, mark)));
        std::thread::sleep(std::time::Duration::from_millis(3));
    }
}

/// Kills a process, if its number was not reused.
pub(crate) fn kill(process: Identity) {
    let number = process.pid.as_raw_nonzero().get();
    kill_if(number, || Stat::of(number).is_some_and(|now| now.began == process.began));
}

/// Kills the process of this number if `so` returns true. The number may be reused at any time; a descriptor refers to one process forever, so what
/// is checked after it was opened holds for the killed process, or nothing is killed.
fn kill_if(pid: i32, so: impl FnOnce() -> bool) {
    let process = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    if let Some(process) = process.filter(|_| so()) {
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}

/// Kills the group that `leader` leads or has led, with all its members, provided that the number still denotes that group. While a group has members
/// the kernel does not reuse its number. So the group is the same if its leader is the same, or, if the leader is gone, if a member started before
/// `until`, when the leader's number was still taken.
pub(crate) fn kill_group(leader: Identity, until: u64) {
    let number = leader.pid.as_raw_nonzero().get();
    let is_same = match Stat::of(number) {
        Some(now) => now.began == leader.began,
        None => all().filter_map(Stat::of).any(|member| {
            let in_time = (leader.began..=until).contains(&member.began);
            in_time && (member.group, member.session) == (number, number)
        }),
    };
    if is_same {
        let _ = rustix::process::kill_process_group(leader.pid, Signal::KILL);
    }
}

/// The current time, in the kernel's ticks since the machine started.
pub(crate) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let [seconds, nanoseconds] = [time.tv_sec, time.tv_nsec].map(|n| u64::try_from(n).unwrap_or(0));
    let ticks = rustix::param::clock_ticks_per_second();
    seconds.saturating_mul(ticks).saturating_add(nanoseconds.saturating_mul(ticks) / 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that leads a group and a session of its own, and has a mark.
    fn sleeper(mark: &str) -> Child {
        let mut command = Command::new("setsid");
        command.args(["--wait", "sleep", "1000.5"]).env(MARK, mark).stdin(Stdio::null());
        command.process_group(0).spawn().expect("setsid")
    }

    #[test]
    fn a_name_with_anything_in_it_does_not_hide_what_follows() {
        let text = b"7 (a) S 1 2 3) S 1 70 71 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 99887 5 6 7";
        assert_eq!(Stat::parse(text), Some(Stat { stopped: false, group: 70, session: 71, began: 99887 }));
        for cut in 0..text.len() {
            let _ = Stat::parse(&text[..cut]);
        }
    }

    #[test]
    fn this_process_knows_itself_and_its_children() {
        let own = Identity::own().expect("proc");
        assert_eq!(Some(own.began), Stat::of(own.pid.as_raw_nonzero().get()).map(|stat| stat.began));
        assert!(own.began <= now());
        let mut child = sleeper(&own.mark());
        assert!(children().contains(&Pid::from_child(&child)));
        child.kill().and_then(|()| child.wait()).expect("ours");
        kill_marked(&own.mark());
    }

    #[test]
    fn a_process_with_a_reused_number_is_not_killed() {
        let mark = format!("{}.reused", std::process::id());
        let mut child = sleeper(&mark);
        let pid = Pid::from_child(&child);
        let began = Identity::of_child(pid).expect("it runs").began;
        kill_group(Identity { pid, began: began + 1 }, now());
        assert!(child.try_wait().expect("ours").is_none(), "it was killed by another process's identity");
        kill_group(Identity { pid, began }, now());
        child.wait().expect("ours");
        kill_marked(&mark);
    }

    #[test]
    fn a_list_of_marks_belongs_to_each_of_its_launchers_and_to_no_other() {
        let mark = format!("{}.list", std::process::id());
        let mut child = sleeper(&format!("1.2 {mark}"));
        let pid = Pid::from_child(&child).as_raw_nonzero().get();
        while !has_mark(pid, &mark) {
            std::thread::yield_now();
        }
        assert!(!has_mark(pid, "1.") && !has_mark(pid, &mark[1..]));
        kill_marked(&mark);
        child.wait().expect("ours");
    }
}
