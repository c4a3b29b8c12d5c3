//! The head of every message: its sender, and its type. Pure encoding; knows nothing of UCX.
//!
//! | bytes | |
//! |---|---|
//! | 8 | the receiver's *pass*, which only the job's processes know |
//! | 4 | the sender's PE |
//! | 4 | the immediate |
//! | 4 | its number in its sequence |
//! | 4 | its kind |
//! | 3 * 8 | words, by kind; left out if all are 0 |
//!
//! Almost all are messages of PEs below 2^24 whose immediate is below 256. Such a head has a short form, so that head and bytes may fit into one cache
//! line, if that is what carries them:
//!
//! | bytes | |
//! |---|---|
//! | 8 | the pass |
//! | 4 | the sender's PE, and above it the immediate |
//! | 4 | its number in its sequence |

use charm4rs_transport_core::{Imm, Pe};

/// The longest head.
pub(super) const HEAD_MAX: usize = WORDLESS + 24;
const WORDLESS: usize = 24;
const SHORT: usize = 16;
/// Where the immediate begins in a short head's second part.
const IMM_SHIFT: u32 = 24;

/// The operation of a put that is not answered.
pub(super) const UNANSWERED: u64 = 0;

/// The type of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HeadKind {
    /// A message of the user. Words: 0, 0, its operation if its bytes wait at the sender.
    Message,
    /// In the sequence of messages: the sender closes.
    Bye,
    /// The answer to `Bye`: it has arrived, and everything before it.
    ByeAck,
    /// The sender of this head had no memory for a message from its receiver. Words: 0, 0, its operation.
    Refused,
    /// Bytes for a window, to be announced. Words: window, offset, operation ([`UNANSWERED`] if it is not answered).
    Put,
    /// Bytes for a window. Words: as above.
    QuietPut,
    /// A put is complete. Words: 0, 0, operation.
    PutDone,
    /// A put or get outside a window, or to one that was taken back. Words: as above.
    PutRefused,
    /// Requests bytes of a window. Words: window, offset, operation; the length is the number.
    Get,
    /// The requested bytes. Words: 0, 0, operation.
    Got,
    /// As `PutRefused`.
    GetRefused,
}

const KINDS: [HeadKind; 11] = [
    HeadKind::Message,
    HeadKind::Bye,
    HeadKind::ByeAck,
    HeadKind::Refused,
    HeadKind::Put,
    HeadKind::QuietPut,
    HeadKind::PutDone,
    HeadKind::PutRefused,
    HeadKind::Get,
    HeadKind::Got,
    HeadKind::GetRefused,
];

/// See the module's text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) pass: u64,
    pub(super) from: Pe,
    pub(super) imm: Imm,
    pub(super) number: u32,
    pub(super) kind: HeadKind,
    pub(super) words: [u64; 3],
}

impl Head {
    /// Whether it has a short form.
    #[inline]
    fn is_short(&self) -> bool {
        self.kind == HeadKind::Message && self.words == [0; 3] && self.from.0 < 1 << IMM_SHIFT && self.imm.0 < 256
    }

    /// Writes its bytes, and returns how many they are.
    #[inline]
    pub(super) fn encode(&self, bytes: &mut [u8; HEAD_MAX]) -> usize {
        bytes[..8].copy_from_slice(&self.pass.to_le_bytes());
        if self.is_short() {
            bytes[8..12].copy_from_slice(&(self.from.0 | self.imm.0 << IMM_SHIFT).to_le_bytes());
            bytes[12..16].copy_from_slice(&self.number.to_le_bytes());
            return SHORT;
        }
        bytes[8..12].copy_from_slice(&self.from.0.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.imm.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.number.to_le_bytes());
        bytes[20..24].copy_from_slice(&(self.kind as u32).to_le_bytes());
        if self.words == [0; 3] {
            return WORDLESS;
        }
        for (at, word) in (WORDLESS..).step_by(8).zip(self.words) {
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        HEAD_MAX
    }

    /// Decodes bytes, which may come from a stranger.
    #[inline]
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let words = match bytes.len() {
            SHORT => {
                let (from, imm) = (Pe(short(bytes, 8) & ((1 << IMM_SHIFT) - 1)), Imm(short(bytes, 8) >> IMM_SHIFT));
                let (pass, number) = (long(bytes, 0), short(bytes, 12));
                return Some(Self { pass, from, imm, number, kind: HeadKind::Message, words: [0; 3] });
            }
            WORDLESS => [0; 3],
            HEAD_MAX => [24, 32, 40].map(|at| long(bytes, at)),
            _ => return None,
        };
        Some(Self {
            pass: long(bytes, 0),
            from: Pe(short(bytes, 8)),
            imm: Imm(short(bytes, 12)),
            number: short(bytes, 16),
            kind: *KINDS.get(usize::try_from(short(bytes, 20)).ok()?)?,
            words,
        })
    }
}

#[inline]
fn short(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[inline]
fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(kind: HeadKind, words: [u64; 3]) -> Head {
        Head { pass: 0x1234_5678_9abc_def0, from: Pe(7), imm: Imm(u32::MAX), number: 0x8000_0001, kind, words }
    }

    /// The head after encoding and decoding, and the length of its encoding.
    fn again(head: &Head) -> (Option<Head>, usize) {
        let mut bytes = [0xa5; HEAD_MAX];
        let len = head.encode(&mut bytes);
        (Head::decode(&bytes[..len]), len)
    }

    #[test]
    fn a_head_is_decoded_as_encoded() {
        for kind in KINDS {
            for words in [[0; 3], [1, 0, 0], [0, 0, 9], [u64::MAX; 3]] {
                let head = head(kind, words);
                let len = if words == [0; 3] { WORDLESS } else { HEAD_MAX };
                assert_eq!(again(&head), (Some(head), len));
            }
        }
    }

    #[test]
    fn heads_of_usual_messages_are_short() {
        let plain = Head { from: Pe(0xff_ffff), imm: Imm(255), ..head(HeadKind::Message, [0; 3]) };
        assert_eq!(again(&plain), (Some(plain), SHORT));
        let others = [
            Head { from: Pe(1 << 24), ..plain },
            Head { imm: Imm(256), ..plain },
            Head { kind: HeadKind::Bye, ..plain },
            Head { words: [0, 0, 1], ..plain },
        ];
        for other in others {
            let (read, len) = again(&other);
            assert_eq!(read, Some(other));
            assert_ne!(len, SHORT);
        }
    }

    #[test]
    fn invalid_heads_are_refused() {
        let mut bytes = [0; HEAD_MAX];
        head(HeadKind::Put, [1; 3]).encode(&mut bytes);
        for len in (0..HEAD_MAX).filter(|&len| len != SHORT && len != WORDLESS) {
            assert_eq!(Head::decode(&bytes[..len]), None, "{len}");
        }
        for kind in [u32::try_from(KINDS.len()).unwrap(), u32::MAX] {
            bytes[20..24].copy_from_slice(&kind.to_le_bytes());
            assert_eq!(Head::decode(&bytes), None, "{kind}");
        }
    }
}
