//! Backends that are not part of this project: a crate registers one, and `++transport extern:NAME` uses it.
//!
//! A registration is data that the linker collects, so it needs no call in `main`: a program has every backend of the crates that it links. It must name
//! such a crate at least once (`use my_backend as _;`), or the compiler leaves it out.
//!
//! # Wire-up
//! Each process does three steps. Before the last one it waits for all others.
//!
//! 1. [`ExternalBackend::open`] takes what the process needs (listeners, devices) and connects to nothing.
//! 2. [`UnjoinedFabric::publish`] gives the bytes by which other processes reach this one. Wire-up exchanges these bytes.
//! 3. [`UnjoinedFabric::join`] gets the bytes of all processes and gives the [`Fabric`]. Wire-up then asks it for one builder for each PE of the process.
//!
//! A peer may send as soon as it has joined. So what `open` takes must hold arrivals until the endpoints are there.

use std::fmt::{self, Debug};
use std::sync::Arc;

use crate::auth::{JobId, Secret};
use crate::failure_detector::FailureDetector;
use crate::{Fabric, Layout, Notices, TransportError};

/// For [`register_backend!`](crate::register_backend!).
#[doc(hidden)]
pub use inventory;

/// A registered backend. Made by [`register_backend!`](crate::register_backend!).
#[derive(Debug)]
#[non_exhaustive]
pub struct ExternalBackend {
    /// Its name in `++transport extern:NAME`.
    pub name: &'static str,
    /// Opens it in this process.
    ///
    /// [`TransportError::Config`] says that it cannot serve such a job, or not on this machine.
    pub open: fn(&Opening<'_>) -> Result<Box<dyn UnjoinedFabric>, TransportError>,
}

inventory::collect!(ExternalBackend);

/// What a backend learns about the job and this process.
#[derive(Clone)]
#[non_exhaustive]
pub struct Opening<'a> {
    /// The process and host of each PE.
    pub layout: &'a Arc<Layout>,
    /// The number of this process.
    pub process: u32,
    /// Distinguishes the job from others of this host.
    pub job: JobId,
    /// A value that only the processes of the job know.
    pub secret: &'a Secret,
    /// Bytes of the longest message that the port sends. A receiver may refuse a peer that announces more.
    pub message_max: u64,
    /// Bytes that the port may have in flight to one peer.
    pub credit: u64,
    /// Tells the user about events that do not end the job.
    pub notices: &'a Notices,
    /// Detects failed processes, for a backend whose network does not report failures.
    pub detector: &'a Arc<dyn FailureDetector>,
}

impl<'a> Opening<'a> {
    /// The values for process `process` of `layout`. The others are those of a small job without notices: tests of a backend start from it.
    #[must_use]
    pub fn new(
        layout: &'a Arc<Layout>,
        process: u32,
        (job, secret): (JobId, &'a Secret),
        notices: &'a Notices,
        detector: &'a Arc<dyn FailureDetector>,
    ) -> Self {
        Self { layout, process, job, secret, message_max: crate::MESSAGE_MAX, credit: 64 << 20, notices, detector }
    }
}

impl Debug for Opening<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").field("layout", &self.layout).field("process", &self.process).finish_non_exhaustive()
    }
}

/// A backend that is open in this process and does not know the other processes yet.
pub trait UnjoinedFabric: Debug {
    /// What other processes need to reach this one. At most 16 KiB.
    fn publish(&self) -> Vec<u8>;

    /// Takes what all processes published, by number (its own included). The bytes come from other processes: they are data, not trust.
    ///
    /// # Errors
    /// [`TransportError::Startup`] if a process published nonsense.
    fn join(self: Box<Self>, addresses: Vec<Vec<u8>>) -> Result<Arc<dyn Fabric>, TransportError>;
}

/// Registers a backend: `register_backend!("unix", open)`, where `open` is of the type of [`ExternalBackend::open`](crate::external::ExternalBackend::open).
#[macro_export]
macro_rules! register_backend {
    ($name:expr, $open:expr) => {
        $crate::external::inventory::submit! { $crate::external::ExternalBackend::new($name, $open) }
    };
}

impl ExternalBackend {
    /// What [`register_backend!`](crate::register_backend!) registers.
    #[doc(hidden)]
    #[must_use]
    pub const fn new(
        name: &'static str,
        open: fn(&Opening<'_>) -> Result<Box<dyn UnjoinedFabric>, TransportError>,
    ) -> Self {
        Self { name, open }
    }

    /// The backend of this name.
    ///
    /// # Errors
    /// [`TransportError::Config`] if the program has none, or several: it lists those that it has.
    pub fn find(name: &str) -> Result<&'static Self, TransportError> {
        let mut found = inventory::iter::<Self>.into_iter().filter(|backend| backend.name == name);
        match (found.next(), found.next()) {
            (Some(backend), None) => Ok(backend),
            (Some(_), Some(_)) => Err(TransportError::Config(format!("two backends are registered as extern:{name}"))),
            (None, _) => Err(TransportError::Config(Self::unknown(name))),
        }
    }

    fn unknown(name: &str) -> String {
        let mut names: Vec<&str> = inventory::iter::<Self>.into_iter().map(|backend| backend.name).collect();
        names.sort_unstable();
        let has = match &names[..] {
            [] => "none".to_owned(),
            names => names.iter().map(|name| format!("extern:{name}")).collect::<Vec<_>>().join(", "),
        };
        format!("++transport extern:{name}: this program has no such backend registered; it has {has}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(_: &Opening<'_>) -> Result<Box<dyn UnjoinedFabric>, TransportError> {
        Err(TransportError::Config("a test's backend does nothing".to_owned()))
    }

    register_backend!("one", open);
    register_backend!("two", open);
    register_backend!("twice", open);
    register_backend!("twice", open);

    #[test]
    fn a_registered_backend_is_found_by_its_name_and_an_unknown_name_lists_them() {
        assert_eq!(ExternalBackend::find("one").unwrap().name, "one");
        let text = |name: &str| ExternalBackend::find(name).unwrap_err().to_string();
        assert!(
            text("three").ends_with("it has extern:one, extern:twice, extern:twice, extern:two"),
            "{}",
            text("three")
        );
        assert!(text("twice").contains("two backends"));
        assert_eq!(ExternalBackend::find("three").unwrap_err().code(), 78);
    }
}
