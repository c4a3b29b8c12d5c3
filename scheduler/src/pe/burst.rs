//! Bursts: how many calls and tasks run between two polls of the port.
//!
//! A burst has as many as fit into [`SPAN`]. Full bursts are timed, and one in [`SAMPLE`] of the others: a few long calls, which do not fill a burst,
//! must not delay arrivals indefinitely. The measured time makes the next burst longer or shorter.

use std::time::Duration;

use super::{Ready, Scheduler};
use crate::handler::Handler;

/// The longest time between two polls of the port, unless one call takes longer.
const SPAN: Duration = Duration::from_micros(20);
/// Calls in the first burst.
pub(super) const FIRST: usize = 8;
/// One in so many bursts of several turns is timed even if it is not full: two readings of the clock cost as much as a call.
const SAMPLE: u32 = 8;

impl Scheduler {
    #[inline]
    pub(super) fn work(&self, handler: &impl Handler) -> bool {
        let (queued, ready) = (self.queue.borrow().len(), self.tasks.ready());
        if queued + ready == 0 {
            self.burst_ended.set(None);
            return false;
        }
        self.pulse.works();
        let limit = self.burst.get();
        let sample = queued + ready > 1 && self.is_sample();
        // A burst that directly follows another begins when that one ended.
        let began = self.burst_ended.take().or_else(|| (queued >= limit || sample).then(|| self.now()));
        let Some((resumed, run)) = self.run_burst(limit, handler) else { return true };
        if run == limit || sample {
            let now = self.now();
            if run == limit {
                self.burst_ended.set(Some(now));
            }
            if let Some(began) = began {
                self.adapt_burst(limit, resumed + run, now.saturating_sub(began));
            }
        }
        resumed + run > 0
    }

    /// Returns the number of tasks resumed and of calls run. `None`: the PE was stopped.
    #[inline]
    fn run_burst(&self, limit: usize, handler: &impl Handler) -> Option<(usize, usize)> {
        let (mut resumed, mut run) = (0, 0);
        while run < limit {
            // All tasks that are ready now: tasks woken during the burst would overtake those left over.
            let ready = self.tasks.ready();
            for _ in 0..ready {
                if self.stopped() {
                    return None;
                }
                resumed += usize::from(self.tasks.poll_one());
                self.pulse.one_other();
            }
            if self.stopped() {
                return None;
            }
            let Some(next) = self.queue.borrow_mut().pop() else { break };
            match next {
                Ready::Message(msg) => {
                    self.took(&msg);
                    handler.deliver(msg);
                }
                Ready::Call(call) => call.run(),
            }
            self.pulse.one_processed();
            run += 1;
            if ready > limit {
                break;
            }
        }
        Some((resumed, run))
    }

    #[inline]
    fn is_sample(&self) -> bool {
        let next = self.bursts.get().wrapping_add(1);
        self.bursts.set(next);
        next.is_multiple_of(SAMPLE)
    }

    /// Sets how many calls the next burst may have, from the time that a burst of so many turns took.
    fn adapt_burst(&self, limit: usize, turns: usize, took: Duration) {
        if took > SPAN {
            let fits = u128::try_from(turns).expect("fits") * SPAN.as_nanos() / took.as_nanos();
            self.burst.set(usize::try_from(fits).expect("less than the turns").clamp(1, limit));
        } else if took < SPAN / 2 && turns >= limit {
            self.burst.set((limit * 2).min(self.config.burst_max));
        }
    }
}
