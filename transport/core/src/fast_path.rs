//! The second seam: small messages between PEs that share memory.
//!
//! Through the first seam ([`crate::seam`]) a small message costs a virtual call at its sender, an event in a batch and a second look at its receiver. Between
//! PEs that share memory that is more than the message itself. A backend for such PEs implements [`FastPath`] besides [`Endpoint`]. Its calls are static: the port
//! compiles them into its own loops. Nothing else may use this seam, and everything that is not small goes through the first one.
//!
//! # Laws
//! *One order.* [`FastPath::try_send`] and the posts of [`Endpoint`] to a peer share one order of messages, and one limit of capacity. So do
//! [`FastPath::receive`] and [`Endpoint::progress`]: an arrival comes out of one of them, once.
//!
//! *A refusal costs nothing.* If there is no room, `try_send` returns `fill` uncalled, and the peer sees nothing. The caller then asks
//! [`Endpoint::inject`], which says why: no room now, or the peer is gone.
//!
//! *Arrivals are handed over, not delivered.* `receive` calls `take` for each arrival, at most `max` times, in order of arrival. `take` may store the arrival; it
//! must not call this endpoint, nor anything that may send. So a sender may receive while it waits for room.
//!
//! *Completions stay apart.* `receive` reports arrivals only. What else an endpoint reports comes out of [`FastPath::tend`], when
//! [`FastPath::is_busy`] says so. `is_busy` is one load for an endpoint with nothing to report.
//!
//! *Sleep.* A PE with several inboxes announces its sleep to all of them, then makes one heavy fence, then asks each: [`FastPath::announce`],
//! [`FastPath::fences`], [`FastPath::may_sleep`]. ([`crate::doorbell`] has the protocol.) After `true`, whatever arrives rings the doorbell or makes
//! [`Endpoint::wait_fd`] readable. The next `receive` or `progress` ends the announcement.
//!
//! The conformance suite holds an endpoint to these laws: it runs all laws of the first seam through the second one.

use std::mem::MaybeUninit;

use crate::doorbell::Fences;
use crate::{Endpoint, Event, Imm, Msg, Pe, TransportError};

/// What arrives.
#[derive(Debug)]
pub enum Arrival {
    /// A message, from a PE, with the sender's 32 bits.
    Message(Pe, Imm, Msg),
    /// All bytes of a put are visible; the origin, and its 32 bits.
    Put(Pe, Imm),
}

/// The path of small messages through an endpoint, with static calls. The contract is in the [module's text](self).
pub trait FastPath: Endpoint {
    /// Sends a message of at most [`crate::Caps::inject_max`] bytes, which `fill` initializes. Returns `fill`, uncalled, if there is no room.
    ///
    /// # Errors
    /// `fill`: there is no room, or the peer takes no more messages. [`Endpoint::inject`] says which.
    fn try_send<F: FnOnce(&mut [MaybeUninit<u8>])>(&mut self, to: Pe, imm: Imm, len: usize, fill: F) -> Result<(), F>;

    /// Hands at most `max` arrivals to `take`. Returns how many.
    ///
    /// # Errors
    /// If a peer broke the protocol.
    fn receive(&mut self, max: usize, take: impl FnMut(Arrival)) -> Result<usize, TransportError>;

    /// Whether [`FastPath::tend`] has something to do.
    fn is_busy(&self) -> bool {
        false
    }

    /// Makes progress with everything but arrivals, and appends at most `max` events to `out`. Returns how many.
    ///
    /// # Errors
    /// What ends the job.
    fn tend(&mut self, out: &mut Vec<Event>, max: usize) -> Result<usize, TransportError> {
        let (_, _) = (out, max);
        Ok(0)
    }

    /// Step 1 of sleeping: tells senders that this PE is about to sleep.
    fn announce(&self) {}

    /// The fences of step 2. `None`: this endpoint needs none.
    fn fences(&self) -> Option<Fences> {
        None
    }

    /// Step 3: whether nothing has arrived that was not received, and nothing else is to be done.
    fn may_sleep(&mut self) -> bool;
}
