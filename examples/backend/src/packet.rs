//! The packets that PEs send each other, as bytes. This module does not depend on sockets.
//!
//! A packet is a head of 24 bytes and a body. Sockets keep the bounds of packets, so a packet needs no length field. The fields are little-endian,
//! although both ends run on the same machine.

use charm4rs_transport_core::{Imm, Pe};

/// Bytes of a head.
pub(crate) const HEAD: usize = 24;
/// Bytes of the longest body.
pub(crate) const BODY_MAX: usize = 60 << 10;

/// A packet. The dialer sends the first four kinds; the dialed PE sends answers. Both may send a goodbye.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Packet<'a> {
    /// The first packet of a connection: the PE that dials.
    Hello(Pe),
    /// A message.
    Message(Imm, &'a [u8]),
    /// Bytes for a window. With an immediate, the put is reported to the owner of the window.
    Put { window: u64, offset: u64, imm: Option<Imm>, body: &'a [u8] },
    /// A request for bytes of a window.
    Get { window: u64, offset: u64, len: u32 },
    /// Answers a put: the bytes are in the window.
    Stored,
    /// Answers a get.
    Data(&'a [u8]),
    /// Answers a put or get: the window does not exist, or is too short.
    Refused,
    /// The sender closes and takes no more packets.
    Goodbye,
}

/// Bytes that are not a packet: the rule that they break, and the value that breaks it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Malformed {
    pub(crate) what: &'static str,
    pub(crate) value: u64,
}

const HELLO: u32 = 1;
const MESSAGE: u32 = 2;
const PUT: u32 = 3;
const PUT_ANNOUNCED: u32 = 4;
const GET: u32 = 5;
const STORED: u32 = 6;
const DATA: u32 = 7;
const REFUSED: u32 = 8;
const GOODBYE: u32 = 9;

impl<'a> Packet<'a> {
    /// The packet's head.
    pub(crate) fn head(&self) -> [u8; HEAD] {
        let (kind, small, window, offset) = match *self {
            Self::Hello(pe) => (HELLO, pe.0, 0, 0),
            Self::Message(imm, _) => (MESSAGE, imm.0, 0, 0),
            Self::Put { window, offset, imm: None, .. } => (PUT, 0, window, offset),
            Self::Put { window, offset, imm: Some(imm), .. } => (PUT_ANNOUNCED, imm.0, window, offset),
            Self::Get { window, offset, len } => (GET, len, window, offset),
            Self::Stored => (STORED, 0, 0, 0),
            Self::Data(_) => (DATA, 0, 0, 0),
            Self::Refused => (REFUSED, 0, 0, 0),
            Self::Goodbye => (GOODBYE, 0, 0, 0),
        };
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&kind.to_le_bytes());
        head[4..8].copy_from_slice(&small.to_le_bytes());
        head[8..16].copy_from_slice(&window.to_le_bytes());
        head[16..].copy_from_slice(&offset.to_le_bytes());
        head
    }

    /// The packet's body.
    pub(crate) fn body(&self) -> &'a [u8] {
        match *self {
            Self::Message(_, body) | Self::Put { body, .. } | Self::Data(body) => body,
            _ => &[],
        }
    }

    /// Reads a packet. Every field is checked, also those that the kind does not use: no two different byte strings are read as the same packet.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let malformed = |what, value| Err(Malformed { what, value });
        let Some((head, body)) = bytes.split_first_chunk::<HEAD>() else {
            return malformed("a packet is shorter than its head", bytes.len() as u64);
        };
        if body.len() > BODY_MAX {
            return malformed("a packet is too long", bytes.len() as u64);
        }
        let [kind, small] = [0, 4].map(|at| u32::from_le_bytes(std::array::from_fn(|i| head[at + i])));
        let [window, offset] = [8, 16].map(|at| u64::from_le_bytes(std::array::from_fn(|i| head[at + i])));
        let packet = match kind {
            HELLO => Self::Hello(Pe(small)),
            MESSAGE => Self::Message(Imm(small), body),
            PUT => Self::Put { window, offset, imm: None, body },
            PUT_ANNOUNCED => Self::Put { window, offset, imm: Some(Imm(small)), body },
            GET if small as usize <= BODY_MAX => Self::Get { window, offset, len: small },
            GET => return malformed("a get asks for too much", small.into()),
            STORED => Self::Stored,
            DATA => Self::Data(body),
            REFUSED => Self::Refused,
            GOODBYE => Self::Goodbye,
            _ => return malformed("a packet of an unknown kind", kind.into()),
        };
        if packet.head() != *head || packet.body().len() != body.len() {
            return malformed("a packet sets a field that its kind does not use", kind.into());
        }
        Ok(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(packet: &Packet<'_>) -> Vec<u8> {
        [&packet.head()[..], packet.body()].concat()
    }

    #[test]
    fn every_packet_is_read_as_it_was_written() {
        let (body, window, offset) = (&b"the body"[..], u64::MAX, 7);
        for packet in [
            Packet::Hello(Pe(9)),
            Packet::Message(Imm(u32::MAX), body),
            Packet::Put { window, offset, imm: None, body },
            Packet::Put { window, offset, imm: Some(Imm(0)), body: &[] },
            Packet::Get { window, offset, len: 100 },
            Packet::Stored,
            Packet::Data(body),
            Packet::Refused,
            Packet::Goodbye,
        ] {
            assert_eq!(Packet::read(&bytes(&packet)), Ok(packet));
        }
    }

    #[test]
    fn a_packet_that_is_cut_short_or_too_long_is_refused() {
        let longest = vec![0; BODY_MAX];
        let packet = bytes(&Packet::Message(Imm(1), &longest));
        assert!(Packet::read(&packet).is_ok());
        assert!(Packet::read(&[&packet[..], &[0]].concat()).is_err());
        assert!((0..HEAD).all(|len| Packet::read(&packet[..len]).is_err()));
        let most = u32::try_from(BODY_MAX).unwrap();
        let get = |len| bytes(&Packet::Get { window: 0, offset: 0, len });
        assert!(Packet::read(&get(most)).is_ok() && Packet::read(&get(most + 1)).is_err());
    }

    proptest! {
        /// A packet that was read is written as the same bytes. Bytes with other content are refused.
        #[test]
        fn bytes_are_a_packet_exactly_or_are_refused(
            kind in prop_oneof![0u32..12, any::<u32>()],
            rest in prop_oneof![Just(vec![0; HEAD - 4]), proptest::collection::vec(any::<u8>(), 0..80)],
            flip in 0..HEAD - 4,
        ) {
            let mut all = [&kind.to_le_bytes()[..], &rest].concat();
            for _ in 0..2 {
                if let Ok(packet) = Packet::read(&all) {
                    prop_assert_eq!(bytes(&packet), &all[..]);
                }
                if let Some(byte) = all.get_mut(4 + flip) {
                    *byte = !*byte;
                }
            }
        }
    }
}
