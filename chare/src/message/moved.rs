//! Moves values through the bytes of messages. Every reader of a moved value, in the modules that `docs/unsafe.md` lists, relies on the rules of this one.
//!
//! A call to a chare of the same process is not serialized. Its arguments are *moved*: the sender writes the bytes of the value into the message
//! ([`write()`]) and forgets the value; the receiver reads the bytes once ([`read()`]) and owns the value. The transport delivers the bytes unchanged,
//! aligned to 16 bytes at both ends, to exactly one receiver. A value that is large or needs a larger alignment is boxed, and the box is moved.
//!
//! A value that moves to another thread is `Send`: [`send_moved`](crate::runtime) requires it. A value that a PE sends to itself need not be.
//!
//! A value is read as the type as which it was written, because sender and receiver name the same entry method (or the same future), whose type determines
//! that of the value. Both run in one process, and therefore in one program.

use std::mem::{ManuallyDrop, MaybeUninit, align_of, size_of};

/// Messages start on a multiple of this, and so do bodies.
pub(crate) const BODY_ALIGN: usize = 16;

/// The largest value that is moved in place; larger ones are boxed.
const INLINE_MAX: usize = 512;

const fn boxed<T>() -> bool {
    align_of::<T>() > BODY_ALIGN || size_of::<T>() > INLINE_MAX
}

/// The number of bytes that a moved `T` takes in a message.
pub(crate) const fn size<T>() -> usize {
    if boxed::<T>() { size_of::<Box<T>>() } else { size_of::<T>() }
}

/// The bytes of a value on their way into a message. They own what the value owned, so they must be copied exactly once.
#[derive(Debug)]
pub(crate) struct Loose<'a>(&'a [MaybeUninit<u8>]);

impl Loose<'_> {
    /// The number of bytes that they take in a message.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Moves them to the front of `body`, which must be 16-byte aligned and long enough.
    #[inline]
    pub(crate) fn put(self, body: &mut [MaybeUninit<u8>]) {
        assert!(body.as_ptr().addr().is_multiple_of(BODY_ALIGN));
        body[..self.0.len()].copy_from_slice(self.0);
    }
}

/// Takes a value apart and calls `f` with its bytes. If `f` does not put the bytes into a message, what the value owned leaks.
#[inline]
pub(crate) fn loosen<T, R>(value: T, f: impl FnOnce(Loose<'_>) -> R) -> R {
    if boxed::<T>() {
        let value = ManuallyDrop::new(Box::new(value));
        // SAFETY: the bytes of a box that is never dropped, as long as it stays where it is.
        f(Loose(unsafe { bytes_of(&value) }))
    } else {
        let value = ManuallyDrop::new(value);
        // SAFETY: as above.
        f(Loose(unsafe { bytes_of(&value) }))
    }
}

/// # Safety
/// Copies of the bytes are a second value: only one may be used.
unsafe fn bytes_of<T>(value: &T) -> &[MaybeUninit<u8>] {
    // SAFETY: any memory of a value is a slice of `MaybeUninit` bytes.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// Moves `value` to the front of `body`.
///
/// `body` must be 16-byte aligned and at least [`size`] bytes long.
#[inline]
pub(crate) fn write<T>(value: T, body: &mut [MaybeUninit<u8>]) {
    loosen(value, |value| value.put(body));
}

/// Moves the value out of a message's body.
///
/// # Safety
/// `body` points to what [`write()`] wrote in this process for the same `T`, and it is not read again.
#[inline]
pub(crate) unsafe fn read<T>(body: *const u8) -> T {
    if boxed::<T>() {
        // SAFETY: the caller's promise.
        unsafe { *body.cast::<Box<T>>().read() }
    } else {
        // SAFETY: the caller's promise.
        unsafe { body.cast::<T>().read() }
    }
}

/// The offset of a part of a moved value in a message's body, for code that knows only the part's type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MovedField {
    boxed: bool,
    offset: usize,
}

impl MovedField {
    /// The part of a `T` that begins at `offset`.
    pub(crate) const fn of<T>(offset: usize) -> Self {
        Self { boxed: boxed::<T>(), offset }
    }

    /// Copies the part out; the value stays.
    ///
    /// # Safety
    /// `body` points to what [`write()`] wrote in this process for that `T`, and the part is a `P`.
    #[inline]
    pub(crate) unsafe fn copy<P: Copy>(self, body: *const u8) -> P {
        // SAFETY: the caller's promise.
        unsafe {
            let value = if self.boxed { body.cast::<*const u8>().read() } else { body };
            value.add(self.offset).cast::<P>().read()
        }
    }
}

/// A buffer for one value of any type, in place if it is small: a future keeps its value in it without an allocation.
pub(crate) struct Stash {
    room: MaybeUninit<[u128; 4]>,
    drop: Option<unsafe fn(*mut u8)>,
    kind: Option<std::any::TypeId>,
}

impl Stash {
    pub(crate) const fn new() -> Self {
        Self { room: MaybeUninit::uninit(), drop: None, kind: None }
    }

    const fn in_place<T>() -> bool {
        size_of::<T>() <= size_of::<[u128; 4]>() && align_of::<T>() <= align_of::<u128>()
    }

    /// Stores `value`; drops the previous one.
    pub(crate) fn put<T: 'static>(&mut self, value: T) {
        self.clear();
        let room = self.room.as_mut_ptr().cast::<u8>();
        if Self::in_place::<T>() {
            // SAFETY: the room is large and aligned enough, and empty.
            unsafe { room.cast::<T>().write(value) };
            self.drop = Some(|room| {
                // SAFETY: called while the stash holds the T that was written just above.
                unsafe { room.cast::<T>().drop_in_place() }
            });
        } else {
            // SAFETY: as above, for a box.
            unsafe { room.cast::<Box<T>>().write(Box::new(value)) };
            self.drop = Some(|room| {
                // SAFETY: called while the stash holds the box that was written just above.
                unsafe { room.cast::<Box<T>>().drop_in_place() }
            });
        }
        self.kind = Some(std::any::TypeId::of::<T>());
    }

    /// Takes the value out, if there is one of this type.
    pub(crate) fn take<T: 'static>(&mut self) -> Option<T> {
        if self.kind != Some(std::any::TypeId::of::<T>()) {
            return None;
        }
        (self.kind, self.drop) = (None, None);
        let room = self.room.as_mut_ptr().cast::<u8>();
        // SAFETY: `put::<T>` wrote it (the type ids are equal), and the stash forgot it just now.
        Some(unsafe { if Self::in_place::<T>() { room.cast::<T>().read() } else { *room.cast::<Box<T>>().read() } })
    }

    /// Whether it is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.kind.is_none()
    }

    /// Drops the value.
    pub(crate) fn clear(&mut self) {
        self.kind = None;
        if let Some(drop) = self.drop.take() {
            // SAFETY: `put` stored this function for the current value.
            unsafe { drop(self.room.as_mut_ptr().cast()) };
        }
    }
}

impl Drop for Stash {
    fn drop(&mut self) {
        self.clear();
    }
}

impl std::fmt::Debug for Stash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stash").field("full", &self.kind.is_some()).finish()
    }
}

/// Writes plain data at `at`; returns the offset after it.
pub(crate) fn put_pod<T: bytemuck::NoUninit>(body: &mut [MaybeUninit<u8>], at: usize, value: &T) -> usize {
    put_bytes(body, at, bytemuck::bytes_of(value))
}

/// Writes bytes at `at`; returns the offset after them.
#[inline]
pub(crate) fn put_bytes(body: &mut [MaybeUninit<u8>], at: usize, bytes: &[u8]) -> usize {
    body[at..at + bytes.len()].write_copy_of_slice(bytes);
    at + bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;
    use std::sync::Arc;

    fn round_trip<T: Send + PartialEq + std::fmt::Debug + Clone>(value: T) {
        let mut room = MaybeUninit::<[u128; 64]>::uninit();
        let body = room.as_bytes_mut_for_test();
        write(value.clone(), body);
        // SAFETY: written just above, read once.
        assert_eq!(unsafe { read::<T>(body.as_ptr().cast()) }, value);
    }

    trait AsBytes {
        fn as_bytes_mut_for_test(&mut self) -> &mut [MaybeUninit<u8>];
    }
    impl AsBytes for MaybeUninit<[u128; 64]> {
        fn as_bytes_mut_for_test(&mut self) -> &mut [MaybeUninit<u8>] {
            // SAFETY: any memory is a slice of MaybeUninit bytes.
            unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), 1024) }
        }
    }

    #[repr(align(64))]
    #[derive(PartialEq, Debug, Clone)]
    struct Wide(u8);

    #[test]
    fn values_of_any_size_and_alignment_move_through_bytes() {
        round_trip(());
        round_trip(7u8);
        round_trip((1u64, String::from("text"), vec![1, 2, 3]));
        round_trip([9u64; 64]);
        round_trip([9u64; 65]);
        round_trip(Wide(3));
    }

    #[test]
    fn a_stash_drops_its_value_unless_it_is_taken() {
        let token = Rc::new(());
        let mut stash = Stash::new();
        stash.put(token.clone());
        assert_eq!(Rc::strong_count(&token), 2);
        assert!(stash.take::<u32>().is_none(), "another type is not there");
        drop(stash.take::<Rc<()>>());
        assert!(stash.take::<Rc<()>>().is_none());
        stash.put((token.clone(), [0u8; 100]));
        assert_eq!(Rc::strong_count(&token), 2);
        drop(stash);
        assert_eq!(Rc::strong_count(&token), 1);
    }

    #[test]
    fn a_moved_value_changes_owner_and_is_dropped_once() {
        let token = Arc::new(5);
        let mut room = MaybeUninit::<[u128; 64]>::uninit();
        let body = room.as_bytes_mut_for_test();
        write(token.clone(), body);
        assert_eq!(Arc::strong_count(&token), 2);
        // SAFETY: written just above, read once.
        drop(unsafe { read::<Arc<i32>>(body.as_ptr().cast()) });
        assert_eq!(Arc::strong_count(&token), 1);
    }
}
