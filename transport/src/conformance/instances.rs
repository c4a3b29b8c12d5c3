//! The backends of this crate, each with its harness.
