//! What other threads give to a PE: closures to run, tasks to wake, and holds that keep the job from being quiescent.
//!
//! # Protocol
//! A lock-free queue, and a flag `notified` that saves both sides most of the work.
//!
//! - *Another thread*: push the item; then `swap(notified, true)`; if it was false, ring the PE's bell.
//! - *The PE*, each round: if `notified` reads true, `swap(notified, false)`, then pop until the queue is empty.
//! - *The PE, before it parks*: if `notified` reads true, it does not park. The bell keeps a ring that comes between this check and the sleep, or
//!   during the sleep.
//!
//! No item is missed. Take the last item pushed, and its pusher's swap. If that swap found false, the pusher rings after the swap: the PE does not
//! sleep through the ring, and on its next round reads true. If it found true, another thread set the flag and the PE has not cleared it since; that
//! thread rings, so the PE will clear the flag by a swap that comes later in the flag's modification order than the pusher's. Both swaps acquire and
//! release, so the PE pops after it has seen the push. The `loom_` tests below check this.
//!
//! # What quiescence sees
//! Every item is counted twice: in `opened` when it is pushed (or a hold is taken), and in `closed` when it is done. (A [`Foreign::Look`] is not
//! counted: it is not work.) The PE reads `closed` first: because both only grow, equal readings mean that nothing was open when `closed` was read.

use std::fmt;
use std::sync::Arc;

use crate::Scheduler;
use crate::sync::{AtomicBool, AtomicU64, Bell, Mpsc, Ordering};

/// A closure for the PE.
pub(crate) type Job = Box<dyn FnOnce(&Scheduler) + Send>;

/// An item that another thread pushes.
pub(crate) enum Foreign {
    /// A task to resume, identified as in the ready queue.
    Wake(u64),
    /// A closure to run.
    Run(Job),
    /// A closure that is not work: it is not counted, and an idle PE stays idle.
    Look(Job),
}

/// Both sides, the PE's and the other threads'; see the module's text.
pub(crate) struct Inbox {
    queue: Mpsc<Foreign>,
    notified: AtomicBool,
    opened: AtomicU64,
    closed: AtomicU64,
    gone: AtomicBool,
    bell: Bell,
}

impl Inbox {
    pub(crate) fn new(bell: Bell) -> Self {
        Self {
            queue: Mpsc::new(),
            notified: AtomicBool::new(false),
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            bell,
        }
    }

    /// From any thread: gives the PE something to do.
    pub(crate) fn push(&self, item: Foreign) {
        if !matches!(item, Foreign::Look(_)) {
            self.open();
        }
        self.queue.push(item);
        self.notify();
        if self.gone.load(Ordering::SeqCst) {
            // The PE will not pop it any more, and it may keep this inbox alive.
            while self.queue.pop().is_some() {}
        }
    }

    fn notify(&self) {
        if !self.notified.swap(true, Ordering::AcqRel) {
            self.bell.wake();
        }
    }

    fn open(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// One of the opened items is done. On the PE, for what it popped.
    pub(crate) fn close(&self) {
        self.closed.fetch_add(1, Ordering::Release);
    }

    /// On the PE: whether there may be something to pop.
    #[inline]
    pub(crate) fn notified(&self) -> bool {
        self.notified.load(Ordering::Relaxed)
    }

    /// On the PE: calls `take` with at most `max` items. The next call finds the rest.
    pub(crate) fn drain(&self, max: usize, mut take: impl FnMut(Foreign)) {
        if !self.notified() {
            return;
        }
        self.notified.swap(false, Ordering::AcqRel);
        for _ in 0..max {
            let Some(item) = self.queue.pop() else { return };
            take(item);
        }
        self.notified.store(true, Ordering::Relaxed);
    }

    /// On the PE: how many items were opened and closed since the start; equal if nothing is open.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let closed = self.closed.load(Ordering::Acquire);
        (self.opened.load(Ordering::Relaxed), closed)
    }

    /// On the PE, at its end: refuses further items, and drops those in the queue.
    pub(crate) fn shut(&self) {
        self.gone.store(true, Ordering::SeqCst);
        while self.queue.pop().is_some() {}
    }

    fn is_shut(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

/// The PE has ended and runs nothing any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the PE has ended")]
pub struct PeGone;

/// A PE, as seen from other threads.
#[derive(Clone, Debug)]
pub struct Remote(pub(crate) Arc<Inbox>);

impl Remote {
    /// Runs a closure on the PE, between two calls. Quiescence waits for it, but only from this call on: a thread that prepares the call holds a
    /// [`Hold`] in the meantime.
    ///
    /// # Errors
    /// If the PE has ended. (A PE that ends later drops the closures that it has not run.)
    pub fn run(&self, f: impl FnOnce(&Scheduler) + Send + 'static) -> Result<(), PeGone> {
        if self.0.is_shut() {
            return Err(PeGone);
        }
        self.0.push(Foreign::Run(Box::new(f)));
        Ok(())
    }

    /// Runs a closure on the PE, between two calls, that only observes: quiescence does not see it, and an idle PE stays idle. It may send only
    /// system messages.
    pub fn look(&self, f: impl FnOnce(&Scheduler) + Send + 'static) {
        if !self.0.is_shut() {
            self.0.push(Foreign::Look(Box::new(f)));
        }
    }

    /// Keeps the job from being quiescent until the hold is dropped.
    pub fn hold(&self) -> Hold {
        self.0.open();
        Hold(self.0.clone())
    }
}

/// While a hold exists, the job is not quiescent: for work outside of the PEs, on a thread or in an async runtime. Take it on the PE before the work
/// starts, and give it to the work.
#[derive(Debug)]
#[must_use = "a hold that is dropped at once holds nothing"]
pub struct Hold(Arc<Inbox>);

impl Clone for Hold {
    fn clone(&self) -> Self {
        self.0.open();
        Self(self.0.clone())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.close();
        // The PE may be asleep while a quiescence wave waits for it.
        self.0.notify();
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;

    /// The PE's loop, until it has seen `items` wakes.
    fn pe(inbox: &Inbox, bell: &Bell, items: usize) {
        let mut seen = 0;
        while seen < items {
            inbox.drain(1, |_| {
                seen += 1;
                inbox.close();
            });
            if seen < items && !inbox.notified() {
                bell.park();
            }
        }
    }

    #[test]
    fn loom_a_pe_that_parks_misses_nothing() {
        loom::model(|| {
            let bell = Bell::new();
            let inbox = Arc::new(Inbox::new(bell.clone()));
            let others: Vec<_> = (0..2)
                .map(|n| {
                    let inbox = inbox.clone();
                    thread::spawn(move || inbox.push(Foreign::Wake(n)))
                })
                .collect();
            pe(&inbox, &bell, 2);
            for other in others {
                other.join().unwrap();
            }
            assert_eq!(inbox.counts(), (2, 2));
        });
    }

    #[test]
    fn loom_a_hold_passed_between_threads_is_never_overlooked() {
        loom::model(|| {
            let inbox = Arc::new(Inbox::new(Bell::new()));
            let first = Remote(inbox.clone()).hold();
            let other = thread::spawn(move || {
                let second = first.clone();
                drop(first);
                second
            });
            let (opened, closed) = inbox.counts();
            assert_ne!(opened, closed, "one of the two holds exists all the time");
            drop(other.join().unwrap());
            assert_eq!(inbox.counts(), (2, 2));
        });
    }
}
