//! The port's own frames and their encoding. Frames come from other processes: decoding never panics, and never allocates more memory than the frame
//! itself justifies.

use std::mem::MaybeUninit;

use super::put_window::PutWindowId;
use super::puts::Target;
use charm4rs_transport_core::memory::write_bytes;
use charm4rs_transport_core::{Imm, Pe, RegBuf, RemoteKey};

/// Tags from here on are the port's.
pub(super) const FIRST: u8 = super::tags::PORT;
/// A payload of the sender's next message.
pub(super) const PAYLOAD: u8 = 0xF0;
/// The receiver returns credit.
pub(super) const CREDIT: u8 = 0xF1;
/// Ready to send: a message whose payloads stay at the sender until the CTS: [`Rts`].
pub(super) const RTS: u8 = 0xF2;
/// Clear to send: where the payloads of an RTS go: [`Cts`].
pub(super) const CTS: u8 = 0xF3;
/// A payload as a message of its own, if it is not put; the immediate is the receiver's number of it.
pub(super) const HANDED: u8 = 0xF4;
/// The put of a payload is complete; the immediate is the receiver's number of it.
pub(super) const FIN: u8 = 0xF5;
/// The receiver refuses an RTS; the frame has its id.
pub(super) const REFUSE: u8 = 0xF6;

/// Replaces a message that the sender had no memory to send: [`Missed`].
pub(super) const MISSED: u8 = 0xF7;
/// The receiver has no memory for a message: [`Nack`].
pub(super) const NACK: u8 = 0xF8;

/// A message that contains its payloads: [`Eager`].
pub(super) const EAGER: u8 = 0xF9;

/// A put into a persistent window is complete; the immediate names the window.
pub(super) const PUT: u8 = 0xFA;

/// Bytes of a put for which no device has access to the memory: [`Write`].
pub(super) const WRITE: u8 = 0xFB;

/// A sender waits for credit: [`Probe`].
pub(super) const PROBE: u8 = 0xFC;

/// The largest argument of an immediate.
pub(super) const ARG_MAX: usize = (1 << 24) - 1;

/// A bit in the argument of a message without payloads: the bits below it are the message's weight.
pub(super) const WEIGHED: usize = 1 << 23;
/// The most payloads of a message.
pub(super) const PAYLOADS_MAX: usize = WEIGHED - 1;

/// An immediate: a tag and 24 more bits.
#[inline]
pub(super) fn imm(tag: u8, arg: usize) -> Imm {
    debug_assert!(arg <= ARG_MAX);
    Imm(u32::from(tag) | u32::try_from(arg << 8).expect("at most 24 bits"))
}

#[inline]
pub(super) fn tag(imm: Imm) -> u8 {
    imm.0.to_le_bytes()[0]
}

#[inline]
pub(super) fn arg(imm: Imm) -> usize {
    (imm.0 >> 8) as usize
}

/// A ready-to-send frame.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Rts<'a> {
    pub(super) id: u64,
    pub(super) tag: u8,
    /// Whether the receiver's user chooses where the payloads go.
    pub(super) offer: bool,
    /// Whether the first payload is the message's head itself.
    pub(super) head_follows: bool,
    pub(super) sizes: Vec<u64>,
    pub(super) head: &'a [u8],
}

/// How one payload is to be sent.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Destination {
    /// As a message.
    Hand,
    /// By a put.
    Put(RemoteKey),
}

/// A clear-to-send frame.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Cts {
    pub(super) id: u64,
    /// The receiver's number of the message.
    pub(super) slot: u32,
    pub(super) destinations: Vec<Destination>,
}

/// A message that is short enough, payloads included, for one frame.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Eager<'a> {
    pub(super) tag: u8,
    pub(super) payloads: Vec<&'a [u8]>,
    pub(super) head: &'a [u8],
}

/// The header of a message that could not be sent for lack of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Missed {
    pub(super) imm: Imm,
    pub(super) len: u64,
}

/// The rejection of a message that cannot be delivered.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Nack<'a> {
    pub(super) tag: u8,
    /// Its size with all payloads.
    pub(super) len: u64,
    /// Its first bytes, at most [`Nack::HEAD_MAX`].
    pub(super) head: &'a [u8],
}

/// Bytes of a put, as a message. The key shows that the sender may put there.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Write<'a> {
    pub(super) target: Target,
    pub(super) key: RemoteKey,
    pub(super) offset: u64,
    pub(super) bytes: &'a [u8],
}

/// Follows PEs that wait for credit; see `credit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Probe {
    /// The PE that first sent it.
    pub(super) origin: Pe,
    /// The number of its wait.
    pub(super) wait: u32,
    /// How many PEs have forwarded it.
    pub(super) hops: u32,
}

/// Takes values off the front of bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(bytes)
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }
    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

impl<'a> Rts<'a> {
    /// Bytes of a frame without its head, for this many payloads and one more.
    pub(super) fn len(payloads: usize) -> usize {
        14 + 8 * (payloads + 1)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16 + 8 * self.sizes.len() + self.head.len());
        bytes.extend(self.id.to_le_bytes());
        bytes.extend([self.tag, u8::from(self.offer) | u8::from(self.head_follows) << 1]);
        bytes.extend(u32::try_from(self.sizes.len()).expect("payloads are counted in 24 bits").to_le_bytes());
        self.sizes.iter().for_each(|size| bytes.extend(size.to_le_bytes()));
        bytes.extend(self.head);
        bytes
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (id, tag, flags) = (reader.u64()?, reader.u8()?, reader.u8()?);
        let n = reader.u32()? as usize;
        if flags > 3 || tag >= FIRST || n == 0 || n > PAYLOADS_MAX + 1 {
            return None;
        }
        let sizes: Vec<u64> = reader
            .bytes(n.checked_mul(8)?)?
            .chunks_exact(8)
            .map(|c| u64::from_le_bytes(c.try_into().expect("chunks of 8")))
            .collect();
        sizes.iter().try_fold(0u64, |sum, &size| sum.checked_add(size))?;
        Some(Self { id, tag, offer: flags & 1 != 0, head_follows: flags & 2 != 0, sizes, head: reader.0 })
    }
}

impl Cts {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.id.to_le_bytes());
        bytes.extend(self.slot.to_le_bytes());
        for destination in &self.destinations {
            match destination {
                Destination::Hand => bytes.push(0),
                Destination::Put(key) => {
                    bytes.push(1);
                    bytes.extend(key.len.to_le_bytes());
                    bytes.extend(u16::try_from(key.bytes.len()).expect("a key is short").to_le_bytes());
                    bytes.extend(&*key.bytes);
                }
            }
        }
        bytes
    }

    /// `n` is how many payloads were offered.
    pub(super) fn decode(bytes: &[u8], n: impl FnOnce(u64) -> Option<usize>) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (id, slot) = (reader.u64()?, reader.u32()?);
        let n = n(id)?;
        if slot as usize > ARG_MAX {
            return None;
        }
        let mut destinations = Vec::new();
        for _ in 0..n {
            destinations.push(match reader.u8()? {
                0 => Destination::Hand,
                1 => {
                    let len = reader.u64()?;
                    let n = reader.u16()?;
                    Destination::Put(RemoteKey { len, bytes: reader.bytes(n.into())?.into() })
                }
                _ => return None,
            });
        }
        reader.0.is_empty().then_some(Self { id, slot, destinations })
    }
}

impl<'a> Eager<'a> {
    /// Bytes of such a frame around a head of `len` bytes; `None`: there are too many payloads.
    pub(super) fn len(len: usize, payloads: &[RegBuf]) -> Option<usize> {
        u8::try_from(payloads.len()).ok()?;
        payloads.iter().try_fold(2 + len, |sum, payload| sum.checked_add(4 + payload.len()))
    }

    /// Writes the whole frame. `fill` writes the head's bytes. `to` has the length that [`Eager::len`] returned, below 4 GiB.
    pub(super) fn write(
        to: &mut [MaybeUninit<u8>],
        tag: u8,
        payloads: &[RegBuf],
        fill: impl FnOnce(&mut [MaybeUninit<u8>]),
    ) {
        let mut rest = to;
        let mut put = |bytes: &[u8]| {
            let (room, left) = std::mem::take(&mut rest).split_at_mut(bytes.len());
            write_bytes(room, bytes);
            rest = left;
        };
        put(&[tag, u8::try_from(payloads.len()).expect("`len` has counted them")]);
        for payload in payloads {
            put(&u32::try_from(payload.len()).expect("the frame is below 4 GiB").to_le_bytes());
        }
        payloads.iter().for_each(|payload| put(payload));
        fill(rest);
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (tag, n) = (reader.u8()?, reader.u8()?);
        let mut sizes = Reader(reader.bytes(4 * usize::from(n))?);
        let payloads = (0..n).map(|_| reader.bytes(sizes.u32()? as usize)).collect::<Option<_>>()?;
        (tag < FIRST && n > 0).then_some(Self { tag, payloads, head: reader.0 })
    }
}

impl<'a> Write<'a> {
    /// What precedes the bytes.
    pub(super) fn head(target: Target, key: &RemoteKey, offset: u64) -> Vec<u8> {
        let (kind, name) = match target {
            Target::Payload { slot, part } => (0, u64::from(slot) | u64::from(part) << 32),
            Target::PutWindow(id) => (1, id.to_bits()),
        };
        let len = u16::try_from(key.bytes.len()).expect("a key is short");
        let words = [name, offset, key.len].map(u64::to_le_bytes);
        [&[kind][..], words.as_flattened(), &len.to_le_bytes(), &key.bytes].concat()
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (kind, name) = (reader.u8()?, reader.u64()?);
        let half = |word: u64| u32::try_from(word & u64::from(u32::MAX)).expect("32 bits");
        let target = match kind {
            0 => Target::Payload { slot: half(name), part: half(name >> 32) },
            1 => Target::PutWindow(PutWindowId::from_bits(name)),
            _ => return None,
        };
        let (offset, len, n) = (reader.u64()?, reader.u64()?, reader.u16()?);
        let key = RemoteKey { len, bytes: reader.bytes(n.into())?.into() };
        Some(Self { target, key, offset, bytes: reader.0 })
    }
}

impl Missed {
    pub(super) fn encode(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.imm.0.to_le_bytes());
        bytes[4..].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (imm, len) = (reader.u32()?, reader.u64()?);
        reader.0.is_empty().then_some(Self { imm: Imm(imm), len })
    }
}

impl<'a> Nack<'a> {
    pub(super) const HEAD_MAX: usize = 256;

    pub(super) fn encode(&self) -> Vec<u8> {
        let head = &self.head[..self.head.len().min(Self::HEAD_MAX)];
        [&self.len.to_le_bytes()[..], &[self.tag], head].concat()
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (len, tag) = (reader.u64()?, reader.u8()?);
        (tag < FIRST && reader.0.len() <= Self::HEAD_MAX).then_some(Self { tag, len, head: reader.0 })
    }
}

impl Probe {
    pub(super) fn encode(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip([self.origin.0, self.wait, self.hops]) {
            *to = word.to_le_bytes();
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (origin, wait, hops) = (Pe(reader.u32()?), reader.u32()?, reader.u32()?);
        reader.0.is_empty().then_some(Self { origin, wait, hops })
    }
}

/// A frame of one word.
pub(super) fn decode_word(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_rts_survives_encoding(
            id: u64, tag in 0..FIRST, offer: bool, head_follows: bool,
            sizes in prop::collection::vec(0..1u64 << 50, 1..9), head: Vec<u8>,
        ) {
            let rts = Rts { id, tag, offer, head_follows, sizes, head: &head };
            let bytes = rts.encode();
            prop_assert_eq!(Rts::decode(&bytes), Some(rts));
        }

        #[test]
        fn an_answer_survives_encoding(
            id: u64, slot in 0..1u32 << 24, keys in prop::collection::vec(prop::option::of((0..u64::MAX, any::<Vec<u8>>())), 1..5),
        ) {
            let destinations = keys.into_iter()
                .map(|key| key.map_or(Destination::Hand, |(len, bytes)| Destination::Put(RemoteKey { len, bytes: bytes.into() })));
            let cts = Cts { id, slot, destinations: destinations.collect() };
            let n = cts.destinations.len();
            prop_assert_eq!(Cts::decode(&cts.encode(), |_| Some(n)), Some(cts));
        }

        #[test]
        fn a_message_with_its_payloads_inside_survives_encoding(
            tag in 0..FIRST, payloads in prop::collection::vec(any::<Vec<u8>>(), 1..9), head: Vec<u8>,
        ) {
            let bufs: Vec<RegBuf> = payloads.iter().map(|p| RegBuf::copy_of(p)).collect();
            let mut bytes = RegBuf::heap(Eager::len(head.len(), &bufs).unwrap());
            bytes.fill_with(|to| Eager::write(to, tag, &bufs, |to| write_bytes(to, &head)));
            let eager = Eager { tag, payloads: payloads.iter().map(|p| &p[..]).collect(), head: &head };
            prop_assert_eq!(Eager::decode(&bytes), Some(eager));
        }

        #[test]
        fn bytes_of_a_put_survive_encoding(
            slot: u32, part: u32, window: bool, len: u64, key: Vec<u8>, offset: u64, bytes: Vec<u8>,
        ) {
            let name = PutWindowId::from_bits(u64::from(slot) | u64::from(part) << 32);
            let target = if window { Target::PutWindow(name) } else { Target::Payload { slot, part } };
            let key = RemoteKey { len, bytes: key.into() };
            let frame = [Write::head(target, &key, offset), bytes.clone()].concat();
            prop_assert_eq!(Write::decode(&frame), Some(Write { target, key, offset, bytes: &bytes }));
        }

        #[test]
        fn garbage_is_refused_or_decoded_but_never_panics(bytes: Vec<u8>) {
            if let Some(rts) = Rts::decode(&bytes) {
                prop_assert!(rts.sizes.len() * 8 <= bytes.len());
            }
            let _ = Cts::decode(&bytes, |_| Some(3));
            let _ = decode_word(&bytes);
            if let Some(eager) = Eager::decode(&bytes) {
                prop_assert!(eager.payloads.iter().map(|p| p.len()).sum::<usize>() + eager.head.len() < bytes.len());
            }
            let _ = Missed::decode(&bytes);
            let _ = Write::decode(&bytes);
            let _ = Nack::decode(&bytes);
        }

        #[test]
        fn notices_and_nacks_survive_encoding(
            imm: u32, len: u64, tag in 0..FIRST, head in prop::collection::vec(any::<u8>(), 0..=Nack::HEAD_MAX),
        ) {
            let missed = Missed { imm: Imm(imm), len };
            prop_assert_eq!(Missed::decode(&missed.encode()), Some(missed));
            let nack = Nack { tag, len, head: &head };
            let bytes = nack.encode();
            prop_assert_eq!(Nack::decode(&bytes), Some(nack));
        }
    }

    #[test]
    fn an_immediate_keeps_tag_and_argument_apart() {
        for (t, a) in [(0, 0), (7, 1), (0xEF, ARG_MAX), (0xFF, 0x1234)] {
            assert_eq!((tag(imm(t, a)), arg(imm(t, a))), (t, a));
        }
    }
}
