//! Bursts: how many calls and tasks run between two looks at the port.
//!
//! As many as fit into [`SPAN`]: full bursts are timed, and the next is made longer or shorter. Each burst of several turns is looked at
//! besides, after its second, eighth, … turn, with a clock that costs little and tells milliseconds: a few long calls, or one that sends
//! to itself again and again, must not keep waiting what arrives for others.

use std::time::Duration;

use super::Scheduler;
use crate::clock::Clock;
use crate::handler::Handler;

/// The port shall not be left alone for longer, unless one call takes longer.
const SPAN: Duration = Duration::from_micros(20);
/// Calls in the first burst.
pub(super) const FIRST: usize = 8;

/// The turns of a burst, which are counted to be timed now and then.
struct Turns<'a> {
    clock: &'a Clock,
    began: Option<Duration>,
    taken: u32,
}

impl<'a> Turns<'a> {
    /// `due`: how many there will be, as far as is known.
    #[inline]
    fn new(clock: &'a Clock, due: usize) -> Self {
        Self { clock, began: (due > 2).then(|| clock.coarse()), taken: 0 }
    }

    /// One more has been taken. Whether they have been going on for too long.
    #[inline]
    fn take_too_long(&mut self) -> bool {
        self.taken += 1;
        if !matches!(self.taken, 2 | 8 | 32 | 128) {
            return false;
        }
        let now = self.clock.coarse();
        now.saturating_sub(*self.began.get_or_insert(now)) > SPAN
    }
}

impl Scheduler {
    #[inline]
    pub(super) fn work(&self, handler: &impl Handler) -> bool {
        if !self.has_any() {
            self.burst_ended.set(None);
            return false;
        }
        self.pulse.works();
        let limit = self.burst.get();
        let queued = self.queue.borrow().len();
        // Only a full burst is worth a look at the clock, and one that follows another begins when that ended.
        let began = self.burst_ended.take().or_else(|| (queued >= limit).then(|| self.now()));
        let mut turns = Turns::new(&self.config.clock, queued + self.tasks.ready());
        let (mut any, mut run) = (false, 0);
        while run < limit {
            let ready = self.tasks.ready();
            for _ in 0..ready {
                if self.stopped() {
                    return true;
                }
                any |= self.tasks.poll_one();
                self.pulse.one_other();
                if turns.take_too_long() {
                    return self.cut_burst();
                }
            }
            if self.stopped() {
                return true;
            }
            let Some(msg) = self.queue.borrow_mut().pop() else { break };
            handler.deliver(msg);
            self.pulse.one_processed();
            any = true;
            run += 1;
            if turns.take_too_long() {
                return self.cut_burst();
            }
            if ready > limit {
                break;
            }
        }
        if run == limit {
            let now = self.now();
            self.burst_ended.set(Some(now));
            if let Some(began) = began {
                self.adapt_burst(limit, now.saturating_sub(began));
            }
        }
        any
    }

    /// Ends a burst that takes too long: the next one is as short as can be.
    #[cold]
    fn cut_burst(&self) -> bool {
        self.burst.set(1);
        true
    }

    /// Whether a burst would run something.
    #[inline]
    fn has_any(&self) -> bool {
        self.tasks.ready() > 0 || self.queue.borrow().len() > 0
    }

    /// Sets how many calls the next burst may have, from how long one of `limit` calls took.
    fn adapt_burst(&self, limit: usize, took: Duration) {
        let next = if took > SPAN {
            let fits = u128::try_from(limit).expect("fits") * SPAN.as_nanos() / took.as_nanos();
            usize::try_from(fits).expect("less than the limit").max(1)
        } else if took < SPAN / 2 {
            (limit * 2).min(self.config.burst_max)
        } else {
            limit
        };
        self.burst.set(next);
    }
}
