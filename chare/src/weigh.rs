//! The memory that the arguments of a call own on the heap, as far as it is cheap to determine. Between threads arguments are moved, so a message's
//! bytes do not show how much its receiver will hold; `#[chare]` asks here, and the result counts against the sender's credit.
//!
//! `Weigh(&argument).bytes()` calls the inherent method for a type that is known to be large, and [`Light`]'s for all others: the macro sees concrete
//! types, so users need not implement a trait. Deeper memory (a vector of vectors) is not counted: that would need a walk through the value.

use crate::Payload;

/// An argument to be measured.
#[derive(Debug)]
pub struct Weigh<'a, T: ?Sized>(pub &'a T);

/// All types that are not known to be large.
pub trait Light {
    /// Zero.
    #[inline]
    fn bytes(&self) -> usize {
        0
    }
}

impl<T: ?Sized> Light for Weigh<'_, T> {}

impl<T> Weigh<'_, Vec<T>> {
    /// The memory of its elements.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<T>()
    }
}

impl Weigh<'_, String> {
    /// The memory of its text.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.capacity()
    }
}

impl<T> Weigh<'_, Box<[T]>> {
    /// The memory of its elements.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val::<[T]>(self.0)
    }
}

impl<T: bytemuck::Pod> Weigh<'_, Payload<T>> {
    /// The memory of its elements.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val::<[T]>(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_that_are_known_to_be_large_weigh_what_they_own_and_others_nothing() {
        assert_eq!(Weigh(&Vec::<u64>::with_capacity(10)).bytes(), 80);
        assert_eq!(Weigh(&vec![0u8; 3].into_boxed_slice()).bytes(), 3);
        assert_eq!(Weigh(&"text".to_owned()).bytes(), 4);
        assert_eq!(Weigh(&Payload::from(vec![1.5f64; 4])).bytes(), 32);
        assert_eq!(Weigh(&7u64).bytes() + Weigh(&[1u64; 9]).bytes(), 0);
    }
}
