//! A small process beside the launcher that outlives it by a moment: when the launcher is killed with no chance to clean
//! up, the kernel kills the job's processes (their parent's death signal), but not what they have started. The guardian
//! holds the reading end of a pipe, learns of each process group, and kills those that are left when the pipe closes, and then
//! whatever else has the job's mark in its environment.
//!
//! The process that leads a group writes a record of it into the pipe before it runs its program; the launcher takes
//! it back before anybody else can have the group's number. A record has a form that is checked, and says when the group's leader started:
//! other bytes mean nothing, and a number that is used again names nobody.
//!
//! The job needs no guardian. One that was killed is replaced; while there is none, or one that stands still, nobody waits for it: no write to it blocks, none ends its writer by a
//! signal, and a record that cannot be written is left out.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use charm4rs_bootstrap::leftovers;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{read, retry_on_intr, write};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::processes::{self, Identity, Stat};
use crate::sys;

/// For how long an agent may stand still, and how often to look.
const STOPPED: Duration = Duration::from_secs(4);
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 300_000_000 };
/// What it is called, for those who list processes.
const NAME: &core::ffi::CStr = c"charmrun-guard";

/// What a record says of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    Kill,
    /// Its number will be somebody else's.
    Forget,
}

/// What a record begins with.
const MAGIC: [u8; 8] = *b"c4guard\x01";
/// Bytes of a record: a pipe takes it whole or not at all.
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
    // Every launcher has a parent: process 1 is nobody's child, and smaller numbers mean many processes.
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
    /// Starts it, for a job whose processes have this mark. It shares nothing with the launcher but the pipe.
    /// `agent`: it serves an agent, of whom nobody can be told that it stands still.
    pub(crate) fn start(mark: &str, agent: bool) -> io::Result<Self> {
        let (mine, pipe) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&pipe, true)?;
        let served = Identity::own().filter(|_| agent);
        let pid = sys::fork(|| {
            // Away from the terminal's signals.
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

    /// Ends it, without it killing anything, even if it stands still.
    pub(crate) fn dismiss(self) {
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = retry_on_intr(|| waitpid(Some(self.pid), WaitOptions::empty()));
    }

    /// Tells it of a group that was there before it.
    pub(crate) fn watch_over(&self, leader: Identity) {
        let _ = retry_on_intr(|| write(&self.pipe, &record(Word::Kill, leader)));
    }

    /// This group's number will be somebody else's.
    pub(crate) fn forget(&self, leader: Identity) {
        let _ = retry_on_intr(|| write(&self.pipe, &record(Word::Forget, leader)));
    }
}

/// How long processes that were killed may take to end.
const PATIENCE: Duration = Duration::from_millis(500);

/// Removes what libraries have left in the leaders' names, once they have ended.
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

/// Reads records until the pipe closes. Gives the groups that are left. `agent` is killed if it stands still for so long that its launcher takes
/// its host for lost: the line to it is closed then, and nobody else can end it.
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

/// Takes whole records out of what was read. What is none is passed over, byte by byte.
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
    fn records_are_found_among_other_bytes_and_other_bytes_are_none() {
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
    fn what_a_guardian_kills_is_what_it_was_told_last() {
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
