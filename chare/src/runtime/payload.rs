//! Payloads: large arrays of plain data in an argument, carried beside the message instead of inside it.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Bound, Deref, DerefMut, Range, RangeBounds};
use std::sync::Arc;

use bytemuck::Pod;
use charm4rs_transport::RegBuf;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::message::wire::{self, Bytes};
use crate::runtime;

/// An array of plain data (`f64`, `u8`, `[f32; 3]`, anything `bytemuck::Pod`) as an argument.
///
/// It is not copied on its way if ownership allows: inside a process its memory moves, between processes of a host it is handed over in shared
/// memory, across a network it is put into the receiver's memory. Elements of one process that receive the same broadcast share one copy; writing to
/// a shared one copies it first.
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
    /// The range of the memory's bytes that are its items.
    part: Range<usize>,
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
        Self { part: 0..buf.len(), buf, item: PhantomData }
    }

    /// Its memory, without other bytes: of a slice, a copy.
    pub(crate) fn into_memory(self) -> Arc<RegBuf> {
        if self.is_whole() { self.buf } else { Self::copy_of(&self).buf }
    }

    fn is_whole(&self) -> bool {
        self.part.len() == self.buf.len()
    }

    /// Some of the items, as a payload that shares the memory of this one: nothing is copied, until one of the two is written.
    ///
    /// As an argument of a call inside its process it keeps that memory; to other processes, and in calls of all elements, only the slice is sent,
    /// which is copied once for that.
    ///
    /// ```
    /// use charm4rs::Payload;
    /// let row = Payload::from((0..1_000).collect::<Vec<u64>>());
    /// let (left, right) = (row.slice(..500), row.slice(500..));
    /// assert_eq!((left[0], right[0], right.slice(1..3).to_vec()), (0, 500, vec![501, 502]));
    /// assert!(std::ptr::eq(&row[500], &right[0]));
    /// ```
    ///
    /// # Panics
    /// If the range does not lie inside of the payload.
    #[track_caller]
    #[must_use]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let start = match range.start_bound() {
            Bound::Included(&at) => Some(at),
            Bound::Excluded(&at) => at.checked_add(1),
            Bound::Unbounded => Some(0),
        };
        let end = match range.end_bound() {
            Bound::Included(&at) => at.checked_add(1),
            Bound::Excluded(&at) => Some(at),
            Bound::Unbounded => Some(self.len()),
        };
        let inside = start.zip(end).filter(|&(start, end)| start <= end && end <= self.len());
        let Some((start, end)) = inside else {
            let bounds = (range.start_bound(), range.end_bound());
            panic!("a slice from {:?} to {:?} of a payload of {} items", bounds.0, bounds.1, self.len())
        };
        let byte = |at: usize| self.part.start + at * size_of::<T>();
        Self { buf: self.buf.clone(), part: byte(start)..byte(end), item: PhantomData }
    }

    /// As a vector: one copy.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        self.to_vec()
    }
}

/// Memory of a chare that receives a payload: the method named by `#[entry(post = …)]` returns it.
///
/// It comes back to the chare as the entry method's [`Payload`] argument.
#[derive(Debug)]
pub struct RecvBuffer(pub(crate) RegBuf);

impl<T: Pod + Send> From<Vec<T>> for RecvBuffer {
    fn from(items: Vec<T>) -> Self {
        Self(RegBuf::from_vec(items))
    }
}

impl<T: Pod> From<Payload<T>> for RecvBuffer {
    /// Without a copy, unless the payload is shared or a slice.
    fn from(payload: Payload<T>) -> Self {
        Self(Arc::try_unwrap(payload.into_memory()).unwrap_or_else(|shared| RegBuf::copy_of(&shared)))
    }
}

impl<T: Pod> Default for Payload<T> {
    /// An empty payload. It does not allocate: use `std::mem::take` to send a payload that a chare holds.
    fn default() -> Self {
        thread_local! {
            // One for each thread, so that PEs do not share the cache line of its reference count.
            static EMPTY: Arc<RegBuf> = Arc::new(RegBuf::heap(0));
        }
        Self { buf: EMPTY.with(Arc::clone), part: 0..0, item: PhantomData }
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
        bytemuck::cast_slice(&self.buf[self.part.clone()])
    }
}

impl<T: Pod> DerefMut for Payload<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        if Arc::get_mut(&mut self.buf).is_none() {
            *self = Self::copy_of(self);
        }
        let part = self.part.clone();
        bytemuck::cast_slice_mut(&mut Arc::get_mut(&mut self.buf).expect("made unique just above")[part])
    }
}

impl<T: Pod> Clone for Payload<T> {
    /// Shares the memory until one of the two is written.
    fn clone(&self) -> Self {
        Self { buf: self.buf.clone(), part: self.part.clone(), item: PhantomData }
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

/// On the wire: the number of bytes, then either one plus the payload's place among those that travel beside the message, or 0 and the bytes
/// themselves.
impl<T: Pod> Serialize for Payload<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = &self.buf[self.part.clone()];
        let place = if self.is_whole() {
            wire::set_aside(&self.buf)
        } else if wire::goes_aside(bytes.len()) {
            wire::set_aside(&Arc::new(runtime::copy(bytes)))
        } else {
            None
        };
        match place {
            Some(place) => (place + 1, Bytes(&[])).serialize(serializer),
            None => (0u32, Bytes(bytes)).serialize(serializer),
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
                Ok(Payload::of_memory(buf))
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
    fn a_small_payload_travels_inside_and_a_large_one_beside_the_message() {
        for (items, beside) in [(3usize, 0), (100_000, 1)] {
            let value = ("x".to_string(), Payload::from((0..items).map(|i| i as f64).collect::<Vec<_>>()));
            let mut bytes = Vec::new();
            let aside = wire::pack(&value, &mut bytes).unwrap();
            assert_eq!(aside.len(), beside);
            assert_eq!(wire::unpack::<(String, Payload<f64>)>(&bytes, aside).unwrap(), value);
        }
    }

    #[test]
    fn writing_to_a_shared_payload_does_not_change_the_other() {
        let a = Payload::from(vec![1, 2, 3]);
        let mut b = a.clone();
        b[0] = 9;
        assert_eq!((&*a, &*b), (&[1, 2, 3][..], &[9, 2, 3][..]));
    }

    #[test]
    fn a_slice_shares_its_memory_until_it_is_written_and_travels_alone() {
        let whole = Payload::from((0..10_000u32).collect::<Vec<_>>());
        for range in [0..0, 3..4, 100..9_000, 0..10_000] {
            let mut slice = whole.slice(range.clone());
            assert_eq!((slice.as_ptr(), slice.len()), (whole[range.clone()].as_ptr(), range.len()));
            let mut bytes = Vec::new();
            let aside = wire::pack(&slice, &mut bytes).unwrap();
            assert!(bytes.len() + aside.iter().map(|buf| buf.len()).sum::<usize>() <= range.len() * 4 + 16);
            assert_eq!(wire::unpack::<Payload<u32>>(&bytes, aside).unwrap(), slice);
            slice.iter_mut().for_each(|item| *item = 7);
            assert_eq!(slice.clone().into_memory().len(), range.len() * 4);
            assert!(whole.iter().copied().eq(0..10_000), "the whole is unchanged");
        }
        let alone = { Payload::from(vec![1u8, 2, 3, 4]).slice(1..=2) };
        assert_eq!(RecvBuffer::from(alone).0[..], [2, 3]);
    }

    #[test]
    #[should_panic(expected = "a slice from Included(2) to Excluded(9) of a payload of 3 items")]
    fn a_slice_outside_of_a_payload_is_refused() {
        let _ = Payload::from(vec![1, 2, 3]).slice(2..9);
    }

    #[test]
    fn a_payload_that_does_not_fit_its_type_is_an_error() {
        let mut bytes = Vec::new();
        let aside = wire::pack(&Payload::from(vec![1u8, 2, 3]), &mut bytes).unwrap();
        assert!(wire::unpack::<Payload<u16>>(&bytes, aside).is_err());
        assert!(wire::unpack::<Payload<u8>>(&[7, 0], vec![]).is_err(), "its place does not exist");
    }
}
