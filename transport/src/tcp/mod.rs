//! TCP: the backend that works everywhere.

mod config;

use std::sync::Arc;

pub use config::{Listen, Liveness, TcpConfig};

use crate::{Caps, EndpointBuilder, Fabric, Pe, TransportError};

/// The process-wide half of the TCP backend: a listener, a helper thread, and the addresses of all processes.
#[derive(Debug)]
pub struct TcpFabric {
    caps: Caps,
}

impl TcpFabric {
    /// Listens, and starts the helper thread.
    ///
    /// # Errors
    /// [`TransportError::Resource`] with the port if that is in use; [`TransportError::Config`] if there is no
    /// address to listen on.
    pub fn open(config: TcpConfig) -> Result<Self, TransportError> {
        let _ = Arc::new(config);
        Err(TransportError::Config("the tcp backend is not here yet".into()))
    }

    /// Where this process listens, for [`TcpFabric::set_addresses`] of the others. Opaque, at most 64 bytes.
    #[must_use]
    pub fn publish(&self) -> Vec<u8> {
        Vec::new()
    }

    /// What each process published, by rank. Called once, before the first endpoint is built; looked at lazily.
    pub fn set_addresses(&self, addresses: Vec<Vec<u8>>) {
        let _ = addresses;
    }
}

impl Fabric for TcpFabric {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn builder(&self, pe: Pe) -> Box<dyn EndpointBuilder> {
        unreachable!("PE {pe}: no fabric opens yet")
    }
}
