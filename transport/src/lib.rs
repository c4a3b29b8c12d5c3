//! Moves bytes between PEs.
//!
//! [`port::Port`] connects a PE to all others: it selects the backend and the protocol for each message. [`wireup`] opens the backends of a job. The
//! backends for threads and for shared memory are here; TCP, libfabric and UCX have a crate each. This crate does not depend on scheduling, chares or Python.
//!
//! Read in this order: [`charm4rs_transport_core::seam`] (what a backend promises), [`memory`] (who owns a buffer), [`port`] (which backend carries a message,
//! and by which protocol), then any one backend.

mod local;
mod options;
pub mod port;
mod shm;
mod shmem;
pub mod wireup;

pub use charm4rs_transport_core::{
    Doorbell, Event, Fabric, Imm, Layout, Msg, Notices, OpId, Payloads, Pe, Posted, Reach, RegBuf, TransportError,
    TransportKind, Waker, memory, seed,
};
pub use options::TransportOptions;
