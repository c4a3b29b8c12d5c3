//! The end of a PE; the order and its reasons are in the text of [`pe`](super).

use charm4rs_transport::TransportError;
use charm4rs_transport::port::{Incoming, Port, PortEvent};

use super::{BATCH, Ready, Scheduler, is_signal};
use crate::queue::Queue;

impl Scheduler {
    /// Takes a message that arrived and was not delivered, after the loop has ended. Drops calls of the PE to itself.
    #[must_use]
    pub fn take_undelivered(&self) -> Option<Incoming> {
        loop {
            let queued = self.queue.borrow_mut().pop();
            match queued {
                Some(Ready::Message(msg)) => {
                    self.took(&msg);
                    return Some(msg);
                }
                Some(Ready::Call(call)) => {
                    drop(call);
                    continue;
                }
                None => {}
            }
            let arrived = self.arrived.borrow_mut().pop_front();
            match arrived {
                Some(PortEvent::Message(msg)) if !is_signal(&msg) => {
                    self.took(&msg);
                    return Some(msg);
                }
                Some(_) => {}
                None => {
                    let mut port = self.port.borrow_mut();
                    if !matches!(port.as_mut()?.poll(&mut *self.arrived.borrow_mut(), BATCH), Ok(1..)) {
                        return None;
                    }
                }
            }
        }
    }

    /// Ends the PE; see the module's text for the order.
    ///
    /// # Errors
    /// If a sent message could not be delivered.
    pub fn close(&self) -> Result<(), TransportError> {
        self.shut().map_or(Ok(()), Port::close)
    }

    /// Ends the PE without delivering what it has sent: for a simulation that has stopped, in which no PE receives any more.
    pub fn abandon(&self) {
        drop(self.shut());
    }

    /// This process is a child forked from the PE's process: nothing that it does may reach another PE, and its loop ends after the current item. The
    /// port is a copy of the PE's own, and must not even be closed.
    pub fn leave_fork(&self) {
        if let Ok(mut port) = self.port.try_borrow_mut() {
            Box::leak(Box::new(port.take()));
        }
        self.stop(0);
    }

    fn shut(&self) -> Option<Port> {
        self.tasks.shut();
        loop {
            let timers = self.timers.borrow_mut().take_all();
            let callbacks = self.callbacks.take();
            let context = self.context.take();
            if timers.is_empty() && callbacks.is_empty() && context.is_none() {
                break;
            }
            drop((timers, callbacks, context));
        }
        self.inbox.shut();
        let queue = std::mem::replace(&mut *self.queue.borrow_mut(), Queue::new());
        drop(queue);
        drop(self.arrived.take());
        self.port.borrow_mut().take()
    }
}
