//! The contract of a backend as tests, and a simulated network to test protocols.
//!
//! `conformance` (with the feature of this name) has the laws of the seam: a backend outside of charm4rs checks itself by them. [`sim`] is a job's network on one thread, from a seed,
//! under a clock that moves only when asked; [`reliable`] brings messages across it when it loses and repeats them.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
#[cfg(any(test, fuzzing, feature = "conformance"))]
pub mod fuzz;
pub mod reliable;
pub mod sim;
