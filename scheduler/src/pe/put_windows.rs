//! Put windows of a PE, and puts into the windows of other PEs, counted for quiescence as the calls that they become.

use charm4rs_transport::RegBuf;
use charm4rs_transport::port::{PutWindowAddress, PutWindowId, PutWindowMemory, Tag};

use super::{Scheduler, bump};

impl Scheduler {
    /// Opens a put window of `len` zeros. Each put into it makes a call of kind `tag`, whose bytes `notice` gives. `None`: the PE has ended.
    pub fn open_put_window(
        &self,
        len: usize,
        tag: Tag,
        notice: impl FnOnce(PutWindowId) -> Vec<u8>,
    ) -> Option<(PutWindowAddress, PutWindowMemory)> {
        self.port.borrow_mut().as_mut().map(|port| port.open_put_window(len, tag, notice))
    }

    /// Closes a put window. No peer may hold a put handle of it any more.
    pub fn close_put_window(&self, id: PutWindowId) {
        if let Some(port) = &mut *self.port.borrow_mut() {
            port.close_put_window(id);
        }
    }

    /// Writes `src` at `offset` of a put window, which makes a call at its owner. `notice`: the bytes of that call, if it has to be a message.
    /// Counted for quiescence.
    ///
    /// # Panics
    /// If the range is outside of the put window.
    pub fn put(&self, to: &PutWindowAddress, offset: u64, src: RegBuf, tag: Tag, notice: &[u8]) {
        if let Some(port) = &mut *self.port.borrow_mut() {
            bump(&self.sent);
            port.put(to, offset, src, tag, notice);
        }
    }

    /// Copies bytes that came as a message into a put window of this PE. Returns whether they fit.
    pub fn fill_put_window(&self, id: PutWindowId, offset: u64, bytes: &[u8]) -> bool {
        self.port.borrow_mut().as_mut().is_some_and(|port| port.fill_put_window(id, offset, bytes))
    }
}
