//! Progress besides arrivals: events of the network's operations, requests of arrivals, and messages that wait for capacity.

use std::collections::VecDeque;

use super::inner::Todo;
use super::{Port, PortEvent};
use charm4rs_transport_core::fast_path::{Arrival, FastPath};
use charm4rs_transport_core::{Event, Reach, TransportError};

impl Port {
    /// Handles an event of the network's endpoint.
    pub(super) fn event(&mut self, event: Event, out: &mut VecDeque<PortEvent>) -> Result<(), TransportError> {
        match event {
            Event::Recv { from, imm, msg } => self.inner.arrive(Reach::Network, Arrival::Message(from, imm, msg), out),
            Event::PutArrived { from, imm } => self.inner.arrive(Reach::Network, Arrival::Put(from, imm), out),
            Event::Sent { op, .. } => {
                self.operations.end(op);
                Ok(())
            }
            Event::Got { .. } => Ok(()),
            Event::Missed { from, imm, len } => self.inner.missed(from, imm, len),
            Event::Failed { op, buf: Some(buf), error } => {
                let message = self.operations.end(op).and_then(|operation| operation.message);
                match (*error, message) {
                    (TransportError::MessageRefused { pe, .. }, Some(imm)) => self.inner.came_back(pe, imm, &buf, out),
                    (error, _) => Err(error),
                }
            }
            Event::Failed { error, .. } => Err(*error),
            Event::PeerLost { pe, why } => Err(TransportError::PeerDown { pe, why }),
        }
    }

    /// Does what arrivals asked for.
    pub(super) fn run_todo(&mut self) -> Result<(), TransportError> {
        while let Some(todo) = self.inner.todo.pop_front() {
            match todo {
                Todo::Credit(to) => self.credits.push(to),
                Todo::Probe(probe) => self.pass_on(probe),
                Todo::Nack(to, tag, msg, len) => self.send_nack(to, tag, Some(&*msg), len),
                Todo::Rendezvous(action) => self.act(action)?,
            }
        }
        self.give_credit();
        self.release_held();
        Ok(())
    }

    /// Does everything that is not an arrival: errors, completions, requests of arrivals, puts, the backlog.
    #[cold]
    pub(super) fn run_pending(&mut self) -> Result<(), TransportError> {
        if let Some(error) = self.fatal.take() {
            return Err(error);
        }
        let mut events = std::mem::take(&mut self.events);
        if let Some(local) = &mut self.ends.local {
            local.tend(&mut events, usize::MAX)?;
        }
        if let Some(shm) = &mut self.ends.shm {
            shm.tend(&mut events, usize::MAX)?;
        }
        let mut early = std::mem::take(&mut self.early);
        for event in events.drain(..) {
            self.event(event, &mut early)?;
        }
        self.early = early;
        self.events = events;
        self.run_todo()?;
        self.flush_puts()?;
        if self.waits_for_room() {
            self.flush(true);
        }
        self.fatal.take().map_or(Ok(()), Err)
    }
}
