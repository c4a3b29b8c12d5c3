//! Sparse arrays: elements are inserted from any PE, at any time, and the array is closed, once or several times.
//!
//! [`census`] determines when all insertions are complete, [`newcomers`] holds the contributions of elements that were inserted after the array was
//! closed, and [`casts`] withholds broadcasts from elements that are newer than the broadcast.

pub(super) mod casts;
pub(super) mod census;
pub(super) mod newcomers;
