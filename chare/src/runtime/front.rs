//! The interface of a front in another language, whose chares all have the same type for the runtime.

use serde::de::DeserializeOwned;

use crate::message::CallError;
use crate::message::CollectionId;
use crate::message::wire;

/// Information that a front in another language has and the runtime does not, and events that it must know.
pub trait Front {
    /// The waiting tasks of this PE and what they wait for, one line each; and whether one of them waits for something outside of the job.
    fn waits(&self) -> (Vec<String>, bool);
    /// The name of the chares of a collection.
    fn chare(&self, collection: CollectionId) -> Option<String>;
    /// A collection, or a section, was destroyed on this PE.
    fn gone(&self, collection: CollectionId);
    /// A call of `entry` cannot be delivered; `body` has the serialized index and arguments, for [`body_of`]. Returns the error in the front's words,
    /// for the waiting caller, or else for the end of the job; `None`: the front has informed the caller itself.
    fn undelivered(&self, collection: CollectionId, entry: &str, body: &[u8], error: CallError) -> Option<CallError>;
}

/// The first values of a call's body, as this type. `None` if they do not match.
pub fn body_of<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    wire::unpack_first(body, Vec::new()).ok().map(|(first, _)| first)
}
