//! The timers of a PE: a heap of deadlines, and the entries beside it, so that a timer can be cancelled in constant time. Equal deadlines fire in the
//! order in which they were set.
//!
//! A cancelled timer leaves its key in the heap; such dead keys are dropped when they reach the top, or all at once when they outnumber the live
//! ones.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::Clock;

/// Identifies a timer of one PE. The identifier of a timer that has fired is invalid, even if its slot is reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TimerId {
    index: u32,
    generation: u32,
}

/// What to do when a timer fires.
pub(crate) enum Due {
    Call(Box<dyn FnOnce()>),
    Wake(Waker),
}

/// Whether a pending timer keeps the job from being quiescent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Counted {
    Yes,
    No,
}

struct Entry {
    generation: u32,
    due: Option<(Due, Counted)>,
}

/// The timers of one PE.
#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Duration, u64, TimerId)>>,
    entries: Vec<Entry>,
    free: Vec<u32>,
    live: usize,
    turn: u64,
    /// Counted timers set since the start, and those fired or cancelled: quiescence adds them to the messages sent and processed.
    set: u64,
    gone: u64,
}

/// So many dead keys are not worth a rebuild.
const DEAD_MAX: usize = 64;

impl Timers {
    pub(crate) fn set(&mut self, at: Duration, due: Due, counted: Counted) -> TimerId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, due: None });
            u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 timers fit into memory")
        });
        let entry = &mut self.entries[index as usize];
        entry.due = Some((due, counted));
        let id = TimerId { index, generation: entry.generation };
        self.turn += 1;
        self.live += 1;
        self.set += u64::from(counted == Counted::Yes);
        self.heap.push(Reverse((at, self.turn, id)));
        id
    }

    fn entry(&mut self, id: TimerId) -> Option<&mut Entry> {
        self.entries.get_mut(id.index as usize).filter(|e| e.generation == id.generation && e.due.is_some())
    }

    fn remove(&mut self, id: TimerId) -> Option<Due> {
        let entry = self.entry(id)?;
        let (due, counted) = entry.due.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(id.index);
        self.live -= 1;
        self.gone += u64::from(counted == Counted::Yes);
        Some(due)
    }

    /// Cancels a timer. The caller drops the returned action after it has released its borrow of the timers.
    pub(crate) fn cancel(&mut self, id: TimerId) -> Option<Due> {
        let due = self.remove(id)?;
        if self.heap.len() > 2 * self.live + DEAD_MAX {
            let mut heap = std::mem::take(&mut self.heap).into_vec();
            heap.retain(|Reverse((_, _, id))| self.entry(*id).is_some());
            self.heap = heap.into();
        }
        Some(due)
    }

    /// Changes the waker of a timer, and returns the previous one; or `waker`, if the timer is gone.
    fn wake_instead(&mut self, id: TimerId, waker: Waker) -> Result<Waker, Waker> {
        match self.entry(id) {
            Some(Entry { due: Some((Due::Wake(old), _)), .. }) => Ok(std::mem::replace(old, waker)),
            _ => Err(waker),
        }
    }

    /// The next deadline.
    pub(crate) fn next(&mut self) -> Option<Duration> {
        while let Some(&Reverse((at, _, id))) = self.heap.peek() {
            if self.entry(id).is_some() {
                return Some(at);
            }
            self.heap.pop();
        }
        None
    }

    /// Takes the first timer that is due at `now`.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<Due> {
        if self.next()? > now {
            return None;
        }
        let Reverse((_, _, id)) = self.heap.pop()?;
        self.remove(id)
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.live == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.live
    }

    /// Counted timers set since the start, and those fired or cancelled.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.set, self.gone)
    }

    /// Takes all of them, for the shutdown.
    pub(crate) fn take_all(&mut self) -> Vec<Due> {
        let ids: Vec<_> = self.heap.drain().map(|Reverse((_, _, id))| id).collect();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers").field("live", &self.live).finish_non_exhaustive()
    }
}

/// Completes at its time. Dropping it cancels its timer.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct Sleep {
    timers: Rc<RefCell<Timers>>,
    clock: Clock,
    at: Duration,
    id: Option<TimerId>,
}

impl Sleep {
    pub(crate) fn new(timers: Rc<RefCell<Timers>>, clock: Clock, at: Duration) -> Self {
        Self { timers, clock, at, id: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.clock.now() >= self.at {
            return Poll::Ready(());
        }
        // Wakers are user code: none is cloned or dropped while the timers are borrowed.
        let waker = cx.waker().clone();
        let replaced = match self.id {
            Some(id) => self.timers.borrow_mut().wake_instead(id, waker),
            None => Err(waker),
        };
        if let Err(waker) = replaced {
            let id = self.timers.borrow_mut().set(self.at, Due::Wake(waker), Counted::Yes);
            self.id = Some(id);
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // The borrow ends with this statement; the waker is dropped after it.
            let due = self.timers.borrow_mut().cancel(id);
            drop(due);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn call(log: &Rc<Cell<u64>>, digit: u64) -> Due {
        let log = log.clone();
        Due::Call(Box::new(move || log.set(log.get() * 10 + digit)))
    }

    fn fire(timers: &mut Timers, now: Duration) {
        while let Some(due) = timers.pop(now) {
            match due {
                Due::Call(f) => f(),
                Due::Wake(waker) => waker.wake(),
            }
        }
    }

    #[test]
    fn timers_fire_in_the_order_of_their_deadlines_and_equal_ones_as_they_were_set() {
        let (log, mut timers) = (Rc::default(), Timers::default());
        for (ms, digit) in [(30, 4), (10, 1), (20, 2), (20, 3)] {
            timers.set(at(ms), call(&log, digit), Counted::Yes);
        }
        assert_eq!(timers.next(), Some(at(10)));
        fire(&mut timers, at(20));
        assert_eq!(log.get(), 123);
        fire(&mut timers, at(29));
        assert_eq!(log.get(), 123);
        fire(&mut timers, at(30));
        assert_eq!((log.get(), timers.next(), timers.counts()), (1234, None, (4, 4)));
    }

    #[test]
    fn a_cancelled_timer_does_not_fire_and_its_place_is_reused_under_another_name() {
        let (log, mut timers) = (Rc::default(), Timers::default());
        let first = timers.set(at(1), call(&log, 1), Counted::No);
        assert!(timers.cancel(first).is_some());
        let second = timers.set(at(1), call(&log, 2), Counted::Yes);
        assert_eq!((first.index, timers.cancel(first).is_none()), (second.index, true));
        fire(&mut timers, at(1));
        assert_eq!((log.get(), timers.counts()), (2, (1, 1)));
        assert!(timers.cancel(second).is_none());
    }

    #[test]
    fn the_keys_of_cancelled_timers_do_not_pile_up() {
        let mut timers = Timers::default();
        let keep = timers.set(at(1), Due::Wake(Waker::noop().clone()), Counted::Yes);
        for _ in 0..10_000 {
            let id = timers.set(at(5), Due::Wake(Waker::noop().clone()), Counted::Yes);
            timers.cancel(id);
        }
        assert!(timers.heap.len() <= 2 + DEAD_MAX && timers.entries.len() == 2);
        assert!(timers.entry(keep).is_some());
    }

    #[test]
    fn a_dropped_sleep_leaves_no_timer() {
        let clock = crate::VirtualClock::new();
        let timers = Rc::new(RefCell::new(Timers::default()));
        let mut sleep = Sleep::new(timers.clone(), clock.clock(), at(5));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut sleep).poll(&mut cx).is_pending());
        assert!(Pin::new(&mut sleep).poll(&mut cx).is_pending());
        assert_eq!(timers.borrow().len(), 1);
        drop(sleep);
        assert_eq!((timers.borrow().len(), timers.borrow().counts()), (0, (1, 1)));
    }
}
