//! Large runs of plain data in an argument, carried beside the message instead of inside it.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytemuck::Pod;
use charm4rs_transport::RegBuf;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::runtime;
use crate::wire::{self, Bytes};

/// An array of plain data (`f64`, `u8`, `[f32; 3]`, anything `bytemuck::Pod`) as an argument.
///
/// It is never copied on its way where ownership allows: inside a process its memory moves, between processes of a host
/// it is handed over in shared memory, across a network it is put into the receiver's memory. Elements of one
/// process that receive the same broadcast share one copy; writing to a shared one copies it first.
///
/// ```
/// use charm4rs::Payload;
/// let mut row = Payload::from(vec![1.0, 2.0, 3.0]);
/// row[0] = 4.0;
/// assert_eq!(row.iter().sum::<f64>(), 9.0);
/// assert_eq!(row.into_vec(), [4.0, 2.0, 3.0]);
/// ```
pub struct Payload<T: Pod> {
    buf: Arc<RegBuf>,
    item: PhantomData<T>,
}

impl<T: Pod> Payload<T> {
    /// `len` zeros, in memory from which a send needs no copy (the PE's registered pool, inside a job).
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let bytes = len.checked_mul(size_of::<T>()).expect("a payload's size fits the address space");
        let mut buf = runtime::try_current().map_or_else(|| RegBuf::heap(bytes), |rt| rt.sched.alloc(bytes));
        buf.fill(0);
        Self::from_buf(buf)
    }

    /// A copy of `items`, in memory from which a send needs no copy.
    #[must_use]
    pub fn copy_of(items: &[T]) -> Self {
        let bytes: &[u8] = bytemuck::cast_slice(items);
        let mut buf =
            runtime::try_current().map_or_else(|| RegBuf::heap(bytes.len()), |rt| rt.sched.alloc(bytes.len()));
        buf.copy_from_slice(bytes);
        Self::from_buf(buf)
    }

    fn from_buf(buf: RegBuf) -> Self {
        Self::of_memory(Arc::new(buf))
    }

    /// A payload of memory that may be shared. It must be a whole number of items, and aligned for them.
    pub(crate) fn of_memory(buf: Arc<RegBuf>) -> Self {
        Self { buf, item: PhantomData }
    }

    pub(crate) fn into_memory(self) -> Arc<RegBuf> {
        self.buf
    }

    /// As a vector: one copy.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        self.to_vec()
    }
}

/// Memory of a chare's, given for a payload to land in: what the method named by `#[entry(post = …)]` returns.
///
/// It comes back to the chare as the entry method's [`Payload`] argument.
#[derive(Debug)]
pub struct Room(pub(crate) RegBuf);

impl<T: Pod + Send> From<Vec<T>> for Room {
    fn from(items: Vec<T>) -> Self {
        Self(RegBuf::from_vec(items))
    }
}

impl<T: Pod> From<Payload<T>> for Room {
    /// Without a copy, unless the payload is shared.
    fn from(payload: Payload<T>) -> Self {
        Self(Arc::try_unwrap(payload.buf).unwrap_or_else(|shared| RegBuf::copy_of(&shared)))
    }
}

impl<T: Pod> Default for Payload<T> {
    /// The empty one. It costs no allocation: `std::mem::take` is the way to send a payload that a chare holds.
    fn default() -> Self {
        thread_local! {
            // One for each thread, so that PEs do not share its count's cache line.
            static EMPTY: Arc<RegBuf> = Arc::new(RegBuf::heap(0));
        }
        Self { buf: EMPTY.with(Arc::clone), item: PhantomData }
    }
}

impl<T: Pod + Send> From<Vec<T>> for Payload<T> {
    fn from(items: Vec<T>) -> Self {
        Self::from_buf(RegBuf::from_vec(items))
    }
}

impl<T: Pod> From<&[T]> for Payload<T> {
    fn from(items: &[T]) -> Self {
        Self::copy_of(items)
    }
}

impl<T: Pod> FromIterator<T> for Payload<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self::copy_of(&items.into_iter().collect::<Vec<_>>())
    }
}

impl<T: Pod> Deref for Payload<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.buf)
    }
}

impl<T: Pod> DerefMut for Payload<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        if Arc::get_mut(&mut self.buf).is_none() {
            *self = Self::copy_of(self);
        }
        bytemuck::cast_slice_mut(Arc::get_mut(&mut self.buf).expect("made unique just above"))
    }
}

impl<T: Pod> Clone for Payload<T> {
    /// Shares the memory until one of the two is written.
    fn clone(&self) -> Self {
        Self { buf: self.buf.clone(), item: PhantomData }
    }
}

impl<T: Pod + PartialEq> PartialEq for Payload<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for Payload<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().take(8)).finish()?;
        write!(f, " ({} items)", self.len())
    }
}

/// On the wire: the number of bytes, then either the payload's place among those that travel beside the message
/// plus one, or 0 and the bytes themselves.
impl<T: Pod> Serialize for Payload<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match wire::set_aside(&self.buf) {
            Some(place) => (place + 1, Bytes(&[])).serialize(serializer),
            None => (0u32, Bytes(&self.buf)).serialize(serializer),
        }
    }
}

impl<'de, T: Pod> Deserialize<'de> for Payload<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts<T>(PhantomData<T>);
        impl<'de, T: Pod> Visitor<'de> for Parts<T> {
            type Value = Payload<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a payload")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Payload<T>, A::Error> {
                let place: u32 = seq.next_element()?.ok_or_else(|| A::Error::missing_field("place"))?;
                let inline: InBand = seq.next_element()?.ok_or_else(|| A::Error::missing_field("bytes"))?;
                let buf = match place.checked_sub(1) {
                    None => Arc::new(inline.0),
                    Some(place) => wire::take_aside(place).ok_or_else(|| A::Error::custom("a payload is missing"))?,
                };
                if size_of::<T>() == 0 || !buf.len().is_multiple_of(size_of::<T>()) {
                    return Err(A::Error::custom("a payload's length is not a multiple of its item's"));
                }
                let buf = if buf.as_ptr().addr().is_multiple_of(align_of::<T>()) {
                    buf
                } else {
                    Arc::new(RegBuf::copy_of(&buf))
                };
                Ok(Payload { buf, item: PhantomData })
            }
        }
        deserializer.deserialize_tuple(2, Parts(PhantomData))
    }
}

struct InBand(RegBuf);

impl<'de> Deserialize<'de> for InBand {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Copy;
        impl Visitor<'_> for Copy {
            type Value = InBand;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<InBand, E> {
                Ok(InBand(RegBuf::copy_of(bytes)))
            }
        }
        deserializer.deserialize_bytes(Copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_payload_rides_inside_and_a_large_one_beside_the_message() {
        for (items, beside) in [(3usize, 0), (100_000, 1)] {
            let value = ("x".to_string(), Payload::from((0..items).map(|i| i as f64).collect::<Vec<_>>()));
            let mut bytes = Vec::new();
            let aside = wire::pack(&value, &mut bytes).unwrap();
            assert_eq!(aside.len(), beside);
            assert_eq!(wire::unpack::<(String, Payload<f64>)>(&bytes, aside).unwrap(), value);
        }
    }

    #[test]
    fn writing_to_a_shared_payload_leaves_the_other_alone() {
        let a = Payload::from(vec![1, 2, 3]);
        let mut b = a.clone();
        b[0] = 9;
        assert_eq!((&*a, &*b), (&[1, 2, 3][..], &[9, 2, 3][..]));
    }

    #[test]
    fn a_payload_that_does_not_fit_its_type_is_an_error() {
        let mut bytes = Vec::new();
        let aside = wire::pack(&Payload::from(vec![1u8, 2, 3]), &mut bytes).unwrap();
        assert!(wire::unpack::<Payload<u16>>(&bytes, aside).is_err());
        assert!(wire::unpack::<Payload<u8>>(&[7, 0], vec![]).is_err(), "its place does not exist");
    }
}
