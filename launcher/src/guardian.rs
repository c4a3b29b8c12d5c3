//! The guardian: a small process beside the launcher that outlives it by a moment. When the launcher is killed and cannot clean up, the kernel kills
//! the job's processes (by their parent-death signal), but not what they have started. The guardian holds the reading end of a pipe, learns of each
//! process group, and when the pipe closes kills the groups that are left, and then every other process that has the job's mark in its environment.
//!
//! The leader of a group writes a record of the group into the pipe before it runs its program; the launcher withdraws the record before the group's
//! number can be reused. The form of a record is checked, and it contains the start time of the group's leader: other bytes have no effect, and a
//! reused number matches no process.
//!
//! The job does not depend on the guardian. If it is killed it is replaced; while there is none, or it is stopped, nothing waits for it: a write to
//! it does not block, does not end its writer by a signal, and a record that cannot be written is omitted.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use charm4rs_bootstrap::leftovers;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{read, retry_on_intr, write};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::processes::{self, Identity, Stat};
use crate::sys;

/// How long an agent may be stopped, and how often to check.
const STOPPED: Duration = Duration::from_secs(4);
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 300_000_000 };
/// Its process name.
const NAME: &core::ffi::CStr = c"charmrun-guard";

/// The operation of a record on a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    Kill,
    /// The number of the group will be reused.
    Forget,
}

/// The first bytes of a record.
const MAGIC: [u8; 8] = *b"c4guard\x01";
/// Bytes of a record: a pipe accepts it whole or not at all.
pub(crate) const RECORD: usize = 24;

pub(crate) fn record(word: Word, leader: Identity) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8] = match word {
        Word::Kill => 1,
        Word::Forget => 2,
    };
    bytes[12..16].copy_from_slice(&leader.pid.as_raw_nonzero().get().to_le_bytes());
    bytes[16..].copy_from_slice(&leader.began.to_le_bytes());
    bytes
}

fn read_record(bytes: &[u8; RECORD]) -> Option<(Word, Identity)> {
    let (head, rest) = bytes.split_first_chunk::<12>()?;
    let word = match head.strip_prefix(&MAGIC)? {
        [1, 0, 0, 0] => Word::Kill,
        [2, 0, 0, 0] => Word::Forget,
        _ => return None,
    };
    let (pid, began) = rest.split_first_chunk()?;
    // Every launcher has a parent, so it cannot be process 1, and smaller numbers denote several processes.
    let pid = Some(i32::from_le_bytes(*pid)).filter(|pid| *pid > 1).and_then(Pid::from_raw)?;
    Some((word, Identity { pid, began: u64::from_le_bytes(*began.first_chunk()?) }))
}

/// The launcher's end.
#[derive(Debug)]
pub(crate) struct Guardian {
    pid: Pid,
    /// Closing it ends the guardian.
    pipe: OwnedFd,
}

impl Guardian {
    /// Starts the guardian of a job whose processes have this mark. It shares nothing with the launcher but the pipe. `agent`: it serves an agent,
    /// which no other process of its host observes.
    pub(crate) fn start(mark: &str, agent: bool) -> io::Result<Self> {
        let (mine, pipe) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&pipe, true)?;
        let served = Identity::own().filter(|_| agent);
        let pid = sys::fork(|| {
            // So that it does not get the terminal's signals.
            let _ = rustix::process::setsid();
            let _ = rustix::thread::set_name(NAME);
            sys::close_all_but(mine.as_fd());
            let groups = watch(&mine, served);
            let now = processes::now();
            groups.iter().for_each(|leader| processes::kill_group(*leader, now));
            processes::kill_marked(mark);
            clear_up(&groups);
        })?;
        Ok(Self { pid, pipe })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Where the leader of a group writes its record.
    pub(crate) fn pipe(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Ends the guardian without letting it kill anything, even if it is stopped.
    pub(crate) fn dismiss(self) {
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = retry_on_intr(|| waitpid(Some(self.pid), WaitOptions::empty()));
    }

    /// Adds a group that existed before the guardian.
    pub(crate) fn watch_over(&self, leader: Identity) {
        let _ = retry_on_intr(|| write(&self.pipe, &record(Word::Kill, leader)));
    }

    /// Removes a group, whose number will be reused.
    pub(crate) fn forget(&self, leader: Identity) {
        let _ = retry_on_intr(|| write(&self.pipe, &record(Word::Forget, leader)));
    }
}

/// How long killed processes may take to end.
const PATIENCE: Duration = Duration::from_millis(500);

/// Removes what libraries have left under the leaders' process numbers, once the leaders have ended.
fn clear_up(leaders: &[Identity]) {
    let until = Instant::now() + PATIENCE;
    for leader in leaders {
        while processes::runs(*leader) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        if processes::has_its_number(*leader) && !processes::runs(*leader) {
            leftovers::remove(leader.pid);
        }
    }
}

/// Reads records until the pipe closes. Returns the groups that are left. Kills `agent` if it is stopped for so long that its launcher declares its
/// host lost: then the connection to it is closed, and nothing else can end it.
fn watch(pipe: &OwnedFd, agent: Option<Identity>) -> Vec<Identity> {
    let mut groups: Vec<Identity> = Vec::new();
    let mut bytes: Vec<u8> = Vec::new();
    let mut buf = [0; 64 * RECORD];
    let mut stopped: Option<Instant> = None;
    loop {
        if let Some(agent) = agent {
            let stands = Stat::of(agent.pid.as_raw_nonzero().get()).is_some_and(|now| now.stopped);
            stopped = stopped.or_else(|| Some(Instant::now())).filter(|_| stands);
            if stopped.is_some_and(|since| since.elapsed() >= STOPPED) {
                processes::kill(agent);
            }
            let mut ready = [PollFd::new(pipe, PollFlags::IN)];
            if !matches!(poll(&mut ready, Some(&LOOK)), Ok(1)) {
                continue;
            }
        }
        let Ok(n @ 1..) = retry_on_intr(|| read(pipe, &mut buf)) else { return groups };
        bytes.extend_from_slice(&buf[..n]);
        take_records(&mut bytes, |word, leader| {
            groups.retain(|group| *group != leader);
            if word == Word::Kill {
                groups.push(leader);
            }
        });
    }
}

/// Takes complete records out of the bytes read. Other bytes are skipped one by one.
pub(crate) fn take_records(bytes: &mut Vec<u8>, mut each: impl FnMut(Word, Identity)) {
    let mut at = 0;
    while let Some(next) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        match read_record(next) {
            Some((word, leader)) => {
                each(word, leader);
                at += RECORD;
            }
            None => at += 1,
        }
    }
    bytes.drain(..at);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_among_other_bytes_which_are_skipped() {
        let leader = |pid| Identity { pid: Pid::from_raw(pid).expect("a number"), began: 1 << 40 };
        let [kill, forget] = [Word::Kill, Word::Forget].map(|word| record(word, leader(77)));
        let mut many = kill;
        many[12..16].copy_from_slice(&(-1i32).to_le_bytes());
        let mut stream = b"\xff\xff\xff\xff12345\n".to_vec();
        stream
            .extend([&kill[..], b"PE 3 says hello\n", &MAGIC, &forget, &record(Word::Kill, leader(1)), &many].concat());
        for piece in [1, 7, RECORD, 1000] {
            let (mut bytes, mut found) = (Vec::new(), Vec::new());
            for part in stream.chunks(piece) {
                bytes.extend_from_slice(part);
                take_records(&mut bytes, |word, leader| found.push((word, leader)));
            }
            assert_eq!(found, [(Word::Kill, leader(77)), (Word::Forget, leader(77))]);
        }
    }

    #[test]
    fn a_guardian_kills_the_groups_that_were_added_and_not_removed() {
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        let leader = |pid| Identity { pid: Pid::from_raw(pid).expect("a number"), began: 5 };
        for (word, pid) in [(Word::Kill, 20), (Word::Kill, 21), (Word::Forget, 20), (Word::Kill, 22), (Word::Kill, 22)]
        {
            write(&writer, &record(word, leader(pid))).expect("room");
        }
        drop(writer);
        assert_eq!(watch(&reader, None), [leader(21), leader(22)]);
    }
}
