//! The simulated network: a whole job on one thread, under a clock that moves only when asked, from a seed.
//!
//! Its endpoints implement the seam, so everything above runs unchanged. It adds faults on demand: delay,
//! reordering, loss, duplication, damage, exhausted capacity, dead and paused PEs, partitions. It knows nothing of scheduling or chares.
//!
//! # Time
//! Nothing happens by itself. A post puts a packet into the network's queue with the time of its arrival.
//! [`Network::advance`] moves the clock to the earliest entry and executes it. Endpoints never block and never sleep. Code that runs
//! PEs on the network asks a [`Driver`] which PE to step next.
//!
//! # Determinism
//! One generator decides everything. No address, hash table or real clock has any influence. So two runs with
//! the same [`Config`], whose PEs post the same operations, are equal event by event; [`Network::trace_hash`] shows it.
//! (The trace does not contain messages' bytes: between PEs of one process they may contain pointers.)
//!
//! # Two kinds of wire
//! [`Mode::Reliable`] is that of a fabric: packets arrive once and whole. [`Mode::Datagram`] is the wire itself: the packets of a pair of PEs go
//! through [`crate::reliable`], and its datagrams are lost, duplicated, reordered and damaged.
//!
//! # Death
//! A PE is considered lost when it has been unreachable for [`Config::dead_after_ns`]: killed, paused or cut off for that long (heartbeats
//! would report it; there are none here, so that an idle job has no events), or, over datagrams, when it has acknowledged nothing for that long.

mod config;
mod driver;
mod endpoint;
mod link;
mod network;
mod packet;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trial;
mod world;

pub use config::{Config, Fault, Mode};
pub use driver::{Driver, Stepped};
pub use network::{Clock, Network, Statistics};
