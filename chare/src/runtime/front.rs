//! What a front in another language, whose chares are all of one type to the runtime, knows better than that.

use serde::de::DeserializeOwned;

use super::collection::CollectionId;
use crate::{CallError, wire};

/// What a front in another language knows better than the runtime, and what it has to know.
pub trait Front {
    /// Who waits on this PE and for what, a line each; and whether one of them waits for the outside.
    fn waits(&self) -> (Vec<String>, bool);
    /// What the chares of a collection are called.
    fn chare(&self, collection: CollectionId) -> Option<String>;
    /// A collection, or a section, was destroyed on this PE.
    fn gone(&self, collection: CollectionId);
    /// A call of `entry` cannot be delivered; `body` has the serialized index and arguments, for [`body_of`]. Gives the error in the front's words, for who
    /// waits for the call's reply, or else for the end of the job; `None`: the front has told who waits.
    fn undelivered(&self, collection: CollectionId, entry: &str, body: &[u8], error: CallError) -> Option<CallError>;
}

/// What a call's body begins with, as values of this type. `None` if it does not.
pub fn body_of<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    wire::unpack_first(body, Vec::new()).ok().map(|(first, _)| first)
}
