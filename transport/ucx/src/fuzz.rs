//! The entry point of the fuzzer: heads and bytes that UCX delivers from a faulty peer that knows this PE's pass, without a library.
//! No bytes may make it panic.

use std::sync::Arc;

use super::head::{HEAD_MAX, Head, HeadKind};
use super::inbox::{Arrival, Inbox, Turn};
use charm4rs_transport_core::in_order::InOrder;
use charm4rs_transport_core::memory::map::{HUGE, PAGE};
use charm4rs_transport_core::memory::pool::{Arena, Pool, fresh_tags};
use charm4rs_transport_core::memory::segment::Segment;
use charm4rs_transport_core::{Event, Imm, Pe, RegBuf};
use charm4rs_transport_testkit::fuzz::Input;

const PASS: u64 = 7;
const PES: u32 = 4;
const LEN: usize = 1_000;

/// Heads and bytes for a PE that has a window, each preceded by its length. If the length of a head is odd, its pass is corrected.
pub fn messages(input: &[u8]) {
    let arena = Arena::new(Arc::new(Segment::private(PAGE, HUGE).expect("memory")), fresh_tags());
    // Generations start at 1, so that a fuzzer can guess a key.
    let mut inbox = Inbox::new(PASS, PES, 0, Pool::new(Pe(0), Arc::new(arena)));
    let memory = RegBuf::heap(LEN);
    let (window, _) = inbox.windows.add(&memory, false);
    let mut puts: Vec<InOrder<Option<Imm>>> = (0..PES).map(|_| InOrder::default()).collect();
    let mut input = Input(input);
    while let Some(len) = input.u8() {
        let pass = PASS.to_le_bytes();
        let rest = input.bytes(usize::from(len >> 1).min(HEAD_MAX));
        let head = if len & 1 == 0 { rest.to_vec() } else { [&pass[..], rest].concat() };
        if let Some(head) = Head::decode(&head) {
            let mut bytes = [0; HEAD_MAX];
            let len = head.encode(&mut bytes);
            assert_eq!(Head::decode(&bytes[..len]), Some(head), "a decoded value encodes to the same bytes");
        }
        inbox.whole(&head, input.run().unwrap_or_default());
        while let Some(arrival) = inbox.arrivals.pop_front() {
            if !look(&mut inbox, &mut puts, arrival) {
                return;
            }
        }
    }
    assert!(inbox.windows.close(window), "no put is inside");
}

/// Handles an arrival like the endpoint, as far as no operation follows. Returns whether to continue.
fn look(inbox: &mut Inbox, puts: &mut [InOrder<Option<Imm>>], arrival: Arrival) -> bool {
    match arrival {
        Arrival::Whole(head, msg) => {
            let sender = inbox.sender(head.from);
            match head.kind {
                HeadKind::Message => {
                    let event = Event::Recv { from: head.from, imm: head.imm, msg };
                    inbox.turn(sender, head.number, Turn::Event(event)).is_some()
                }
                HeadKind::Bye => inbox.turn(sender, head.number, Turn::Bye).is_some(),
                HeadKind::Get => {
                    let [window, offset, _] = head.words;
                    if let Some(part) = inbox.windows.enter(window, offset, head.number as usize) {
                        assert!(part.len <= LEN, "a part is inside its window");
                        inbox.windows.leave(&part);
                    }
                    true
                }
                _ => true,
            }
        }
        Arrival::Placed(head, placed) => {
            let announced = (placed && head.kind == HeadKind::Put).then_some(head.imm);
            puts[head.from.0 as usize].take(head.number, announced, drop).is_ok()
        }
        Arrival::Offered(..) => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_corpus_of_ucx_messages_causes_no_panic() {
        charm4rs_transport_testkit::fuzz::replay("ucx", messages);
    }

    fn message(from: u32, number: u32, kind: u32, words: [u64; 3], body: &[u8]) -> Vec<u8> {
        let kinds = [HeadKind::Message, HeadKind::Bye, HeadKind::Put, HeadKind::QuietPut, HeadKind::Get, HeadKind::Got];
        let kind = kinds[kind as usize % kinds.len()];
        let head = Head { pass: PASS, from: Pe(from), imm: Imm(1), number, kind, words };
        let mut bytes = [0; HEAD_MAX];
        let len = head.encode(&mut bytes);
        let short = |len: usize| u8::try_from(len).unwrap();
        [&[short(len - 8) << 1 | 1], &bytes[8..len], &[short(body.len())], body].concat()
    }

    proptest! {
        #[test]
        fn messages_of_every_kind_with_any_contents_cause_no_panic(
            messages in prop::collection::vec((0..5u32, prop_oneof![0..4u32, any::<u32>()], 0..6u32, (0..3u64, 0..1_200u64, 0..2u64), prop::collection::vec(any::<u8>(), 0..40)), 0..12),
        ) {
            let bytes: Vec<u8> = messages.into_iter().flat_map(|(from, number, kind, (window, offset, op), body)| {
                message(from, number, kind, [window << 32, offset, op], &body)
            }).collect();
            super::messages(&bytes);
        }
    }
}
