//! Landings of a PE, and puts into those of others, counted for quiescence as the calls that they become.

use charm4rs_transport::RegBuf;
use charm4rs_transport::port::{LandingAddress, LandingId, LandingMemory, Tag};

use super::{Scheduler, bump};

impl Scheduler {
    /// Opens a landing of `len` zeros, each put into which brings a call that `notice` gives, of kind `tag`. `None`: the PE has ended.
    pub fn open_landing(
        &self,
        len: usize,
        tag: Tag,
        notice: impl FnOnce(LandingId) -> Vec<u8>,
    ) -> Option<(LandingAddress, LandingMemory)> {
        self.port.borrow_mut().as_mut().map(|port| port.open_landing(len, tag, notice))
    }

    /// Closes it. Nobody may be allowed to put into it any more.
    pub fn close_landing(&self, id: LandingId) {
        if let Some(port) = &mut *self.port.borrow_mut() {
            port.close_landing(id);
        }
    }

    /// Writes `src` at `offset` of a landing, which brings its owner a call. `notice`: that call, for where it needs a message.
    /// Counted for quiescence.
    ///
    /// # Panics
    /// If that is outside of the landing.
    pub fn put(&self, to: &LandingAddress, offset: u64, src: RegBuf, tag: Tag, notice: &[u8]) {
        if let Some(port) = &mut *self.port.borrow_mut() {
            bump(&self.sent);
            port.put(to, offset, src, tag, notice);
        }
    }

    /// Copies what came as a message into a landing of this PE's. Whether it fits there.
    pub fn fill_landing(&self, id: LandingId, offset: u64, bytes: &[u8]) -> bool {
        self.port.borrow_mut().as_mut().is_some_and(|port| port.fill_landing(id, offset, bytes))
    }
}
