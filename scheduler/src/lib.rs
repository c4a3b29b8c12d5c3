//! A PE's loop: placement and pinning, queues and priorities, timers, tasks, idling, quiescence.
//!
//! One [`Scheduler`] runs on each PE's own thread, above its [`Port`](charm4rs_transport::port::Port). It takes received messages, runs the most
//! urgent ready item, resumes tasks, fires timers, and sleeps when there is nothing to do. The [`Handler`] decides what a message means: this crate
//! knows nothing of chares, of serialization, or of the backend that carries its messages.
//!
//! Read in this order: [`pe`] (the loop, and the shutdown), `queue`, `tasks` and `inbox` (which thread may wake which), [`idle`] (when a PE sleeps),
//! `quiescence` (how a job learns that no work is left), [`placement`].
//!
//! There is no thread-local state, so that a simulation can drive many PEs on one thread.

#![forbid(unsafe_code)]

pub mod clock;
mod deque;
pub mod handler;
pub mod idle;
mod inbox;
pub mod pe;
pub mod pemap;
pub mod placement;
mod pulse;
mod queue;
mod quiescence;
mod sync;
mod tasks;
mod timers;
pub mod topology;
pub mod tree;

pub use clock::{Clock, VirtualClock};
pub use handler::{Config, Handler, Stalled, Status, Step};
pub use idle::Spin;
pub use inbox::{Hold, PeGone, Remote};
pub use pe::{Scheduler, Sent};
pub use pulse::{Pulse, Seen};
pub use queue::{Class, Order};
pub use tasks::{Suspended, TaskId, WakerKey};
pub use timers::{Sleep, TimerId};
pub use tree::Tree;
