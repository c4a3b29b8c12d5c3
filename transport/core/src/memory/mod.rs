//! Who owns a buffer: [`RegBuf`] (owned, may cross threads), [`Msg`] (a message as it arrived, stays on its PE).

mod buf;
mod counted;
pub mod exposed;
pub mod inbox;
mod inline_task;
pub mod map;
mod msg;
mod payloads;
pub mod pool;
pub mod segment;
mod slab;
pub mod window;

pub use buf::{Home, RegBuf};
pub use counted::Counted;
pub use inline_task::InlineTask;
pub use msg::Msg;
pub use payloads::Payloads;
pub use slab::Slab;

/// Copies bytes into uninitialized bytes of the same length.
///
/// # Panics
/// If the lengths differ.
#[inline]
pub fn write_bytes(to: &mut [std::mem::MaybeUninit<u8>], bytes: &[u8]) {
    assert_eq!(to.len(), bytes.len());
    // SAFETY: both are valid for as many bytes, and cannot overlap; MaybeUninit<u8> has the layout of u8.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_mut_ptr().cast(), bytes.len()) }
}
