//! The errors that a caller gets when a call fails.

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
        /// The PE where it ran.
        pe: Pe,
        /// The panic's message and location.
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
        /// The PE that detected it.
        pe: Pe,
    },
    /// The collection has been destroyed.
    #[error("a collection of {chare} has been destroyed (call of {what}, found out on PE {pe})")]
    Destroyed {
        /// The chares' type.
        chare: String,
        /// The entry method that was called, or another operation of the collection.
        what: String,
        /// The PE that detected it.
        pe: Pe,
    },
    /// The results of a collection's elements were to be reduced, and it has none.
    #[error("no element of {chare} was called, so {entry} has no results to reduce")]
    NoResults {
        /// The chares' type.
        chare: String,
        /// The entry method.
        entry: String,
    },
    /// The arguments or the result could not be packed or unpacked.
    #[error("the arguments or the result of {entry} cannot be transferred (PE {pe}): {why}")]
    Wire {
        /// The entry method.
        entry: String,
        /// The PE that detected it.
        pe: Pe,
        /// The serializer's error.
        why: String,
    },
    /// There is no memory for the call or its result.
    #[error("there is no memory for the {bytes} bytes of {what} between PE {from} and PE {to}")]
    TooLarge {
        /// A call of an entry method, or a result.
        what: String,
        /// The sender.
        from: Pe,
        /// The receiver.
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
        /// The sender.
        from: Pe,
        /// The receiver.
        to: Pe,
        /// Its size with all payloads.
        bytes: u64,
        /// The maximum size.
        limit: u64,
    },
    /// The entry method's future was dropped before it had a result.
    #[error("{entry} ended without a result on PE {pe}")]
    Dropped {
        /// The entry method.
        entry: String,
        /// The PE where it ran.
        pe: Pe,
    },
    /// A put will not be read, because the put window has been dropped.
    #[error("the put window on PE {owner} has been dropped")]
    WindowGone {
        /// The owner of the put window.
        owner: Pe,
    },
    /// There will be no further put into a put window, because its put handle has been dropped.
    #[error("the put handle of a put window of PE {owner} has been dropped")]
    HandleGone {
        /// The owner of the put window.
        owner: Pe,
    },
    /// The time limit passed. The call itself continues.
    #[error("no answer in {0:?}")]
    TimedOut(std::time::Duration),
}
