//! What a caller learns when a call fails.

use charm4rs_transport::Pe;
use serde::{Deserialize, Serialize};

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CallError {
    /// The entry method panicked.
    #[error("{chare}[{index}].{entry} panicked on PE {pe}: {message}")]
    Panicked {
        /// The chare's type.
        chare: String,
        /// Its index.
        index: String,
        /// The entry method.
        entry: String,
        /// Where it ran.
        pe: Pe,
        /// What the panic said, and where.
        message: String,
    },
    /// No such element exists, or it has been destroyed.
    #[error("{chare}[{index}] does not exist (call of {entry}, found out on PE {pe})")]
    NoSuchElement {
        /// The chare's type.
        chare: String,
        /// The index.
        index: String,
        /// The entry method that was called.
        entry: String,
        /// Who found out.
        pe: Pe,
    },
    /// The collection has been destroyed.
    #[error("a collection of {chare} has been destroyed (call of {what}, found out on PE {pe})")]
    Destroyed {
        /// The chares' type.
        chare: String,
        /// The entry method that was called, or what else was asked of the collection.
        what: String,
        /// Who found out.
        pe: Pe,
    },
    /// The arguments or the result could not be packed or unpacked.
    #[error("the arguments or the result of {entry} cannot be transferred (PE {pe}): {why}")]
    Wire {
        /// The entry method.
        entry: String,
        /// Where it was noticed.
        pe: Pe,
        /// What the serializer said.
        why: String,
    },
    /// There is no memory for the call or its result.
    #[error("there is no memory for the {bytes} bytes of {what} between PE {from} and PE {to}")]
    TooLarge {
        /// A call of an entry method, or a result.
        what: String,
        /// Who sent it.
        from: Pe,
        /// Who should have received it.
        to: Pe,
        /// Its size with all payloads.
        bytes: u64,
    },
    /// The call or its result has more bytes than may pass between processes.
    #[error(
        "the {bytes} bytes of {what} between PE {from} and PE {to} are more than the {limit} that a message may have; \
         ++message-max sets another limit"
    )]
    TooLong {
        /// A call of an entry method, or a result.
        what: String,
        /// Who sent it.
        from: Pe,
        /// Who should have received it.
        to: Pe,
        /// Its size with all payloads.
        bytes: u64,
        /// What it may have.
        limit: u64,
    },
    /// The entry method's future was dropped before it had a result.
    #[error("{entry} ended without a result on PE {pe}")]
    Dropped {
        /// The entry method.
        entry: String,
        /// Where.
        pe: Pe,
    },
    /// What was put into a put window is read by nobody, for the put window has been dropped.
    #[error("the put window on PE {owner} has been dropped")]
    WindowGone {
        /// Whose it was.
        owner: Pe,
    },
    /// Nothing will be put into a put window any more, for its put handle has been dropped.
    #[error("the put handle of a put window of PE {owner} has been dropped")]
    HandleGone {
        /// Whose put window it is.
        owner: Pe,
    },
    /// The time limit passed. The call itself goes on.
    #[error("no answer in {0:?}")]
    TimedOut(std::time::Duration),
}
