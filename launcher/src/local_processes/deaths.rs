//! Who of this host's has ended: their last words, their status, and what they leave behind.

use std::time::Instant;

use charm4rs_bootstrap::leftovers;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::{Event, GIVE_UP, LocalProcesses, News};
use crate::guardian::Guardian;
use crate::processes::Identity;
use crate::sys::{self, Death};

/// How often to look again at a process of which it is not known whose it is.
const UNTOLD: u32 = 5;

impl LocalProcesses {
    /// Takes the status of those that have ended, of nobody else's children.
    pub(super) fn on_deaths(&mut self) {
        self.on_own_deaths();
        // Orphans that have come to us.
        while let Some(pid) = sys::next_dead().filter(|_| self.caller.is_alone()) {
            if self.has_started(pid) {
                // It has ended since we looked; its status is news.
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
                // Its last words first.
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

    /// The guardian has ended before its time. Somebody who does not want one gets no more than some.
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

    /// Kills what it has started, whose group's number is its own until it is reaped, and takes its status.
    fn bury(&mut self, leader: Identity) -> Death {
        let _ = kill_process_group(leader.pid, Signal::KILL);
        if let Some(guardian) = &self.guardian {
            guardian.forget(leader);
        }
        // Until it is reaped, what has its number is its own.
        leftovers::remove(leader.pid);
        sys::reap(leader.pid)
    }

    /// Whether one of them has not been reaped.
    pub(crate) fn one_runs(&self) -> bool {
        self.children.iter().any(|child| child.leader.is_some())
    }

    /// Kills what has become our child by losing its parent, again and again until nothing is left.
    pub(crate) fn sweep(&mut self) {
        let (until, mut clean) = (Instant::now() + GIVE_UP, 0);
        loop {
            self.on_deaths();
            let guardian = self.guardian.as_ref().map(Guardian::pid);
            let (mut left, all_are_told) = self.caller.left_behind(&self.sessions);
            left.retain(|pid| Some(*pid) != guardian);
            // What is ours once is ours when it has ended, too, and so is what it has started.
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
            // One of them has ended when there is a signal.
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
