//! Laws of the port without enough memory: a message that is too large is an error of its sender, and affects no other PE.

use std::collections::VecDeque;
use std::sync::Arc;

use super::tests::{bytes, message, next};
use super::*;
use crate::shm::ShmFabric;
use charm4rs_transport_core::memory::write_bytes;
use charm4rs_transport_testkit::conformance::Watchdog;

/// A pool that holds two large buffers and some small ones.
const POOL: usize = 72 << 20;
const LARGE: usize = 30 << 20;

fn two() -> [Port; 2] {
    let layout = Arc::new(Layout::one_host(2, 2));
    let fabrics = Fabrics { shm: Some(ShmFabric::alone_with(2, 1 << 16, POOL).unwrap()), ..Fabrics::default() };
    let options = TransportOptions { credit: 1 << 40, ..TransportOptions::default() };
    [0, 1].map(|pe| PortBuilder::new(Pe(pe), &layout, &fabrics, &options).unwrap().open().unwrap())
}

fn send(port: &mut Port, number: usize, payloads: &[usize]) {
    let payloads = payloads.iter().map(|len| RegBuf::heap(*len)).collect();
    port.send_payloads(Pe(1), Tag(9), 300, |to| write_bytes(to, &bytes(300, number)), payloads, false);
}

#[test]
fn a_payload_without_memory_comes_back_to_its_sender_and_the_other_messages_stay_in_order() {
    let _watchdog = Watchdog::start("no memory for a payload");
    let [mut zero, mut one] = two();
    let mut events = VecDeque::new();
    let mut kept = Vec::new();
    send(&mut zero, 0, &[LARGE]);
    send(&mut zero, 1, &[LARGE, 5_000]);
    send(&mut zero, 2, &[6_000, LARGE, 7_000]);
    send(&mut zero, 3, &[]);
    send(&mut zero, 4, &[8_000]);
    for (number, sizes) in [(0, &[LARGE][..]), (1, &[LARGE, 5_000]), (3, &[]), (4, &[8_000])] {
        let message = message(&mut one, &mut events);
        assert!(*message.msg == bytes(300, number), "message {number}");
        assert_eq!(message.payloads.iter().map(|p| p.len()).collect::<Vec<_>>(), sizes);
        kept.push(message);
    }
    let mut events = VecDeque::new();
    let PortEvent::Refused { to: Pe(1), tag: Tag(9), head, bytes: size } = next(&mut zero, &mut events) else {
        panic!("a refusal")
    };
    assert_eq!((&*head, size), (&bytes(256, 2)[..], (LARGE + 300 + 13_000) as u64));
    // With memory again it succeeds.
    kept.clear();
    send(&mut zero, 5, &[LARGE]);
    assert!(*message(&mut one, &mut VecDeque::new()).msg == bytes(300, 5));
}

#[test]
fn a_message_without_memory_comes_back_to_its_sender_with_its_payloads_forgotten() {
    let _watchdog = Watchdog::start("no memory for a message");
    let [mut zero, mut one] = two();
    let mut kept = Vec::new();
    for _ in 0..2 {
        send(&mut zero, 0, &[LARGE]);
        kept.push(message(&mut one, &mut VecDeque::new()));
    }
    for payloads in [vec![], vec![RegBuf::heap(100), RegBuf::heap(5_000)]] {
        zero.send_payloads(Pe(1), Tag(7), LARGE, |to| write_bytes(to, &bytes(LARGE, 1)), payloads, false);
        let refused = next(&mut zero, &mut VecDeque::new());
        let PortEvent::Refused { to: Pe(1), tag: Tag(7), head, .. } = refused else { panic!("{refused:?}") };
        assert_eq!(*head, bytes(256, 1)[..]);
        send(&mut zero, 2, &[400]);
        let after = message(&mut one, &mut VecDeque::new());
        assert!(*after.msg == bytes(300, 2) && after.payloads.len() == 1);
    }
}

#[test]
fn a_message_that_is_too_long_comes_back_or_is_a_violation_if_the_sender_sends_it_anyway() {
    let _watchdog = Watchdog::start("a message that is too long");
    const LIMIT: u64 = 100_000;
    let layout = Arc::new(Layout::one_host(2, 2));
    let fabrics = Fabrics { shm: Some(ShmFabric::alone_with(2, 1 << 16, POOL).unwrap()), ..Fabrics::default() };
    let ports = |limits: [u64; 2]| {
        [0, 1].map(|pe| {
            let options = TransportOptions { message_max: limits[pe], ..TransportOptions::default() };
            let pe = Pe(u32::try_from(pe).unwrap());
            PortBuilder::new(pe, &layout, &fabrics, &options).unwrap().open().unwrap()
        })
    };
    let [mut zero, mut one] = ports([LIMIT, LIMIT]);
    let mut events = VecDeque::new();
    for (len, payloads) in [(200_000, vec![]), (300, vec![60_000, 60_000]), (99_999, vec![2])] {
        let bytes = (len + payloads.iter().sum::<usize>()) as u64;
        let payloads = payloads.into_iter().map(RegBuf::heap).collect();
        zero.send_payloads(Pe(1), Tag(9), len, |to| write_bytes(to, &self::bytes(len, 1)), payloads, false);
        let refused = next(&mut zero, &mut events);
        let PortEvent::Refused { to: Pe(1), tag: Tag(9), head, bytes: said } = refused else { panic!("{refused:?}") };
        assert_eq!((&*head, said), (&self::bytes(len, 1)[..256], bytes));
    }
    send(&mut zero, 2, &[99_000]);
    assert!(*message(&mut one, &mut VecDeque::new()).msg == bytes(300, 2));
    drop((zero, one));

    let [mut zero, mut one] = ports([1 << 40, LIMIT]);
    zero.send_payloads(Pe(1), Tag(9), 300, |to| write_bytes(to, &bytes(300, 1)), vec![RegBuf::heap(200_000)], true);
    let error = loop {
        if let Err(error) = one.poll(&mut events, 16) {
            break error;
        }
    };
    assert!(error.code() == 76 && error.to_string().contains("++message-max"), "{error}");
}
