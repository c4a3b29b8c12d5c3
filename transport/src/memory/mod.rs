//! Who owns a buffer: [`RegBuf`] (owned, may cross threads), [`Msg`] (a message as it arrived, stays on its PE).

mod buf;
mod counted;
mod msg;
mod slab;

pub use buf::{Home, RegBuf};
pub use counted::Counted;
pub use msg::Msg;
pub use slab::Slab;
