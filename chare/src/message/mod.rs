//! What messages of the object layer consist of: their header, serialized and moved values, and the identifiers and errors in them.
//!
//! Knows nothing of a PE's state: the runtime, which sends and handles messages, is above.

pub(crate) mod collection_id;
pub(crate) mod envelope;
pub(crate) mod error;
pub mod index;
pub(crate) mod moved;
pub(crate) mod wire;

pub(crate) use collection_id::CollectionId;
pub(crate) use error::CallError;
