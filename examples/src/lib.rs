//! Code that several of the programs share: the numerical part.
//!
//! Knows nothing of chares: a program's `main` file contains all of its chares.

pub mod stencil;
pub mod threads;
