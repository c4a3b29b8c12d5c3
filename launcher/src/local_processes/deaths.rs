//! Ended processes of this host: their last messages, their status, and what they leave behind.

use std::time::Instant;

use charm4rs_bootstrap::leftovers;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::{Event, GIVE_UP, LocalProcesses, News};
use crate::guardian::Guardian;
use crate::processes::Identity;
use crate::sys::{self, Death};

/// How many times to check a process again of which it is not known whether it is the job's.
const UNTOLD: u32 = 5;

impl LocalProcesses {
    /// Takes the status of the job's processes that have ended, not of the caller's other children.
    pub(super) fn on_deaths(&mut self) {
        self.on_own_deaths();
        // Orphans that this process has adopted.
        while let Some(pid) = sys::next_dead().filter(|_| self.caller.is_alone()) {
            if self.has_started(pid) {
                // It has ended since the check; its status is reported.
                self.on_own_deaths();
            } else {
                let _ = sys::reap(pid);
            }
        }
    }

    /// Whether it is a process, a command or the guardian, and not reaped yet.
    fn has_started(&self, pid: Pid) -> bool {
        self.leaders().any(|leader| leader.pid == pid) || self.guardian.as_ref().map(Guardian::pid) == Some(pid)
    }

    /// The processes and commands that have not been reaped.
    fn leaders(&self) -> impl Iterator<Item = Identity> {
        self.children.iter().filter_map(|child| child.leader).chain(self.commands.iter().copied())
    }

    fn on_own_deaths(&mut self) {
        let ended = |leader: &Option<Identity>| leader.is_some_and(|leader| sys::has_ended(leader.pid));
        for rank in self.ranks.clone() {
            if self.child(rank).is_some_and(|child| ended(&child.leader)) {
                // Its last messages come first.
                self.on_channel(rank);
                let Some(leader) = self.child(rank).and_then(|child| child.leader.take()) else { continue };
                let death = self.bury(leader);
                self.tell(rank, News::Died(death));
            }
        }
        let commands = self.commands.extract_if(.., |leader| sys::has_ended(leader.pid)).collect::<Vec<_>>();
        for leader in commands {
            let death = self.bury(leader);
            self.events.push_back(Event::Command(leader.pid, death));
        }
        let guardian = self.guardian.as_ref().map(Guardian::pid);
        if guardian.is_some_and(sys::has_ended) {
            self.replace_guardian();
        }
    }

    /// The guardian has ended prematurely. The number of replacements is limited.
    fn replace_guardian(&mut self) {
        self.dismiss_guardian();
        if self.guardians == 0 {
            return;
        }
        self.guardians -= 1;
        self.guardian = Guardian::start(self.caller.mark(), self.agent).ok();
        if let Some(guardian) = &self.guardian {
            self.leaders().for_each(|leader| guardian.watch_over(leader));
        }
    }

    /// Kills its descendants, while its group's number cannot be reused, and takes its status.
    fn bury(&mut self, leader: Identity) -> Death {
        let _ = kill_process_group(leader.pid, Signal::KILL);
        if let Some(guardian) = &self.guardian {
            guardian.forget(leader);
        }
        // Its number cannot be reused until it is reaped.
        leftovers::remove(leader.pid);
        sys::reap(leader.pid)
    }

    /// Whether one of them has not been reaped.
    pub(crate) fn one_runs(&self) -> bool {
        self.children.iter().any(|child| child.leader.is_some())
    }

    /// Kills adopted orphans, repeatedly until none is left.
    pub(crate) fn sweep(&mut self) {
        let (until, mut clean) = (Instant::now() + GIVE_UP, 0);
        loop {
            self.on_deaths();
            let guardian = self.guardian.as_ref().map(Guardian::pid);
            let (mut left, all_are_told) = self.caller.left_behind(&self.sessions);
            left.retain(|pid| Some(*pid) != guardian);
            // A process that was the job's is still so after its end, and so are its descendants.
            self.sessions.extend(&left);
            left.retain(|pid| {
                let ended = sys::has_ended(*pid);
                if ended {
                    let _ = sys::reap(*pid);
                }
                !ended
            });
            clean = if left.is_empty() { clean + 1 } else { 0 };
            if clean > 0 && (all_are_told || clean > UNTOLD) || Instant::now() > until {
                return;
            }
            left.into_iter().for_each(|pid| _ = kill_process(pid, Signal::KILL));
            // A signal tells that one of them has ended.
            let mut ready = [PollFd::new(self.caller.signals.fd(), PollFlags::IN)];
            let _ = poll(&mut ready, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 }));
            while self.caller.signals.next().is_some() {}
        }
    }

    /// Ends the guardian: nothing is left that it would have to kill.
    pub(crate) fn dismiss_guardian(&mut self) {
        if let Some(guardian) = self.guardian.take() {
            guardian.dismiss();
        }
    }
}
