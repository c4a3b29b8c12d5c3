//! The simulated network: a whole job on one thread, under a clock that moves only when asked, from a seed.
//!
//! Its endpoints implement the seam, so all that stands above runs unchanged; what it adds is misfortune on demand: delay,
//! reordering, loss, doubling, damage, full ways, dead and paused PEs, partitions. It knows nothing of scheduling or chares.
//!
//! # Time
//! Nothing happens by itself. A post puts a packet into the network's queue with the time of its arrival;
//! [`Network::advance`] moves the clock to the earliest entry and carries it out. Endpoints never block and never sleep. Whoever runs
//! PEs on top asks a [`Driver`] which PE to step next.
//!
//! # Determinism
//! One generator decides everything, and nothing else does: no address, hash table or real clock has a say. So two runs with
//! the same [`Config`], whose PEs post the same things, are equal event by event; [`Network::trace_hash`] tells.
//! (The trace does not contain messages' bytes: between PEs of one process they may hold pointers.)
//!
//! # Two kinds of wire
//! [`Mode::Reliable`] is a fabric's: packets arrive once and whole. [`Mode::Datagram`] is the wire itself: the packets of a pair of PEs go
//! through [`crate::reliable`], and its datagrams are lost, doubled, reordered and damaged.
//!
//! # Death
//! A PE is taken for lost when it has been unreachable for [`Config::dead_after_ns`]: killed, paused or cut off for that long (as heartbeats
//! would tell; there are none here, so that an idle job is idle), or, over datagrams, when it has acknowledged nothing for so long.

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
