//! Laws of credit: messages that a receiver has not taken limit what its senders send, and no sender waits without end.

use std::collections::VecDeque;

use super::tests::{KINDS, message, next, options, two};
use super::*;
use crate::wireup;
use charm4rs_transport_core::TransportKind;
use charm4rs_transport_core::memory::write_bytes;
use charm4rs_transport_testkit::conformance::Watchdog;

const CREDIT: u64 = 100_000;

/// A message of 36 bytes costs 100.
const LEN: usize = 36;

fn send(port: &mut Port, to: Pe, number: u32) {
    port.send(to, Tag(1), LEN, |body| {
        let (number_of, rest) = body.split_at_mut(4);
        write_bytes(number_of, &number.to_le_bytes());
        write_bytes(rest, &[7; LEN - 4]);
    });
}

fn number(message: &Incoming) -> u32 {
    u32::from_le_bytes(message.msg[..4].try_into().unwrap())
}

#[test]
fn a_receiver_gets_no_more_small_messages_than_the_credit_until_it_takes_them() {
    for kind in KINDS {
        let options = TransportOptions { credit: CREDIT, may_block: false, ..options(kind) };
        two(
            "small messages without credit",
            &options,
            |mut port| {
                (0..5_000).for_each(|i| send(&mut port, Pe(0), i));
                assert!(port.inner.accounts.debt(Pe(0)) <= CREDIT && port.counters().backlogged >= 4_000);
                port.close().unwrap();
            },
            |mut port| {
                let mut events = VecDeque::new();
                // All messages that the credit allows arrive, and then no more, however often the receiver polls.
                while events.len() < 1_000 {
                    port.poll(&mut events, 64).unwrap();
                }
                for _ in 0..10_000 {
                    port.poll(&mut events, 64).unwrap();
                }
                assert_eq!(events.len(), 1_000);
                (0..5_000).for_each(|i| assert_eq!(number(&message(&mut port, &mut events)), i));
            },
        );
    }
}

#[test]
fn memory_of_moved_values_counts_between_threads() {
    let options = TransportOptions { credit: CREDIT, may_block: false, ..options(TransportKind::Local) };
    two(
        "weights",
        &options,
        |mut port| {
            for i in 0..100u8 {
                port.send_charged(Pe(0), Tag(2), Charge::weighing(30_000), 1, |body| write_bytes(body, &[i]));
            }
            assert_eq!(port.counters().backlogged, 97);
            port.close().unwrap();
        },
        |mut port| {
            let mut events = VecDeque::new();
            (0..100u8).for_each(|i| assert_eq!(*message(&mut port, &mut events).msg, [i]));
        },
    );
}

#[test]
fn pes_that_flood_each_other_in_a_circle_without_taking_anything_all_end() {
    // More than one credit each, which none of them can get while no PE takes messages.
    const COUNT: u32 = 5_000;
    for kind in KINDS {
        let _watchdog = Watchdog::start("a circle of floods");
        let options = TransportOptions { credit: CREDIT, ..options(kind) };
        let builders = wireup::local(Layout::one_host(3, 3), &options).unwrap();
        std::thread::scope(|s| {
            for builder in builders {
                s.spawn(move || {
                    let mut port = builder.open().unwrap();
                    let to = Pe((port.pe().0 + 1) % 3);
                    (0..COUNT).for_each(|i| send(&mut port, to, i));
                    let mut events = VecDeque::new();
                    (0..COUNT).for_each(|i| assert_eq!(number(&message(&mut port, &mut events)), i));
                    port.close().unwrap();
                });
            }
        });
    }
}

#[test]
fn a_sender_that_waits_for_a_member_of_a_circle_ends_too() {
    const COUNT: u32 = 3_000;
    for kind in KINDS {
        let _watchdog = Watchdog::start("a sender in front of a circle");
        let options = TransportOptions { credit: CREDIT, ..options(kind) };
        let builders = wireup::local(Layout::one_host(3, 3), &options).unwrap();
        std::thread::scope(|s| {
            for builder in builders {
                s.spawn(move || {
                    let mut port = builder.open().unwrap();
                    // PE 2 floods PE 0, which floods PE 1 and is flooded by it.
                    let (to, from) = match port.pe().0 {
                        0 => (Pe(1), 2 * COUNT),
                        1 => (Pe(0), COUNT),
                        _ => (Pe(0), 0),
                    };
                    (0..COUNT).for_each(|i| send(&mut port, to, i));
                    let mut events = VecDeque::new();
                    (0..from).for_each(|_| drop(message(&mut port, &mut events)));
                    port.close().unwrap();
                });
            }
        });
    }
}

#[test]
fn held_messages_leave_once_there_is_credit_and_their_sender_is_told() {
    for kind in KINDS {
        let options = TransportOptions { credit: CREDIT, ..options(kind) };
        two(
            "held messages",
            &options,
            |mut port| {
                port.hold_from_now();
                (0..1_000).for_each(|i| send(&mut port, Pe(0), i));
                assert_eq!(port.held_meanwhile(), [], "there is credit for all");
                port.hold_from_now();
                (1_000..1_002).for_each(|i| send(&mut port, Pe(0), i));
                let held = port.held_meanwhile();
                assert!(held.len() == 2 && held.iter().all(|id| port.is_held(*id)));
                let mut events = VecDeque::new();
                while held.iter().any(|id| port.is_held(*id)) {
                    assert!(matches!(next(&mut port, &mut events), PortEvent::Room));
                }
                port.close().unwrap();
            },
            |mut port| {
                let mut events = VecDeque::new();
                (0..1_002).for_each(|i| assert_eq!(number(&message(&mut port, &mut events)), i));
            },
        );
    }
}

#[test]
fn a_sender_without_credit_continues_when_its_receiver_has_closed() {
    for kind in KINDS {
        let options = TransportOptions { credit: CREDIT, ..options(kind) };
        two(
            "a receiver that closes",
            &options,
            |mut port| {
                (0..10_000).for_each(|i| send(&mut port, Pe(0), i));
                port.close().unwrap();
            },
            |mut port| {
                let mut events = VecDeque::new();
                while events.len() < 1_000 {
                    port.poll(&mut events, 64).unwrap();
                }
                port.close().unwrap();
            },
        );
    }
}
