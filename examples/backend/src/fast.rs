//! The second seam. The port reaches a backend of another crate through `dyn Endpoint`, and does not use this seam. Here it is an example, and has the
//! code that it shares with `progress` and `inject`.

use std::mem::MaybeUninit;

use charm4rs_transport_core::fast_path::{Arrival, FastPath};
use charm4rs_transport_core::{Event, Imm, Pe, TransportError};

use crate::endpoint::UnixEndpoint;

impl FastPath for UnixEndpoint {
    fn try_send<F: FnOnce(&mut [MaybeUninit<u8>])>(&mut self, to: Pe, imm: Imm, len: usize, fill: F) -> Result<(), F> {
        if len > self.caps.inject_max {
            return Err(fill);
        }
        if to == self.me {
            self.send_to_self(imm, len, fill);
        } else {
            match self.room_for(to) {
                Ok(index) => self.send_filled(index, imm, len, fill),
                Err(_) => return Err(fill),
            }
        }
        Ok(())
    }

    fn receive(&mut self, max: usize, mut take: impl FnMut(Arrival)) -> Result<usize, TransportError> {
        if self.arrivals.len() < max {
            self.poll(max)?;
        }
        let count = self.arrivals.len().min(max);
        self.arrivals.drain(..count).for_each(&mut take);
        Ok(count)
    }

    /// The loss of a PE is reported after the messages that the PE sent before.
    fn is_busy(&self) -> bool {
        self.arrivals.is_empty() && !self.events.is_empty()
    }

    fn tend(&mut self, out: &mut Vec<Event>, max: usize) -> Result<usize, TransportError> {
        Ok(if self.is_busy() { self.events.give(out, max) } else { 0 })
    }

    /// Later arrivals make the epoll descriptor readable, and so do packets that have arrived but were not read: this PE need not announce its sleep.
    fn may_sleep(&mut self) -> bool {
        let nothing_queued = self.arrivals.is_empty() && self.events.is_empty() && self.broken.is_none();
        nothing_queued && !self.undialed && !self.failures.has_events()
    }
}
