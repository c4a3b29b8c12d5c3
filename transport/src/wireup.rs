//! How the PEs of a job come to know each other: from a bootstrap to one [`PortBuilder`] for each PE of this process.
//!
//! Knows nothing of what launched the process, nor of what the PEs will do.

use std::sync::Arc;

use crate::port::PortBuilder;
use crate::{Layout, TransportError};

/// Names a backend, as in `++transport NAME`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum TransportKind {
    /// Threads of one process.
    Local,
    /// Shared memory between processes of a host.
    Shm,
    /// TCP, everywhere.
    Tcp,
    /// The simulated network.
    Sim,
}

impl std::str::FromStr for TransportKind {
    type Err = TransportError;

    fn from_str(name: &str) -> Result<Self, TransportError> {
        Ok(match name {
            "local" => Self::Local,
            "shm" => Self::Shm,
            "tcp" => Self::Tcp,
            "sim" => Self::Sim,
            _ => {
                return Err(TransportError::Config(format!(
                    "no transport is called {name:?}; there are local, shm and tcp"
                )));
            }
        })
    }
}

/// What the user may choose.
#[derive(Clone, Debug)]
pub struct TransportOptions {
    /// The only backend to use between PEs of different processes (`++transport`).
    pub force: Option<TransportKind>,
    /// Bytes that may be on their way to one peer before the sender waits (`++credit`).
    pub credit: u64,
    /// Bytes of a PE's inbox, a power of two.
    pub ring: usize,
    /// Whether a send may wait for room. Where one thread drives many PEs it may not: it keeps a backlog instead.
    pub may_block: bool,
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self { force: None, credit: 64 << 20, ring: 512 << 10, may_block: true }
    }
}

/// A job of one process, whose PEs are threads. One builder for each PE, in order.
///
/// # Errors
/// If the system is out of something.
pub fn local(layout: Layout, options: &TransportOptions) -> Result<Vec<PortBuilder>, TransportError> {
    let _ = options;
    PortBuilder::local(&Arc::new(layout))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::port::{PortEvent, Tag};
    use crate::{Pe, RegBuf};

    #[test]
    fn a_message_and_its_payload_reach_another_thread_and_come_back() {
        let mut builders = local(Layout::one_host(2, 2), &TransportOptions::default()).unwrap();
        let other = builders.pop().unwrap();
        let echo = std::thread::spawn(move || {
            let mut port = other.open().unwrap();
            let mut events = VecDeque::new();
            while port.poll(&mut events, 16).unwrap() == 0 {
                port.park(None).unwrap();
            }
            let Some(PortEvent::Message(m)) = events.pop_front() else { panic!("a message") };
            port.send_payloads(
                m.from,
                m.tag,
                m.msg.len(),
                |to| to.iter_mut().zip(m.msg.iter()).for_each(|(a, b)| _ = a.write(*b)),
                m.payloads,
                false,
            );
            port.close().unwrap();
        });
        let mut port = builders.pop().unwrap().open().unwrap();
        port.send_payloads(
            Pe(1),
            Tag(7),
            3,
            |to| to.iter_mut().for_each(|b| _ = b.write(9)),
            vec![RegBuf::copy_of(b"payload")],
            false,
        );
        let mut events = VecDeque::new();
        while port.poll(&mut events, 16).unwrap() == 0 {
            port.park(None).unwrap();
        }
        let Some(PortEvent::Message(m)) = events.pop_front() else { panic!("a message") };
        assert_eq!((m.from, m.tag, &*m.msg, &*m.payloads[0]), (Pe(1), Tag(7), &[9u8; 3][..], &b"payload"[..]));
        echo.join().unwrap();
    }
}
