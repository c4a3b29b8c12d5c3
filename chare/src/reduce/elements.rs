//! Element-wise reductions: their types of values, their reducers, and how the runtime merges pieces of values in place. This module does not depend
//! on how the pieces travel.

use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::Pod;
use charm4rs_transport::RegBuf;

use crate::runtime::chare::Arguments;
use crate::runtime::payload::Payload;
use crate::runtime::{ByElement, Reducer};

/// An element-wise reducer's operation on two items.
pub trait MergeItems<T>: 'static {
    /// Merges two items. Must be associative and commutative.
    fn merge_items(&self, a: T, b: T) -> T;
}

/// Contiguous items in memory: a `Vec` or a [`Payload`]. Element-wise reducers merge them in place, and large runs piece by piece.
pub trait Run: Arguments {
    /// The type of the items.
    type Item;

    /// Merges each item of `other` into the item at the same position of `self`.
    ///
    /// # Panics
    /// If the two have different lengths.
    #[must_use]
    fn merge(self, other: Self, f: impl Fn(Self::Item, Self::Item) -> Self::Item) -> Self;

    /// The size of its items in bytes.
    #[doc(hidden)]
    fn bytes(&self) -> usize;
    /// Its memory. It is copied only if it is shared.
    #[doc(hidden)]
    fn into_memory(self) -> RegBuf;
    /// Memory for items of this many bytes in all.
    #[doc(hidden)]
    fn room(bytes: usize) -> RegBuf;
    /// The inverse of `into_memory`.
    #[doc(hidden)]
    fn from_memory(memory: Arc<RegBuf>) -> Self;
    /// Merges the items in `from` into those in `into`.
    #[doc(hidden)]
    fn merge_memory(into: &mut [u8], from: &[u8], f: impl Fn(Self::Item, Self::Item) -> Self::Item);
}

#[inline]
fn merge_slices<T: Copy>(into: &mut [T], from: &[T], f: impl Fn(T, T) -> T) {
    assert_eq!(into.len(), from.len(), "elements contribute vectors of different lengths");
    into.iter_mut().zip(from).for_each(|(a, b)| *a = f(*a, *b));
}

#[inline]
fn merge_pods<T: Pod>(into: &mut [u8], from: &[u8], f: impl Fn(T, T) -> T) {
    let into: &mut [T] = bytemuck::cast_slice_mut(into);
    match bytemuck::try_cast_slice(from) {
        Ok(from) => merge_slices(into, from, f),
        // The alignment of a transport's memory may be smaller than that of the item.
        Err(_) => merge_slices(into, &copied(from), f),
    }
}

fn copied<T: Pod>(bytes: &[u8]) -> Vec<T> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(items) => items.to_vec(),
        Err(_) => bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect(),
    }
}

macro_rules! runs {
    ($($t:ty)*) => {$(
        impl Run for Vec<$t> {
            type Item = $t;
            fn merge(mut self, other: Self, f: impl Fn($t, $t) -> $t) -> Self {
                merge_slices(&mut self, &other, f);
                self
            }
            fn bytes(&self) -> usize {
                size_of_val(self.as_slice())
            }
            fn into_memory(self) -> RegBuf {
                RegBuf::from_vec(self)
            }
            fn room(bytes: usize) -> RegBuf {
                RegBuf::from_vec(vec![<$t as bytemuck::Zeroable>::zeroed(); bytes / size_of::<$t>()])
            }
            fn from_memory(memory: Arc<RegBuf>) -> Self {
                match Arc::try_unwrap(memory) {
                    Ok(memory) => memory.into_vec().unwrap_or_else(|memory| copied(&memory)),
                    Err(shared) => copied(&shared),
                }
            }
            fn merge_memory(into: &mut [u8], from: &[u8], f: impl Fn($t, $t) -> $t) {
                merge_pods(into, from, f);
            }
        }
    )*};
}
runs!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64);

/// The memory has one byte for each item; every byte but 0 means true.
impl Run for Vec<bool> {
    type Item = bool;
    fn merge(mut self, other: Self, f: impl Fn(bool, bool) -> bool) -> Self {
        merge_slices(&mut self, &other, f);
        self
    }
    fn bytes(&self) -> usize {
        self.len()
    }
    fn into_memory(self) -> RegBuf {
        RegBuf::from_vec(self.into_iter().map(u8::from).collect())
    }
    fn room(bytes: usize) -> RegBuf {
        RegBuf::heap(bytes)
    }
    fn from_memory(memory: Arc<RegBuf>) -> Self {
        memory.iter().map(|&byte| byte != 0).collect()
    }
    fn merge_memory(into: &mut [u8], from: &[u8], f: impl Fn(bool, bool) -> bool) {
        merge_slices(into, from, |a, b| u8::from(f(a != 0, b != 0)));
    }
}

impl<T: Pod + Send> Run for Payload<T> {
    type Item = T;
    fn merge(mut self, other: Self, f: impl Fn(T, T) -> T) -> Self {
        merge_slices(&mut self, &other, f);
        self
    }
    fn bytes(&self) -> usize {
        size_of_val(&**self)
    }
    fn into_memory(mut self) -> RegBuf {
        let _: &mut [T] = &mut self; // copies shared memory into the PE's pool
        crate::RecvBuffer::from(self).0
    }
    fn room(bytes: usize) -> RegBuf {
        crate::runtime::try_current().map_or_else(|| RegBuf::heap(bytes), |rt| rt.sched.alloc(bytes))
    }
    fn from_memory(memory: Arc<RegBuf>) -> Self {
        Self::of_memory(memory)
    }
    fn merge_memory(into: &mut [u8], from: &[u8], f: impl Fn(T, T) -> T) {
        merge_pods(into, from, f);
    }
}

impl<P: Run, R: MergeItems<P::Item>> ByElement<R, P> {
    /// The functions of [`MergeItems`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            item_bytes: size_of::<P::Item>(),
            bytes: P::bytes,
            into_memory: P::into_memory,
            room: P::room,
            from_memory: P::from_memory,
            merge: |reducer, into, from| P::merge_memory(into, from, |a, b| reducer.merge_items(a, b)),
        }
    }
}

impl<P: Run, R: MergeItems<P::Item>> Default for ByElement<R, P> {
    fn default() -> Self {
        Self::new()
    }
}

/// Values that are combined scalar by scalar: numbers, and arrays of numbers.
#[diagnostic::on_unimplemented(
    message = "this reducer cannot reduce values of type `{Self}`",
    label = "contributes a `{Self}`",
    note = "see the table in `charm4rs::reduce`; `reduce::with(|a, b| …)` merges values of any type"
)]
pub trait Elementwise: Arguments {
    /// The numbers.
    type Scalar;
    /// Applies `f` to each pair of scalars.
    #[must_use]
    fn combine(self, other: Self, f: impl Fn(Self::Scalar, Self::Scalar) -> Self::Scalar) -> Self;
    /// The value in which all scalars are this one. `None` if the type does not determine the number of scalars.
    #[doc(hidden)]
    fn filled(scalar: Self::Scalar) -> Option<Self> {
        let _ = scalar;
        None
    }
    /// How a reducer merges pieces of such values, if they can be split.
    #[doc(hidden)]
    #[must_use]
    fn by_element<R: MergeItems<Self::Scalar>>() -> Option<ByElement<R, Self>> {
        None
    }
}

macro_rules! elementwise {
    ($($t:ty)*) => {$(
        impl Elementwise for $t {
            type Scalar = $t;
            fn combine(self, other: Self, f: impl Fn($t, $t) -> $t) -> Self {
                f(self, other)
            }
            fn filled(scalar: $t) -> Option<$t> {
                Some(scalar)
            }
        }
        impl Elementwise for Vec<$t> {
            type Scalar = $t;
            fn combine(self, other: Self, f: impl Fn($t, $t) -> $t) -> Self {
                self.merge(other, f)
            }
            fn by_element<R: MergeItems<$t>>() -> Option<ByElement<R, Self>> {
                Some(ByElement::new())
            }
        }
        impl<const N: usize> Elementwise for [$t; N] where Self: Arguments {
            type Scalar = $t;
            fn combine(mut self, other: Self, f: impl Fn($t, $t) -> $t) -> Self {
                merge_slices(&mut self, &other, f);
                self
            }
            fn filled(scalar: $t) -> Option<Self> {
                Some([scalar; N])
            }
        }
    )*};
}
elementwise!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64 bool);

impl<T: Pod + Send> Elementwise for Payload<T> {
    type Scalar = T;
    fn combine(self, other: Self, f: impl Fn(T, T) -> T) -> Self {
        self.merge(other, f)
    }
    fn by_element<R: MergeItems<T>>() -> Option<ByElement<R, Self>> {
        Some(ByElement::new())
    }
}

/// An element-wise reducer of your own; see [`each`].
#[derive(Clone, Copy, Debug)]
pub struct Each<F>(F);

/// Merges vectors and payloads by a function of two items, which must be associative and commutative.
///
/// ```ignore
/// cx.contribute(distances, reduce::each(|a: f64, b| a.hypot(b)), promise); // distances: Payload<f64>
/// ```
pub fn each<T, F: Fn(T, T) -> T + 'static>(merge: F) -> Each<F> {
    Each(merge)
}

impl<T, F: Fn(T, T) -> T + 'static> MergeItems<T> for Each<F> {
    fn merge_items(&self, a: T, b: T) -> T {
        (self.0)(a, b)
    }
}

impl<V: Run, F: Fn(V::Item, V::Item) -> V::Item + 'static> Reducer<V> for Each<F> {
    type Partial = V;
    type Output = V;
    fn start(&self, value: V) -> V {
        value
    }
    fn merge(&self, a: V, b: V) -> V {
        a.merge(b, &self.0)
    }
    fn finish(&self, partial: V, _: u64) -> V {
        partial
    }
    fn by_element() -> Option<ByElement<Self, V>> {
        Some(ByElement::new())
    }
}

/// A reducer's operation on two scalars.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot reduce values of type `{S}`",
    label = "contributes a `{S}`, or several",
    note = "see the table in `charm4rs::reduce`; `reduce::with(|a, b| …)` merges values of any type"
)]
pub trait Operation<S>: 'static {
    /// The result of no scalars, if there is one.
    const OF_NONE: Option<S> = None;
    fn apply(a: S, b: S) -> S;
}

/// A reducer that combines scalars by an operation. The constants of this module are its values.
pub struct By<O>(pub(super) PhantomData<fn(O)>);

impl<O> Clone for By<O> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<O> Copy for By<O> {}
impl<O> std::fmt::Debug for By<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(std::any::type_name::<O>())
    }
}

impl<S, O: Operation<S>> MergeItems<S> for By<O> {
    #[inline]
    fn merge_items(&self, a: S, b: S) -> S {
        O::apply(a, b)
    }
}

impl<O: Operation<V::Scalar>, V: Elementwise> Reducer<V> for By<O> {
    type Partial = V;
    type Output = V;
    fn start(&self, value: V) -> V {
        value
    }
    fn merge(&self, a: V, b: V) -> V {
        a.combine(b, O::apply)
    }
    fn finish(&self, partial: V, _: u64) -> V {
        partial
    }
    fn empty(&self) -> Option<V> {
        O::OF_NONE.and_then(V::filled)
    }
    fn by_element() -> Option<ByElement<Self, V>> {
        V::by_element()
    }
}
