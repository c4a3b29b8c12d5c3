//! Moves bytes between PEs.
//!
//! This crate is the lowest layer of charm4rs. It contains the *seam* that every network backend implements ([`Fabric`], [`Endpoint`]), the backends,
//! registered memory, wire-up, authentication, and above them `port::Port`, which connects a PE to all others. It does not depend on scheduling, chares or
//! Python. A message is a tag and bytes; serde serves only the addresses of put windows, which the layers above send in their messages.
//!
//! Read in this order: [`seam`] (what a backend promises), [`memory`] (who owns a buffer), `port`
//! (which backend carries a message, and by which protocol), then any one backend.

pub mod auth;
pub mod bootstrap;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod doorbell;
pub mod error;
mod event_queue;
pub mod failure_detector;
#[cfg(any(test, fuzzing))]
mod fuzz;
pub mod layout;
pub mod local;
#[cfg(all(test, loom))]
mod loom_models;
mod loopback;
pub mod memory;
pub mod ofi;
mod peer_table;
pub mod port;
pub mod reliable;
mod ring;
mod said;
pub mod seam;
pub mod seed;
pub mod shm;
mod shmem;
pub mod sim;
mod sync;
pub mod tcp;
pub mod ucx;
pub mod wireup;

pub use doorbell::{Doorbell, Waker};
pub use error::TransportError;
pub use layout::{Layout, Pe, Reach};
pub use memory::{Home, Msg, Payloads, RegBuf};
pub use seam::{
    Caps, Endpoint, EndpointBuilder, Event, Fabric, Imm, OpId, PostError, Posted, RemoteKey, Window, WindowId,
};
