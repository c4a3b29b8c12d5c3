//! The state of a PE, and what it waits for: for reports of jobs that hang.

use std::sync::Arc;
use std::time::Duration;

use super::Scheduler;
use crate::handler::{Stalled, Status};
use crate::pulse::Pulse;
use crate::quiescence::Sums;
use crate::tasks::Suspended;

impl Scheduler {
    /// The state of this PE that other threads can read.
    #[must_use]
    pub fn pulse(&self) -> Arc<Pulse> {
        self.pulse.clone()
    }

    /// What this PE waits for; `None` while it has work. For the report of a job that hangs.
    #[must_use]
    pub fn stalled(&self) -> Option<Stalled> {
        let since = self.pulse.idle_since()?;
        let (opened, closed) = self.inbox.counts();
        Some(Stalled {
            idle_for: self.now().saturating_sub(since),
            tasks_suspended: self.tasks.len(),
            timers: self.timers.borrow().len(),
            holds: opened - closed,
        })
    }

    /// Calls queued on this PE.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.borrow().len() + self.arrived.borrow().len()
    }

    /// Whether a round would find work without an arrival: for a driver of many PEs on one thread, where the code of one PE may have woken a task of
    /// another.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.queued() > 0 || self.tasks.ready() > 0 || self.inbox.notified()
    }

    /// The deadline of the next timer, on the PE's clock.
    #[must_use]
    pub fn next_timer(&self) -> Option<Duration> {
        self.timers.borrow_mut().next()
    }

    /// The tasks that have not been woken.
    #[must_use]
    pub fn suspended(&self) -> Vec<Suspended> {
        self.tasks.suspended()
    }

    /// See [`Status`].
    #[must_use]
    pub fn status(&self) -> Status {
        let sums = self.sums();
        let settled = sums.is_some() && !self.has_work() && self.callbacks.borrow().is_empty();
        let Sums { sent, processed } = sums.unwrap_or_default();
        let seen = self.pulse.look();
        let idle_for = seen.idle_since.map(|since| self.now().saturating_sub(since));
        Status { idle_for, settled, sent, processed, turns: seen.turns }
    }

    /// What was sent and processed since the start; `None` while a timer or a hold keeps the PE from being quiescent.
    pub(super) fn sums(&self) -> Option<Sums> {
        let (opened, closed) = self.inbox.counts();
        let (set, gone) = self.timers.borrow().counts();
        let sent = self.sent.get().wrapping_add(opened).wrapping_add(set);
        let processed = self.pulse.processed().wrapping_add(closed).wrapping_add(gone);
        (opened == closed && set == gone).then_some(Sums { sent, processed })
    }
}
