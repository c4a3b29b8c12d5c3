//! The entry point of the fuzzer: messages of a faulty peer that knows the job's token, without a library. No bytes may make it
//! panic.

use super::link::{Frame, Link};
use super::memory::Windows;
use super::wire::{Header, Sealer};
use charm4rs_transport_core::auth::Secret;
use charm4rs_transport_core::memory::Slab;
use charm4rs_transport_core::{Pe, RegBuf, RemoteKey};
use charm4rs_transport_testkit::fuzz::Input;

const LEN: usize = 1_000;

/// Messages to a PE that has a window, each preceded by its length. The first bit of the length says that the token precedes the message; a
/// stranger does not have it. Messages that come in the order of their sender are processed.
pub fn messages(input: &[u8]) {
    let sealer = Sealer::new(&Secret::new([7; 32]));
    let (slab, mut link) = (Slab::new(), Link::new(Pe(1)));
    let mut windows = Windows::new().expect("random bytes");
    // Window numbers start at 0, so that a fuzzer can guess one.
    let mut memory = RegBuf::heap(LEN);
    windows.open_by_messages(0, &mut memory);
    let mut input = Input(input);
    while let Some(len) = input.u8() {
        let bytes = input.bytes(usize::from(len >> 1));
        let key = RemoteKey { len: len.into(), bytes: bytes.into() };
        // A fuzzer observes comparisons, so in time it learns the seal.
        let _ = sealer.open(Pe(1), &key);
        let with_token = [&sealer.token.to_le_bytes()[..], bytes].concat();
        let whole = if len & 1 == 0 { &with_token[..] } else { bytes };
        let Some((header, body)) = Header::decode(whole, sealer.token) else { continue };
        assert_eq!(
            header.encode(sealer.token),
            whole[..whole.len() - body.len()],
            "a decoded value encodes to the same bytes"
        );
        if header.from != link.peer {
            continue;
        }
        if take(&header, body, &slab, &mut link, &mut windows).is_none() {
            break;
        }
    }
}

fn take(header: &Header, body: &[u8], slab: &Slab, link: &mut Link, windows: &mut Windows) -> Option<()> {
    let frame = Frame::new(header, body, slab).ok()?;
    link.take(header.number, frame).ok()?;
    while let Some(frame) = link.in_order.next() {
        match frame {
            Frame::Fill(_, msg) => windows.fill(&msg).then_some(())?,
            Frame::Ask(question) => {
                let allowed = windows.allows(question);
                let memory = windows.memory(question).map(|memory| memory.len());
                assert_eq!(memory.is_some(), allowed, "an allowed range exists");
            }
            Frame::Data(..) | Frame::Announce(_) | Frame::Answer(_) | Frame::Bye | Frame::ByeAck => {}
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::wire::{PacketKind, Question};
    use super::*;

    #[test]
    fn the_corpus_of_libfabric_messages_causes_no_panic() {
        charm4rs_transport_testkit::fuzz::replay("ofi", messages);
    }

    /// A message in the format of the fuzz target.
    fn message(from: u32, number: u32, kind: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Header { from: Pe(from), imm: 1, number, kind: PacketKind::Data }.encode(0)[8..].to_vec();
        bytes[12..16].copy_from_slice(&kind.to_le_bytes());
        bytes.extend(&body[..body.len().min(100)]);
        [&[u8::try_from(bytes.len() << 1).unwrap()], &bytes[..]].concat()
    }

    proptest! {
        #[test]
        fn messages_of_every_kind_with_any_contents_cause_no_panic(
            messages in prop::collection::vec((0..3u32, 0..4u32, 0..10u32, prop::option::of((0..2u64, 0..1_200u64, 0..40u64)), prop::collection::vec(any::<u8>(), 0..40)), 0..12),
        ) {
            let bytes: Vec<u8> = messages.into_iter().flat_map(|(from, number, kind, question, body)| {
                let question = question.map(|(window, offset, len)| Question { window, offset, len }.encode());
                message(from, number, kind, &[question.as_ref().map_or(&[][..], |bytes| bytes), &body].concat())
            }).collect();
            super::messages(&bytes);
        }
    }
}
