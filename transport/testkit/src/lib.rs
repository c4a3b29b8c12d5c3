//! The contract of a backend as tests, and a simulated network to test protocols.
//!
//! The module `conformance` (with the feature of this name) has the laws of the seam: a backend outside of charm4rs uses them to check itself. [`sim`] is a
//! job's network on one thread, from a seed, under a clock that moves only when asked. [`reliable`] carries messages across it when it loses and duplicates
//! them.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
#[cfg(any(test, fuzzing, feature = "conformance"))]
pub mod fuzz;
pub mod reliable;
pub mod sim;
