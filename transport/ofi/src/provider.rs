//! Chooses a provider. Knows the names of providers, and nothing else of them.

use std::net::IpAddr;
use std::sync::Arc;

use charm4rs_libfabric_sys::Library;

use super::fi::{self, Info, Want};
use charm4rs_transport_core::TransportError;

/// Providers for devices with one-sided access in hardware, the best first. The name of a layered provider begins with that of the lower one.
const DEVICES: [&str; 6] = ["cxi", "verbs;ofi_rxm", "efa", "opx", "psm3", "psm2"];
/// Other usable providers, on request only: they listen without authentication, or leave files when they are killed.
const OTHERS: [&str; 3] = ["tcp", "tcp;ofi_rxm", "shm"];

/// The number of operations that a provider should hold at a time.
const DEPTH: usize = 256;

/// The result of the search.
#[derive(Debug)]
pub struct FoundProvider {
    pub(super) infos: Vec<Info>,
    library: Arc<Library>,
}

/// Whether a provider uses a device.
pub(super) fn is_device(provider: &str) -> bool {
    DEVICES.contains(&provider)
}

impl FoundProvider {
    /// A search that finds only one provider of the result.
    #[cfg(any(test, feature = "faults"))]
    pub fn only(mut self, provider: &str) -> Self {
        self.infos.retain(|info| info.provider() == provider);
        self
    }

    /// Whether no provider was found.
    #[cfg(any(test, feature = "faults"))]
    pub fn is_empty(&self) -> bool {
        self.infos.is_empty()
    }

    /// Whether the best provider uses a device.
    #[must_use]
    pub fn has_device(&self) -> bool {
        self.infos.first().is_some_and(|info| is_device(&info.provider()))
    }

    /// The library, and its providers, in the order of preference.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut names: Vec<String> =
            self.infos.iter().map(|info| format!("{} ({})", info.provider(), info.domain_name())).collect();
        names.dedup();
        format!("libfabric {} from {}: {}", self.library.release(), self.library.path().display(), names.join(", "))
    }
}

/// Looks for libfabric and a provider for a job of `peers` PEs. Without `any`, only devices count. `own` is the address at which
/// others reach this process, for providers over the kernel's network. libfabric's `FI_PROVIDER` limits the choice.
///
/// # Errors
/// [`TransportError::Config`] if there is none: names what was looked for, and where.
pub fn find(peers: u32, any: bool, own: IpAddr) -> Result<FoundProvider, TransportError> {
    fi::prepare_environment(peers);
    let library = Library::open()
        .map_err(|missing| TransportError::Config(format!("there is no libfabric (1.17 or newer): {missing}")))?;
    let library = Arc::new(library);
    let mut infos = Vec::new();
    let mut ask = |want: &Want<'_>| match fi::find(&library, want, DEPTH) {
        Ok(found) => {
            infos.extend(found);
            Ok(())
        }
        Err(error) if error.is_lack() => Err(super::memory::lack(&library, error, "fi_getinfo")),
        // No such provider.
        Err(_) => Ok(()),
    };
    ask(&Want::default())?;
    if any {
        for provider in ["tcp", "tcp;ofi_rxm"] {
            ask(&Want { provider: Some(provider), source: Some(own) })?;
        }
    }
    let rank = |info: &Info| {
        let name = info.provider();
        let others = if any { &OTHERS[..] } else { &[] };
        DEVICES.iter().chain(others).position(|known| *known == name)
    };
    // If the job has an address of its own, a provider over the kernel's network must use it; otherwise any interface will do.
    let suits = |info: &Info| !info.provider().starts_with("tcp") || info.listens_on(own);
    infos.retain(|info| rank(info).is_some() && suits(info));
    infos.sort_by_key(|info| rank(info));
    if infos.is_empty() {
        let wanted = if any { DEVICES.iter().chain(&OTHERS).copied().collect::<Vec<_>>() } else { DEVICES.to_vec() };
        return Err(TransportError::Config(format!(
            "libfabric {} ({}) has none of the providers {}",
            library.release(),
            library.path().display(),
            wanted.join(", ")
        )));
    }
    Ok(FoundProvider { infos, library })
}
