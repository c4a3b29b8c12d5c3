//! What several of the programs share: the numbers, not the chares.
//!
//! Knows nothing of chares: a program's `main` file shows all of those that it has.

pub mod stencil;
pub mod threads;
