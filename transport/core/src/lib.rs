//! The parts that every backend uses, and the contract that it implements.
//!
//! This crate is the lowest layer of charm4rs. It contains the *seam* that every backend implements ([`Fabric`], [`Endpoint`]), the memory that moves
//! through it, and what several backends share. It opens no connection and starts no thread. A message is a tag and bytes. Serde is used only for the keys of
//! windows, which the layers above send in their messages.
//!
//! Read in this order: [`seam`] (what a backend promises), [`fast_path`] (the second seam, for small messages in shared memory), [`memory`] (who owns a
//! buffer), then any one backend. A backend of another crate registers itself in [`external`].

pub mod auth;
pub mod doorbell;
pub mod error;
pub mod event_queue;
pub mod external;
pub mod failure_detector;
pub mod fast_path;
pub mod in_order;
pub mod layout;
pub mod library_log;
#[cfg(all(test, loom))]
mod loom_models;
pub mod loopback;
pub mod memory;
mod notices;
pub mod parting;
pub mod peer_table;
pub mod ring;
pub mod seam;
pub mod seed;
pub mod sync;
mod transport_kind;

pub use doorbell::{Doorbell, Waker};
pub use error::TransportError;
pub use layout::{Layout, Pe, Reach};
pub use memory::{Home, Msg, Payloads, RegBuf};
pub use notices::Notices;
pub use seam::{
    Caps, Endpoint, EndpointBuilder, Event, Fabric, Imm, MESSAGE_MAX, OpId, PostError, Posted, RemoteKey, Window,
    WindowId,
};
pub use transport_kind::{ExternalName, TransportKind};
