//! The encoding of this backend's messages and keys. All of them come from outside: decoding never panics.
//!
//! A message is a header and a body. libfabric reports neither the sender of a message nor whether the sender belongs to the job, so the header does: it
//! begins with a *token* that only the job's processes know, and a message with another token is dropped unread. (That keeps out strangers and
//! stale jobs. An attacker that reads the network can learn it; libfabric has nothing better.)

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use charm4rs_transport_core::auth::Secret;
use charm4rs_transport_core::{Pe, RemoteKey};

/// Bytes of a header.
pub(super) const HEADER: usize = 24;

/// The type of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum PacketKind {
    /// A message of the user.
    Data = 1,
    /// A put before this message has arrived. Carries its immediate.
    Announce = 2,
    /// Asks for permission to access a window: [`Question`].
    Ask = 3,
    /// The access is allowed.
    Granted = 4,
    /// The access is refused: the window was taken back, or is shorter.
    Refused = 5,
    /// The last message of its sender.
    Bye = 6,
    /// The answer to `Bye`: everything before it has arrived.
    ByeAck = 7,
    /// Bytes for a window: where they go ([`Question`]), then the bytes; the immediate is that of their put.
    Fill = 8,
}

impl PacketKind {
    fn of(word: u32) -> Option<Self> {
        use PacketKind::{Announce, Ask, Bye, ByeAck, Data, Fill, Granted, Refused};
        [Data, Announce, Ask, Granted, Refused, Bye, ByeAck, Fill].into_iter().find(|kind| *kind as u32 == word)
    }
}

/// The header, which precedes the body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) from: Pe,
    pub(super) imm: u32,
    /// Its number among the messages of its sender to its receiver.
    pub(super) number: u32,
    pub(super) kind: PacketKind,
}

impl Header {
    pub(super) fn encode(&self, token: u64) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&token.to_le_bytes());
        for (at, word) in [self.from.0, self.imm, self.number, self.kind as u32].into_iter().enumerate() {
            bytes[8 + 4 * at..12 + 4 * at].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The header and the body. `None`: the message does not belong to the job.
    pub(super) fn decode(bytes: &[u8], token: u64) -> Option<(Self, &[u8])> {
        let (head, body) = bytes.split_first_chunk::<HEADER>()?;
        let word = |at: usize| head[at..].first_chunk::<4>().map(|word| u32::from_le_bytes(*word));
        if head.first_chunk::<8>() != Some(&token.to_le_bytes()) {
            return None;
        }
        let header = Self { from: Pe(word(8)?), imm: word(12)?, number: word(16)?, kind: PacketKind::of(word(20)?)? };
        Some((header, body))
    }
}

/// The range of an [`PacketKind::Ask`]: `len` bytes at `offset` of a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Question {
    pub(super) window: u64,
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Question {
    /// Its length in bytes.
    pub(super) const LEN: usize = 24;

    pub(super) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (at, word) in [self.window, self.offset, self.len].into_iter().enumerate() {
            bytes[8 * at..8 * at + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let [window, offset, len] = words(bytes.try_into().ok()?);
        Some(Self { window, offset, len })
    }
}

fn words(bytes: &[u8; 24]) -> [u64; 3] {
    let mut words = [0; 3];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
    }
    words
}

/// How to reach a window: the contents of a [`RemoteKey`]'s bytes, with the provider's raw key, if there is one, and a seal of the owner over these, the
/// length and the owner. The seal is needed since a provider that gets a wrong key may close the connection instead of refusing the access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WindowKey {
    pub(super) window: u64,
    pub(super) addr: u64,
    pub(super) key: u64,
}

const SEAL: usize = 8;

/// Makes and checks seals. Has the token.
#[derive(Clone)]
pub(super) struct Sealer {
    mac: Hmac<Sha256>,
    pub(super) token: u64,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

impl Sealer {
    pub(super) fn new(secret: &Secret) -> Self {
        let mac =
            Hmac::new_from_slice(&secret.derive("charm4rs fabric, windows")).expect("HMAC takes keys of any length");
        let [a, b, c, d, e, f, g, h, ..] = secret.derive("charm4rs fabric, messages");
        Self { mac, token: u64::from_le_bytes([a, b, c, d, e, f, g, h]) }
    }

    fn seal(&self, owner: Pe, len: u64, bytes: &[u8]) -> [u8; SEAL] {
        let mut mac = self.mac.clone();
        mac.update(&owner.0.to_le_bytes());
        mac.update(&len.to_le_bytes());
        mac.update(bytes);
        let tag = mac.finalize().into_bytes();
        let mut seal = [0; SEAL];
        seal.copy_from_slice(&tag[..SEAL]);
        seal
    }

    /// The key of a window of `owner`.
    pub(super) fn key(&self, owner: Pe, len: u64, key: WindowKey, raw: &[u8]) -> RemoteKey {
        let WindowKey { window, addr, key } = key;
        let mut bytes = Question { window, offset: addr, len: key }.encode().to_vec();
        bytes.extend_from_slice(raw);
        bytes.extend_from_slice(&self.seal(owner, len, &bytes));
        RemoteKey { len, bytes: bytes.into() }
    }

    /// The contents of a key, if `owner` made it.
    pub(super) fn open<'a>(&self, owner: Pe, key: &'a RemoteKey) -> Option<(WindowKey, &'a [u8])> {
        let (bytes, seal) = key.bytes.split_last_chunk::<SEAL>()?;
        if *seal != self.seal(owner, key.len, bytes) {
            return None;
        }
        let (head, raw) = bytes.split_first_chunk::<24>()?;
        let [window, addr, key] = words(head);
        Some((WindowKey { window, addr, key }, raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_decoded_and_one_of_another_job_is_refused() {
        let header = Header { from: Pe(7), imm: u32::MAX, number: 3, kind: PacketKind::ByeAck };
        let bytes = [&header.encode(99)[..], b"body"].concat();
        assert_eq!(Header::decode(&bytes, 99), Some((header, &b"body"[..])));
        assert_eq!(Header::decode(&bytes, 98), None);
        for len in 0..HEADER {
            assert_eq!(Header::decode(&bytes[..len], 99), None);
        }
        for kind in [0, 9, u32::MAX] {
            let mut bytes = bytes.clone();
            bytes[20..24].copy_from_slice(&kind.to_le_bytes());
            assert_eq!(Header::decode(&bytes, 99), None);
        }
    }

    #[test]
    fn a_key_is_valid_for_its_owner_and_length_only() {
        let sealer = Sealer::new(&Secret::new([1; 32]));
        let key = WindowKey { window: 1, addr: u64::MAX, key: 1 << 63 };
        for raw in [&b""[..], b"longer than 64 bits"] {
            let remote = sealer.key(Pe(4), 100, key, raw);
            assert_eq!(sealer.open(Pe(4), &remote), Some((key, raw)));
            assert_eq!(sealer.open(Pe(5), &remote), None);
            assert_eq!(sealer.open(Pe(4), &RemoteKey { len: 101, ..remote.clone() }), None);
            assert_eq!(Sealer::new(&Secret::new([2; 32])).open(Pe(4), &remote), None);
            for at in 0..remote.bytes.len() {
                let mut forged = remote.clone();
                forged.bytes[at] ^= 1;
                assert_eq!(sealer.open(Pe(4), &forged), None);
                assert_eq!(sealer.open(Pe(4), &RemoteKey { len: 100, bytes: remote.bytes[..at].into() }), None);
            }
        }
    }
}
