//! A packet between two simulated endpoints, and its encoding if the wire carries datagrams.

use charm4rs_transport_core::{Imm, Msg, Pe, RegBuf};

/// The type of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Head {
    Message { imm: Imm },
    Put { serial: u64, window: u64, offset: u64, imm: Option<Imm> },
    PutReply { serial: u64, done: bool },
    Get { serial: u64, window: u64, offset: u64, len: u64 },
    GetReply { serial: u64, done: bool },
}

/// A packet in flight.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) from: Pe,
    pub(super) to: Pe,
    pub(super) head: Head,
    pub(super) body: Option<Msg>,
}

impl Packet {
    pub(super) fn len(&self) -> usize {
        self.body.as_ref().map_or(0, |body| body.len())
    }

    /// A code for the trace.
    pub(super) fn code(&self) -> u64 {
        match self.head {
            Head::Message { .. } => 1,
            Head::Put { .. } => 2,
            Head::PutReply { .. } => 3,
            Head::Get { .. } => 4,
            Head::GetReply { .. } => 5,
        }
    }

    /// Encodes it: a code, four numbers, the body.
    pub(super) fn encode(&self) -> Vec<u8> {
        let announced = |imm: Option<Imm>| imm.map_or(0, |imm| 1 << 32 | u64::from(imm.0));
        let fields = match self.head {
            Head::Message { imm } => [u64::from(imm.0), 0, 0, 0],
            Head::Put { serial, window, offset, imm } => [serial, window, offset, announced(imm)],
            Head::PutReply { serial, done } | Head::GetReply { serial, done } => [serial, u64::from(done), 0, 0],
            Head::Get { serial, window, offset, len } => [serial, window, offset, len],
        };
        let mut bytes = Vec::with_capacity(40 + self.len());
        bytes.extend_from_slice(&self.code().to_le_bytes());
        for field in fields {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }

    /// The inverse of `encode`. `None`: no simulated endpoint wrote these bytes.
    pub(super) fn decode(from: Pe, to: Pe, bytes: &[u8]) -> Option<Self> {
        let (fields, body) = bytes.split_first_chunk::<40>()?;
        let mut fields = fields.as_chunks::<8>().0.iter().map(|field| u64::from_le_bytes(*field));
        let mut next = || fields.next();
        let (code, a, b, c, d) = (next()?, next()?, next()?, next()?, next()?);
        let imm = |field: u64| u32::try_from(field & u64::from(u32::MAX)).ok().map(Imm);
        let head = match code {
            1 => Head::Message { imm: imm(a)? },
            2 => Head::Put { serial: a, window: b, offset: c, imm: if d >> 32 == 0 { None } else { imm(d) } },
            3 => Head::PutReply { serial: a, done: b == 1 },
            4 => Head::Get { serial: a, window: b, offset: c, len: d },
            5 => Head::GetReply { serial: a, done: b == 1 },
            _ => return None,
        };
        Some(Self { from, to, head, body: Some(RegBuf::copy_of(body).into()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_decoded_as_encoded() {
        for head in [
            Head::Message { imm: Imm(u32::MAX) },
            Head::Put { serial: 1, window: 2, offset: u64::MAX, imm: None },
            Head::Put { serial: 1, window: u64::MAX, offset: 0, imm: Some(Imm(0)) },
            Head::PutReply { serial: 9, done: false },
            Head::Get { serial: 5, window: 6, offset: 7, len: 8 },
            Head::GetReply { serial: u64::MAX, done: true },
        ] {
            let body = Some(RegBuf::copy_of(b"body").into());
            let bytes = Packet { from: Pe(1), to: Pe(2), head, body }.encode();
            let back = Packet::decode(Pe(1), Pe(2), &bytes).unwrap();
            assert_eq!((back.head, back.body.as_deref()), (head, Some(&b"body"[..])));
            assert!((0..40).all(|len| Packet::decode(Pe(1), Pe(2), &bytes[..len]).is_none()));
        }
        assert!(Packet::decode(Pe(0), Pe(1), &[0xff; 64]).is_none());
    }
}
