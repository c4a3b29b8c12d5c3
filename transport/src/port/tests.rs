//! The laws of the port, over threads and over shared memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::frame::Rts;
use super::*;
use crate::local::LocalFabric;
use crate::shm::ShmFabric;
use crate::wireup;
use charm4rs_transport_core::Fabric;
use charm4rs_transport_core::Imm;
use charm4rs_transport_core::TransportKind;
use charm4rs_transport_core::memory::inbox::Outbox;
use charm4rs_transport_core::memory::write_bytes;
use charm4rs_transport_core::ring::RecordKind;
use charm4rs_transport_testkit::conformance::Watchdog;
use charm4rs_transport_testkit::sim::{Config, Network};

pub(super) const KINDS: [TransportKind; 2] = [TransportKind::Local, TransportKind::Shm];

pub(super) fn options(kind: TransportKind) -> TransportOptions {
    TransportOptions { force: Some(kind), ring: 1 << 16, ..TransportOptions::default() }
}

/// Runs a role on each of two PEs.
pub(super) fn two(what: &str, options: &TransportOptions, one: impl FnOnce(Port) + Send, zero: impl FnOnce(Port)) {
    let _watchdog = Watchdog::start(what);
    let mut builders = wireup::local(Layout::one_host(2, 2), options).unwrap();
    let (b1, b0) = (builders.pop().unwrap(), builders.pop().unwrap());
    std::thread::scope(|s| {
        s.spawn(move || one(b1.open().unwrap()));
        zero(b0.open().unwrap());
    });
}

pub(super) fn next(port: &mut Port, events: &mut VecDeque<PortEvent>) -> PortEvent {
    loop {
        if let Some(event) = events.pop_front() {
            return event;
        }
        if port.poll(events, 64).unwrap() == 0 {
            port.park(Some(Duration::from_secs(1))).unwrap();
        }
    }
}

pub(super) fn message(port: &mut Port, events: &mut VecDeque<PortEvent>) -> Incoming {
    match next(port, events) {
        PortEvent::Message(m) => {
            port.took(&m);
            m
        }
        other => panic!("a message, not {other:?}"),
    }
}

pub(super) fn bytes(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i * 31 + seed * 17) % 251).unwrap()).collect()
}

#[test]
fn messages_of_all_sizes_arrive_in_order() {
    const SIZES: [usize; 11] = [0, 1, 47, 48, 49, 1023, 1024, 1025, 5000, 70_000, 3_000_000];
    for kind in KINDS {
        two(
            "sizes",
            &options(kind),
            |mut port| {
                for (i, len) in SIZES.into_iter().cycle().take(55).enumerate() {
                    port.send(Pe(0), Tag(9), len, |to| write_bytes(to, &bytes(len, i)));
                }
                port.close().unwrap();
            },
            |mut port| {
                let mut events = VecDeque::new();
                for (i, len) in SIZES.into_iter().cycle().take(55).enumerate() {
                    let m = message(&mut port, &mut events);
                    assert_eq!((m.from, m.tag, m.msg.as_ptr() as usize % 16), (Pe(1), Tag(9), 0));
                    assert!(*m.msg == bytes(len, i), "message {i} of {len} bytes");
                }
            },
        );
    }
}

#[test]
fn two_pes_that_flood_each_other_without_reading_both_end() {
    const COUNT: u32 = 20_000;
    for kind in KINDS {
        let flood = |mut port: Port| {
            let to = Pe(1 - port.pe().0);
            for i in 0..COUNT {
                port.send(to, Tag(1), 4, |at| write_bytes(at, &i.to_le_bytes()));
            }
            let mut events = VecDeque::new();
            for i in 0..COUNT {
                assert_eq!(*message(&mut port, &mut events).msg, i.to_le_bytes());
            }
            port.close().unwrap();
        };
        two("flood", &options(kind), flood, flood);
    }
}

#[test]
fn a_sender_never_has_more_than_its_credit_in_flight() {
    const CREDIT: u64 = 1 << 20;
    const LEN: usize = 300_000;
    for kind in KINDS {
        let options = TransportOptions { credit: CREDIT, may_block: false, ..options(kind) };
        two(
            "credit",
            &options,
            |mut port| {
                for _ in 0..40 {
                    port.send(Pe(0), Tag(1), LEN, |to| write_bytes(to, &bytes(LEN, 1)));
                    assert!(port.inner.accounts.debt(Pe(0)) <= CREDIT);
                }
                assert!(port.counters().backlogged >= 37);
                let mut events = VecDeque::new();
                while port.undelivered().is_some() {
                    port.poll(&mut events, 1).unwrap();
                    assert!(port.inner.accounts.debt(Pe(0)) <= CREDIT);
                    std::thread::yield_now();
                }
            },
            |mut port| {
                let mut events = VecDeque::new();
                for _ in 0..40 {
                    assert_eq!(message(&mut port, &mut events).msg.len(), LEN);
                }
            },
        );
    }
}

#[test]
fn payloads_arrive_with_their_message_and_change_owner_without_a_copy() {
    for kind in KINDS {
        two(
            "payloads",
            &options(kind),
            |mut port| {
                let mut large = port.alloc(5 << 20);
                large.copy_from_slice(&bytes(5 << 20, 2));
                let payloads = vec![large, RegBuf::copy_of(b"small"), RegBuf::from_vec(vec![1.5f64; 1000])];
                port.send_payloads(Pe(0), Tag(4), 3, |to| write_bytes(to, b"abc"), payloads, false);
                // Only payloads outside the pool are copied, and only between processes; small ones are part of a record.
                assert_eq!(port.counters().copies, u64::from(kind == TransportKind::Shm));
                port.close().unwrap();
            },
            |mut port| {
                let m = message(&mut port, &mut VecDeque::new());
                assert_eq!(port.counters().copies, 0);
                assert_eq!((&*m.msg, m.payloads.len()), (&b"abc"[..], 3));
                assert!(*m.payloads[0] == bytes(5 << 20, 2) && &*m.payloads[1] == b"small");
                assert_eq!(bytemuck::cast_slice::<u8, f64>(&m.payloads[2]), [1.5; 1000]);
            },
        );
    }
}

#[test]
fn an_offer_arrives_where_its_receiver_says() {
    for kind in KINDS {
        two(
            "offer",
            &options(kind),
            |mut port| {
                let payloads = [0, 100_000, 77, 2_000_000].map(|len| RegBuf::copy_of(&bytes(len, 5)));
                port.send_payloads(Pe(0), Tag(4), 3, |to| write_bytes(to, b"abc"), payloads.into(), true);
                port.close().unwrap();
            },
            |mut port| {
                let mut events = VecDeque::new();
                let PortEvent::Offer(offer) = next(&mut port, &mut events) else { panic!("an offer") };
                assert_eq!((&*offer.head, &*offer.sizes), (&b"abc"[..], &[0, 100_000, 77, 2_000_000][..]));
                let (heap, pooled) = (RegBuf::heap(100_000), port.alloc(2_000_000));
                let places = [heap.as_ptr() as usize, pooled.as_ptr() as usize];
                port.accept(offer.id, vec![None, Some(heap), None, Some(pooled)]);
                let m = message(&mut port, &mut events);
                assert_eq!((m.from, m.tag, &*m.msg), (Pe(1), Tag(4), &b"abc"[..]));
                for payload in m.payloads.iter() {
                    assert!(**payload == bytes(payload.len(), 5));
                }
                assert_eq!([&m.payloads[1], &m.payloads[3]].map(|p| p.as_ptr() as usize), places);
            },
        );
    }
}

#[test]
fn messages_and_offers_to_itself_are_delivered() {
    let mut port =
        wireup::local(Layout::one_host(1, 1), &TransportOptions::default()).unwrap().remove(0).open().unwrap();
    let mut events = VecDeque::new();
    port.send(Pe(0), Tag(1), 2, |to| write_bytes(to, b"hi"));
    port.send_payloads(Pe(0), Tag(2), 0, |_| {}, vec![RegBuf::copy_of(b"payload")], true);
    assert_eq!(&*message(&mut port, &mut events).msg, b"hi");
    let PortEvent::Offer(offer) = next(&mut port, &mut events) else { panic!("an offer") };
    let put_window = RegBuf::heap(7);
    let place = put_window.as_ptr();
    port.accept(offer.id, vec![Some(put_window)]);
    let m = message(&mut port, &mut events);
    assert_eq!((m.payloads[0].as_ptr(), &*m.payloads[0]), (place, &b"payload"[..]));
}

#[test]
fn a_panic_while_a_message_is_written_costs_only_that_message() {
    for kind in KINDS {
        two(
            "panic",
            &options(kind),
            |mut port| {
                let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    port.send(Pe(0), Tag(1), 100, |_| panic!("while it is written"));
                }));
                assert!(panicked.is_err());
                port.send(Pe(0), Tag(2), 0, |_| {});
                port.close().unwrap();
            },
            |mut port| assert_eq!(message(&mut port, &mut VecDeque::new()).tag, Tag(2)),
        );
    }
}

#[test]
fn a_sleeping_pe_is_woken_by_a_message_and_by_a_waker() {
    for kind in KINDS {
        let (tell, told) = std::sync::mpsc::channel();
        two(
            "sleep",
            &options(kind),
            |mut port| {
                let mut events = VecDeque::new();
                for _ in 0..200 {
                    let m = message(&mut port, &mut events);
                    port.send(m.from, m.tag, 0, |_| {});
                }
                tell.send(port.waker()).unwrap();
                // Until the waker.
                port.park(None).unwrap();
            },
            |mut port| {
                let mut events = VecDeque::new();
                for _ in 0..200 {
                    port.send(Pe(1), Tag(1), 0, |_| {});
                    message(&mut port, &mut events);
                }
                told.recv().unwrap().wake();
            },
        );
    }
}

#[derive(Debug)]
struct Scripted(Fate);

impl Faults for Scripted {
    fn fate(&self, _: Pe, _: Pe, tag: Tag, _: usize) -> Fate {
        if tag == Tag(66) { self.0 } else { Fate::Pass }
    }
}

#[test]
fn faults_are_injected_as_requested() {
    for (fate, expected) in [(Fate::Drop, &[1, 2][..]), (Fate::Delay(3), &[1, 66, 2]), (Fate::Pass, &[1, 66, 2])] {
        let options = TransportOptions { faults: Some(Arc::new(Scripted(fate))), ..options(TransportKind::Local) };
        two(
            "faults",
            &options,
            |mut port| {
                [1, 66, 2].into_iter().for_each(|tag| port.send(Pe(0), Tag(tag), 0, |_| {}));
                port.close().unwrap();
            },
            |mut port| {
                let mut events = VecDeque::new();
                let tags: Vec<_> = expected.iter().map(|_| message(&mut port, &mut events).tag.0).collect();
                assert_eq!(tags, expected);
            },
        );
    }
    let options = TransportOptions { faults: Some(Arc::new(Scripted(Fate::Kill))), ..options(TransportKind::Local) };
    let mut port = wireup::local(Layout::one_host(2, 2), &options).unwrap().remove(0).open().unwrap();
    port.send(Pe(1), Tag(66), 0, |_| {});
    let error = port.poll(&mut VecDeque::new(), 1).unwrap_err();
    assert!(matches!(error, TransportError::PeerDown { pe: Pe(1), .. }) && error.code() == 69);
}

/// A peer that speaks the seam, but not the port's protocol.
#[test]
fn frames_that_no_port_sends_are_an_error_that_names_the_sender() {
    let bad: [(u8, usize, &[u8]); 17] = [
        (frame::EAGER, 0, &[1, 0]),
        (frame::EAGER, 0, &[1, 1, 9, 0, 0, 0, b'8', b'b', b'y', b't', b'e', b's', b'.', b'.']),
        (frame::EAGER, 0, &[frame::FIRST, 1, 0, 0, 0, 0]),
        (frame::CREDIT, 0, b"12345678"),
        (frame::CREDIT, 0, b"123"),
        (frame::RTS, 0, b""),
        (frame::RTS, 0, &[0xff; 40]),
        (frame::CTS, 0, &[0; 12]),
        (frame::CTS, 0, b"x"),
        (frame::REFUSE, 0, &[0; 8]),
        (frame::HANDED, 0, b"buffer"),
        (frame::HANDED, 0xff_ffff, b"buffer"),
        (frame::FIN, 0, b""),
        (0xF7, 0, b""),
        (0xFF, 1, b"?"),
        (3, 1, b"a payload is missing"),
        (3, 0xff_ffff, b"many are missing"),
    ];
    for (tag, arg, body) in bad {
        let fabric = ShmFabric::alone(2, 1 << 16).unwrap();
        let layout = Arc::new(Layout::one_host(2, 1));
        let fabrics = Fabrics { shm: Some(fabric.clone()), ..Fabrics::default() };
        let mut port =
            PortBuilder::new(Pe(0), &layout, &fabrics, &TransportOptions::default()).unwrap().open().unwrap();
        let mut peer = fabric.builder(Pe(1)).build(&Doorbell::new().unwrap()).unwrap();
        peer.inject(Pe(0), frame::imm(tag, arg), body.len(), &mut |to| write_bytes(to, body)).unwrap();
        let mut events = VecDeque::new();
        let error = port.poll(&mut events, 10).expect_err("no port sends this");
        assert!(matches!(error, TransportError::Protocol { from: Pe(1), .. }), "{tag:#x}: {error}");
        assert!(error.code() == 76 && events.is_empty());
        peer.close().unwrap();
    }
}

/// A port of PE 0, of two processes in shared memory, and its inbox, as the other one writes it.
fn exposed() -> (Port, Outbox, Arc<ShmFabric>) {
    let fabric = ShmFabric::alone(2, 1 << 16).unwrap();
    let layout = Arc::new(Layout::one_host(2, 1));
    let local = LocalFabric::new(0..1, 1 << 16).unwrap();
    let fabrics = Fabrics { shm: Some(fabric.clone()), local: Some(local), net: None };
    let port = PortBuilder::new(Pe(0), &layout, &fabrics, &TransportOptions::default()).unwrap().open().unwrap();
    (port, Outbox::new(fabric.segment(Pe(0)).clone()), fabric)
}

/// Writes a record with `from` as its sender.
fn write(inbox: &mut Outbox, from: u32, kind: RecordKind, imm: Imm, body: &[u8]) {
    let mut claim = inbox.claim(body.len()).unwrap();
    write_bytes(claim.body(), body);
    claim.publish(Pe(from), kind, imm);
}

#[test]
fn a_record_that_names_this_process_as_its_sender_is_refused() {
    let rts = Rts { id: 1, tag: 1, offer: false, head_follows: false, sizes: vec![100], head: b"" }.encode();
    for (tag, body) in [(3, &b"a message"[..]), (frame::RTS, &rts)] {
        let (mut port, mut inbox, _fabric) = exposed();
        write(&mut inbox, 0, RecordKind::Message, frame::imm(tag, 0), body);
        let error = port.poll(&mut VecDeque::new(), 9).unwrap_err();
        assert!(matches!(error, TransportError::Protocol { from: Pe(0), .. }), "{tag:#x}: {error}");
    }
}

#[test]
fn a_payload_that_is_handed_over_cannot_be_announced_as_put() {
    let (mut port, mut inbox, _fabric) = exposed();
    let rts = Rts { id: 1, tag: 1, offer: false, head_follows: false, sizes: vec![100], head: b"" }.encode();
    write(&mut inbox, 1, RecordKind::Message, frame::imm(frame::RTS, 0), &rts);
    assert_eq!(port.poll(&mut VecDeque::new(), 9).unwrap(), 0);
    write(&mut inbox, 1, RecordKind::Put, frame::imm(frame::FIN, 0), b"");
    let error = port.poll(&mut VecDeque::new(), 9).unwrap_err();
    assert!(matches!(error, TransportError::Protocol { from: Pe(1), .. }), "{error}");
}

#[test]
fn notices_of_missing_memory_are_accepted_for_the_users_messages_only() {
    let missed = |tag, len| frame::Missed { imm: frame::imm(tag, 0), len }.encode();
    for own in [frame::RTS, frame::CTS, frame::CREDIT, frame::MISSED, 0xFF] {
        let (mut port, mut inbox, _fabric) = exposed();
        write(&mut inbox, 1, RecordKind::Message, frame::imm(frame::MISSED, 0), &missed(own, 1 << 62));
        let error = port.poll(&mut VecDeque::new(), 9).unwrap_err();
        assert!(matches!(error, TransportError::Protocol { from: Pe(1), .. }), "{own:#x}: {error}");
    }
    // However large the size in the notice.
    let (mut port, mut inbox, _fabric) = exposed();
    let rts = Rts { id: 1, tag: 1, offer: false, head_follows: false, sizes: vec![9; 3], head: b"" }.encode();
    write(&mut inbox, 1, RecordKind::Message, frame::imm(frame::RTS, 0), &rts);
    assert_eq!(port.poll(&mut VecDeque::new(), 9).unwrap(), 0);
    for _ in 0..2 {
        write(&mut inbox, 1, RecordKind::Message, frame::imm(frame::MISSED, 0), &missed(frame::HANDED, u64::MAX));
    }
    assert_eq!(port.poll(&mut VecDeque::new(), 9).unwrap(), 0);
}

#[test]
fn across_a_network_small_payloads_are_part_of_their_message_and_large_ones_are_not() {
    let network = Network::new(Config::reliable(Layout::one_host(2, 1), 1));
    let bell = Doorbell::new().unwrap();
    let mut ports =
        [0, 1].map(|pe| Port::over(network.endpoint(Pe(pe)), network.layout().clone(), <_>::default(), &bell));
    let small = ports[0].endpoint(Pe(1)).caps().inject_max;
    for (sizes, inside) in [(vec![1, 100, 0], true), (vec![100, small], false)] {
        let payloads = sizes.iter().map(|&len| RegBuf::copy_of(&vec![7; len])).collect();
        let before = network.statistics().packets;
        ports[0].send_payloads(Pe(1), Tag(5), 3, |to| write_bytes(to, b"abc"), payloads, false);
        let mut events = VecDeque::new();
        while events.is_empty() {
            network.next_ns().into_iter().for_each(|at_ns| network.advance_to(at_ns));
            ports.iter_mut().for_each(|port| _ = port.poll(&mut events, 9).unwrap());
        }
        let Some(PortEvent::Message(message)) = events.pop_front() else { panic!("{events:?}") };
        assert_eq!((message.tag, &message.msg[..]), (Tag(5), &b"abc"[..]));
        let arrived: Vec<_> = message.payloads.iter().map(|p| p.to_vec()).collect();
        assert_eq!(arrived, sizes.iter().map(|&len| vec![7; len]).collect::<Vec<_>>());
        assert_eq!(network.statistics().packets - before == 1, inside, "{sizes:?}");
    }
}

#[test]
fn counters_count_messages_by_reach() {
    let mut port =
        wireup::local(Layout::one_host(2, 2), &TransportOptions::default()).unwrap().remove(0).open().unwrap();
    port.send(Pe(0), Tag(1), 10, |to| write_bytes(to, &[0; 10]));
    port.send(Pe(1), Tag(1), 20, |to| write_bytes(to, &[0; 20]));
    port.send_payloads(Pe(1), Tag(1), 5, |to| write_bytes(to, &[0; 5]), vec![RegBuf::heap(1000)], false);
    port.poll(&mut VecDeque::new(), 10).unwrap();
    let counters = port.counters();
    let flow = |messages, bytes| Flow { messages, bytes };
    assert_eq!(counters.sent, [flow(1, 10), flow(2, 1025), flow(0, 0), flow(0, 0)]);
    assert_eq!(counters.received, [flow(1, 10), flow(0, 0), flow(0, 0), flow(0, 0)]);
}
