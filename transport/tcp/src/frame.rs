//! The format of a frame: a header of 16 bytes, some words that depend on its kind, then its body. Pure: bytes in, values out.
//!
//! ```text
//! header   length of the body (48 bits) | kind (8) | flags (8) | immediate (32) | acknowledgement (32)
//! check    CRC-32 of header and check (32) | of the words (32) | of the body (32) | sequence (32)   only with `checksum`
//! words    0 to 4 of 64 bits, as many as the kind has
//! body     length bytes
//! ```
//! Little-endian. A header is checked before its kind is used, so a flipped bit never makes the receiver wait for more. [`Format::decode`] checks a header
//! against the limits before anything is indexed or allocated by it.

/// Bytes of a header without check and words.
pub(crate) const HEADER: usize = 16;
const CHECK: usize = 16;
/// The largest head: header, check, words.
pub(crate) const HEAD_MAX: usize = HEADER + CHECK + 4 * 8;

/// The 48 bits of a length.
pub(crate) const LENGTH_MAX: u64 = (1 << 48) - 1;

/// The type of a frame. Kinds up to [`FrameKind::Gone`] belong to one connection and are not numbered. The others are numbered per
/// pair, kept until acknowledged, and sent again on the next connection if they were not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum FrameKind {
    /// Carries only the header's acknowledgement.
    Ack = 1,
    /// The first frame on every connection, both ways. Words: how many numbered frames arrived so far; settings; how much of
    /// the next one did (0: nothing that is kept; otherwise its head and one byte less than this of its body).
    Resume = 2,
    /// The PE that was dialed has ended.
    Gone = 3,
    /// A message.
    Data = 8,
    /// The last numbered frame of a PE that closes.
    Bye = 9,
    /// A put. Words: window, offset, operation ([`UNANSWERED`] if the window is persistent).
    Put = 10,
    /// The result of a put with an operation. Words: operation, status.
    PutDone = 11,
    /// A get. Words: window, offset, operation, length.
    Get = 12,
    /// A part of the bytes of a get. Words: operation, offset in the destination, status.
    GetReply = 13,
    /// The receiver has no memory for a message. Words: its number, its length.
    Refused = 14,
}

impl FrameKind {
    fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Ack,
            2 => Self::Resume,
            3 => Self::Gone,
            8 => Self::Data,
            9 => Self::Bye,
            10 => Self::Put,
            11 => Self::PutDone,
            12 => Self::Get,
            13 => Self::GetReply,
            14 => Self::Refused,
            _ => return None,
        })
    }

    const fn words(self) -> usize {
        match self {
            Self::Data | Self::Ack | Self::Bye | Self::Gone => 0,
            Self::PutDone | Self::Refused => 2,
            Self::Resume | Self::Put | Self::GetReply => 3,
            Self::Get => 4,
        }
    }

    const fn has_body(self) -> bool {
        matches!(self, Self::Data | Self::Put | Self::GetReply)
    }

    /// Whether frames of this kind are numbered.
    pub(crate) const fn numbered(self) -> bool {
        self as u8 >= Self::Data as u8
    }
}

/// The operation of a put that is not answered.
pub(crate) const UNANSWERED: u64 = 0;

/// The receiver should acknowledge at once.
pub(crate) const ACK_NOW: u8 = 1;
/// The put has an immediate.
pub(crate) const ANNOUNCE: u8 = 2;

/// The values before a frame's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    pub(crate) kind: FrameKind,
    pub(crate) flags: u8,
    pub(crate) imm: u32,
    /// How many numbered frames the sender of this one had received, modulo 2^32.
    pub(crate) ack: u32,
    /// Length of the body.
    pub(crate) len: u64,
    pub(crate) words: [u64; 4],
    /// CRC-32 of the body, if checksums are on.
    pub(crate) body_crc: u32,
}

impl Head {
    pub(crate) const fn new(kind: FrameKind, len: u64) -> Self {
        Self { kind, flags: 0, imm: 0, ack: 0, len, words: [0; 4], body_crc: 0 }
    }
}

/// The settings that both ends agreed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    /// Frames carry checks.
    pub(crate) checksum: bool,
    /// Longest body that is accepted.
    pub(crate) message_max: u64,
}

/// Why a head was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Malformed {
    /// A rule was broken. The number is the offending value.
    Rule(&'static str, u64),
    /// The check failed.
    Corrupt {
        /// The number of the expected frame.
        sequence: u64,
        /// The length in its header.
        size: u64,
    },
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

impl Format {
    /// How many bytes the head of a frame of this kind has.
    #[inline]
    pub(crate) const fn head_len(self, kind: FrameKind) -> usize {
        HEADER + if self.checksum { CHECK } else { 0 } + kind.words() * 8
    }

    /// Writes the head of the `sequence`th frame of its pair, and returns its length.
    #[inline]
    pub(crate) fn encode(self, head: &Head, sequence: u64, out: &mut [u8; HEAD_MAX]) -> usize {
        debug_assert!(head.len <= LENGTH_MAX);
        let first = head.len | (head.kind as u64) << 48 | u64::from(head.flags) << 56;
        out[..8].copy_from_slice(&first.to_le_bytes());
        out[8..16].copy_from_slice(&(u64::from(head.imm) | u64::from(head.ack) << 32).to_le_bytes());
        if !self.checksum && head.kind.words() == 0 {
            return HEADER;
        }
        let mut at = HEADER + if self.checksum { CHECK } else { 0 };
        for value in &head.words[..head.kind.words()] {
            out[at..at + 8].copy_from_slice(&value.to_le_bytes());
            at += 8;
        }
        if self.checksum {
            let words_crc = crc32fast::hash(&out[HEADER + CHECK..at]);
            out[HEADER + 4..HEADER + 8].copy_from_slice(&words_crc.to_le_bytes());
            out[HEADER + 8..HEADER + 12].copy_from_slice(&head.body_crc.to_le_bytes());
            out[HEADER + 12..HEADER + 16].copy_from_slice(&sequence.to_le_bytes()[..4]);
            let crc = head_crc(&out[..HEADER + CHECK]);
            out[HEADER..HEADER + 4].copy_from_slice(&crc.to_le_bytes());
        }
        at
    }

    /// Decodes the head at the start of `bytes`: its values and its length, or `None` if it is incomplete. The frame should
    /// be the `sequence`th of its pair (if the kind has no number: the number of the last frame that has one).
    #[inline]
    pub(crate) fn decode(self, bytes: &[u8], sequence: u64) -> Result<Option<(Head, usize)>, Malformed> {
        let fixed = self.head_len(FrameKind::Ack);
        if bytes.len() < fixed {
            return Ok(None);
        }
        let (first, second) = (word(bytes, 0), word(bytes, 8));
        let len = first & LENGTH_MAX;
        let [.., kind_byte, flags] = first.to_le_bytes();
        let kind = FrameKind::of(kind_byte);
        // The number that the frame should have.
        let sequence = sequence + u64::from(kind.is_some_and(FrameKind::numbered));
        let corrupt = Malformed::Corrupt { sequence, size: len };
        if self.checksum {
            let claimed = (number(bytes, HEADER), number(bytes, HEADER + 12).to_le_bytes());
            if claimed.0 != head_crc(&bytes[..fixed]) || claimed.1 != sequence.to_le_bytes()[..4] {
                return Err(corrupt);
            }
        }
        let Some(kind) = kind else {
            return Err(Malformed::Rule("an unknown kind of frame", u64::from(kind_byte)));
        };
        if len > self.message_max {
            return Err(Malformed::Rule("a frame above the limit of ++message-max", len));
        }
        if len > 0 && !kind.has_body() {
            return Err(Malformed::Rule("a body in a frame of a kind without body", len));
        }
        let total = self.head_len(kind);
        if bytes.len() < total {
            return Ok(None);
        }
        let mut head = Head::new(kind, len);
        head.flags = flags;
        head.imm = number(bytes, 8);
        head.ack = u32::try_from(second >> 32).expect("shifted to 32 bits");
        for (at, value) in head.words[..kind.words()].iter_mut().enumerate() {
            *value = word(bytes, fixed + at * 8);
        }
        if self.checksum {
            if number(bytes, HEADER + 4) != crc32fast::hash(&bytes[fixed..total]) {
                return Err(corrupt);
            }
            head.body_crc = number(bytes, HEADER + 8);
        }
        Ok(Some((head, total)))
    }
}

/// The CRC of a head without the CRC field itself.
fn head_crc(head: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[..HEADER]);
    crc.update(&head[HEADER + 4..]);
    crc.finalize()
}

/// Decoding any bytes ends without a panic.
#[cfg(test)]
fn accept_bytes(bytes: &[u8], checksum: bool) {
    let format = Format { checksum, message_max: 1 << 20 };
    let (mut at, mut sequence) = (0, 0);
    while let Ok(Some((head, head_len))) = format.decode(&bytes[at..], sequence) {
        assert!(head.len <= format.message_max);
        sequence += u64::from(head.kind.numbered());
        at += head_len + usize::try_from(head.len).expect("limited above");
        if at > bytes.len() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [FrameKind; 10] = [
        FrameKind::Ack,
        FrameKind::Resume,
        FrameKind::Gone,
        FrameKind::Data,
        FrameKind::Bye,
        FrameKind::Put,
        FrameKind::PutDone,
        FrameKind::Get,
        FrameKind::GetReply,
        FrameKind::Refused,
    ];

    fn head_of(kind: FrameKind, len: u64, words: [u64; 4]) -> Head {
        let mut head = Head::new(kind, if kind.has_body() { len } else { 0 });
        head.words[..kind.words()].copy_from_slice(&words[..kind.words()]);
        (head.flags, head.imm, head.ack) = (3, 0xdead_beef, 0x8765_4321);
        head
    }

    proptest! {
        #[test]
        fn a_head_is_decoded_as_encoded(
            kind in 0usize..10, len in 0u64..=LENGTH_MAX, words: [u64; 4], checksum: bool, sequence in 0u64..1 << 50,
        ) {
            let format = Format { checksum, message_max: LENGTH_MAX };
            let head = head_of(KINDS[kind], len, words);
            let mut bytes = [0; HEAD_MAX];
            let next = sequence + u64::from(head.kind.numbered());
            let n = format.encode(&head, next, &mut bytes);
            prop_assert_eq!(n, format.head_len(head.kind));
            prop_assert_eq!(format.decode(&bytes[..n], sequence), Ok(Some((head, n))));
            for cut in 0..n {
                prop_assert_eq!(format.decode(&bytes[..cut], sequence), Ok(None));
            }
        }

        #[test]
        fn with_checks_any_flipped_bit_of_a_head_is_detected(
            kind in 0usize..10, words: [u64; 4], sequence in 0u64..1000, bit in 0usize..HEAD_MAX * 8,
        ) {
            let format = Format { checksum: true, message_max: LENGTH_MAX };
            let head = head_of(KINDS[kind], 77, words);
            let mut bytes = [0; HEAD_MAX];
            let n = format.encode(&head, sequence + u64::from(head.kind.numbered()), &mut bytes);
            let bit = bit % (n * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let read = format.decode(&bytes[..n], sequence);
            prop_assert!(matches!(read, Err(Malformed::Corrupt { .. })), "{:?}", read);
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), checksum: bool) {
            accept_bytes(&bytes, checksum);
        }
    }

    #[test]
    fn a_length_above_the_limit_and_a_body_of_a_kind_without_body_are_refused() {
        let format = Format { checksum: false, message_max: 1000 };
        let mut bytes = [0; HEAD_MAX];
        for (kind, len, what) in [
            (FrameKind::Data, 1001, "a frame above the limit of ++message-max"),
            (FrameKind::Put, u64::MAX >> 16, "a frame above the limit of ++message-max"),
            (FrameKind::Ack, 1, "a body in a frame of a kind without body"),
        ] {
            format.encode(&Head::new(kind, len), 1, &mut bytes);
            assert_eq!(format.decode(&bytes, 0), Err(Malformed::Rule(what, len)));
        }
        bytes[6] = 99;
        assert_eq!(format.decode(&bytes, 0), Err(Malformed::Rule("an unknown kind of frame", 99)));
    }
}
