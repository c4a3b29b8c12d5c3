//! The example `stencil3d` in a program that also contains the backend of this crate:
//!
//! `cargo charmrun +p4 ++transport extern:unix stencil3d-unix --size 64`

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "it is a program")]

// The program uses nothing else of the crate: the backend registers itself.
use charm4rs_example_backend as _;

#[path = "../../../src/bin/stencil3d.rs"]
mod stencil3d;

fn main() {
    stencil3d::main();
}
