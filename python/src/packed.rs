//! Python values as they travel: bytes, and large buffers beside them.

use charm4rs::Payload;
use serde::de::{SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A message of so many bytes may find no memory at its receiver: its sender asks the engine for the error.
pub(crate) const LARGE: usize = 1 << 20;

/// Encoded values; see [`crate::codec`].
#[derive(Clone, Default, Debug)]
pub(crate) struct Packed {
    pub(crate) bytes: Vec<u8>,
    /// Buffers in the order in which the bytes refer to them.
    pub(crate) buffers: Vec<Payload<u8>>,
}

impl Packed {
    /// How many bytes travel.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.buffers.iter().map(|buffer| buffer.len()).sum::<usize>()
    }
}

struct Bytes<'a>(&'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl Serialize for Packed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(2)?;
        tuple.serialize_element(&Bytes(&self.bytes))?;
        tuple.serialize_element(&self.buffers)?;
        tuple.end()
    }
}

struct OwnedBytes(Vec<u8>);

impl<'de> Deserialize<'de> for OwnedBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = OwnedBytes;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<OwnedBytes, E> {
                Ok(OwnedBytes(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Read)
    }
}

impl<'de> Deserialize<'de> for Packed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Packed;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a packed value")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Packed, A::Error> {
                let missing = || serde::de::Error::custom("a packed value ends early");
                let OwnedBytes(bytes) = seq.next_element()?.ok_or_else(missing)?;
                let buffers = seq.next_element()?.ok_or_else(missing)?;
                Ok(Packed { bytes, buffers })
            }
        }
        deserializer.deserialize_tuple(2, Read)
    }
}
