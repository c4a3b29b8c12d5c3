//! The names of backends, as options and messages write them.

use std::fmt;
use std::str::FromStr;

use crate::TransportError;

/// Names a backend, as in `++transport NAME`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TransportKind {
    /// Threads of one process.
    Local,
    /// Shared memory between processes of a host.
    Shm,
    /// TCP, on every network.
    Tcp,
    /// libfabric.
    Ofi,
    /// UCX.
    Ucx,
    /// The simulated network.
    Sim,
    /// A backend that the program registers: see [`crate::external`].
    External(ExternalName),
}

/// The prefix of the name of a registered backend.
const EXTERNAL: &str = "extern:";

impl TransportKind {
    /// Whether it carries all messages between processes, including those of one host.
    #[must_use]
    pub fn is_network(self) -> bool {
        matches!(self, Self::Tcp | Self::Ofi | Self::Ucx | Self::External(_))
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Shm => "shm",
            Self::Tcp => "tcp",
            Self::Ofi => "ofi",
            Self::Ucx => "ucx",
            Self::Sim => "sim",
            Self::External(name) => return write!(f, "{EXTERNAL}{}", name.as_str()),
        })
    }
}

impl FromStr for TransportKind {
    type Err = TransportError;

    fn from_str(text: &str) -> Result<Self, TransportError> {
        if let Some(name) = text.strip_prefix(EXTERNAL) {
            return name.parse().map(Self::External);
        }
        Ok(match text {
            "local" => Self::Local,
            "shm" => Self::Shm,
            "tcp" => Self::Tcp,
            "ofi" => Self::Ofi,
            "ucx" => Self::Ucx,
            "sim" => Self::Sim,
            _ => {
                return Err(TransportError::Config(format!(
                    "no transport is called {text:?}; there are local, shm, tcp, ofi, ucx, sim and extern:NAME"
                )));
            }
        })
    }
}

/// The name of a registered backend. It is checked for its form only: the launcher, which reads it too, does not know the program's backends.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExternalName {
    /// ASCII, padded with zeros.
    bytes: [u8; Self::LEN_MAX],
}

impl ExternalName {
    /// Longest name, in bytes.
    pub const LEN_MAX: usize = 31;

    /// The name, without `extern:`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let len = self.bytes.iter().position(|&byte| byte == 0).unwrap_or(Self::LEN_MAX);
        std::str::from_utf8(&self.bytes[..len]).expect("only ASCII was accepted")
    }
}

impl FromStr for ExternalName {
    type Err = TransportError;

    fn from_str(name: &str) -> Result<Self, TransportError> {
        let is_right = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        if name.is_empty() || name.len() > Self::LEN_MAX || !name.bytes().all(is_right) {
            let what = "is 1 to 31 lower-case letters, digits, - and _";
            return Err(TransportError::Config(format!("{EXTERNAL}{name}: the name of a backend {what}")));
        }
        let mut bytes = [0; Self::LEN_MAX];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Self { bytes })
    }
}

impl fmt::Debug for ExternalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_as_it_is_written() {
        let longest = format!("extern:{}", "x".repeat(ExternalName::LEN_MAX));
        for name in ["local", "shm", "tcp", "ofi", "ucx", "sim", "extern:unix", "extern:my-2nd_net", &longest] {
            assert_eq!(name.parse::<TransportKind>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn an_unknown_or_invalid_name_is_refused_with_the_list_of_backends() {
        let error = |name: &str| name.parse::<TransportKind>().unwrap_err().to_string();
        assert!(error("unix").ends_with("there are local, shm, tcp, ofi, ucx, sim and extern:NAME"));
        let too_long = format!("extern:{}", "x".repeat(ExternalName::LEN_MAX + 1));
        for name in ["extern:", "extern:Unix", "extern:a b", "extern:\u{e9}", "extern:a\0", &too_long] {
            assert!(error(name).contains("lower-case letters"), "{name}");
        }
    }
}
