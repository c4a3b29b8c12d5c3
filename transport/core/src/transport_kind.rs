//! The names of backends, as options and messages have them.

use crate::TransportError;

/// Names a backend, as in `++transport NAME`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TransportKind {
    /// Threads of one process.
    Local,
    /// Shared memory between processes of a host.
    Shm,
    /// TCP, everywhere.
    Tcp,
    /// libfabric.
    Ofi,
    /// UCX.
    Ucx,
    /// The simulated network.
    Sim,
}

impl std::fmt::Display for TransportKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Shm => "shm",
            Self::Tcp => "tcp",
            Self::Ofi => "ofi",
            Self::Ucx => "ucx",
            Self::Sim => "sim",
        })
    }
}

impl std::str::FromStr for TransportKind {
    type Err = TransportError;

    fn from_str(name: &str) -> Result<Self, TransportError> {
        Ok(match name {
            "local" => Self::Local,
            "shm" => Self::Shm,
            "tcp" => Self::Tcp,
            "ofi" => Self::Ofi,
            "ucx" => Self::Ucx,
            "sim" => Self::Sim,
            _ => {
                return Err(TransportError::Config(format!(
                    "no transport is called {name:?}; there are local, shm, tcp, ofi, ucx and sim"
                )));
            }
        })
    }
}
