//! `cargo charmrun`: builds, then runs.

use std::ffi::OsString;

use crate::error::LaunchError;

pub(crate) fn run(args: impl IntoIterator<Item = OsString>) -> Result<u8, LaunchError> {
    crate::run(args)
}
