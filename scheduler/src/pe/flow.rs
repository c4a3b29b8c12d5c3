//! Flow control in the scheduler: messages that leave its queue, and senders that are suspended until their messages have left. The protocol is the
//! port's (`transport/src/port/credit.rs`).

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::Poll;

use charm4rs_transport::port::{HeldId, Incoming};

use super::Scheduler;

/// The number of calls that may wait on a PE before a task of that PE that sends it more lets them run first.
const OWN_MAX: usize = 1024;

/// Messages that were sent without waiting for credit.
#[derive(Debug)]
#[must_use]
pub struct Sent(Vec<HeldId>);

impl Scheduler {
    /// A message was taken out of the queue: its sender gets credit back.
    #[inline]
    pub(super) fn took(&self, msg: &Incoming) {
        if self.ledger.took(msg) {
            self.give_credit(msg);
        }
    }

    #[cold]
    fn give_credit(&self, msg: &Incoming) {
        if let Some(port) = &mut *self.port.borrow_mut() {
            port.give_credit_to(msg.from);
        }
    }

    /// Runs `send`, whose messages do not wait for credit: a message without credit stays in this PE's memory, and leaves when there is some. For a
    /// sender that [`Scheduler::left`] suspends afterwards.
    pub fn without_waiting(&self, send: impl FnOnce()) -> Sent {
        if let Some(port) = &mut *self.port.borrow_mut() {
            port.hold_from_now();
        }
        // Serializing an argument may panic: later sends must wait again nevertheless.
        let sent = catch_unwind(AssertUnwindSafe(send));
        let held = self.port.borrow_mut().as_mut().map_or_else(Vec::new, |port| port.held_meanwhile());
        sent.unwrap_or_else(|panic| resume_unwind(panic));
        Sent(held)
    }

    /// Completes when the messages have left, and this PE does not have too much work of its own.
    pub async fn left(&self, sent: Sent) {
        let mut held = sent.0;
        poll_fn(|cx| {
            held.retain(|id| self.port.borrow_mut().as_mut().is_some_and(|port| port.is_held(*id)));
            if !held.is_empty() {
                self.room.borrow_mut().push(cx.waker().clone());
                return Poll::Pending;
            }
            if self.queue.borrow().len() > OWN_MAX {
                // Calls run between two polls of a task that wakes itself.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }
}
