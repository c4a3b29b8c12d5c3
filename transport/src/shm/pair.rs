//! A job of two processes that hold the ends of a socket, for tests: a minimal bootstrap that can share descriptors.

use std::os::fd::{BorrowedFd, OwnedFd};

use charm4rs_bootstrap::channel::Channel;
use charm4rs_bootstrap::{Bootstrap, Control};
use charm4rs_transport_core::auth::{JobId, Secret};
use charm4rs_transport_core::{Layout, TransportError};

/// One of the two processes.
#[derive(Debug)]
pub(crate) struct Pair {
    rank: u32,
    layout: Layout,
    secret: Secret,
    channel: Channel,
}

impl Pair {
    pub(crate) fn new(rank: u32, channel: Channel) -> Self {
        Self { rank, layout: Layout::one_host(2, 1), secret: Secret::new([7; 32]), channel }
    }
}

impl Bootstrap for Pair {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn job_id(&self) -> JobId {
        JobId(*b"twoprocs")
    }

    fn secret(&self) -> &Secret {
        &self.secret
    }

    fn options(&self) -> &[(String, String)] {
        &[]
    }

    fn put(&mut self, _: &str, _: &[u8]) -> Result<(), TransportError> {
        Err(TransportError::Config("a pair shares only descriptors".into()))
    }

    fn fence(&mut self) -> Result<(), TransportError> {
        Err(TransportError::Config("a pair shares only descriptors".into()))
    }

    fn get(&mut self, _: u32, _: &str) -> Result<Vec<u8>, TransportError> {
        Err(TransportError::Config("a pair shares only descriptors".into()))
    }

    fn share_fds(&mut self, fds: &[BorrowedFd<'_>]) -> Result<Vec<Vec<OwnedFd>>, TransportError> {
        let own = fds.iter().map(BorrowedFd::try_clone_to_owned).collect::<Result<Vec<_>, _>>();
        let own = own.map_err(|e| TransportError::system("dup", e))?;
        self.channel.send(b"fds", fds).map_err(|e| TransportError::system("sendmsg", e))?;
        let packet = self.channel.recv(&mut [0; 8]).map_err(|e| TransportError::system("recvmsg", e))?;
        let mut all = vec![own, packet.fds];
        if self.rank == 1 {
            all.reverse();
        }
        Ok(all)
    }

    fn control(&self) -> Control {
        Control::new(None, true)
    }
}
