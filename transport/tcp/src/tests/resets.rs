//! Laws of connections that break while both ends live: a message arrives exactly once, or the peer is lost within bounded time.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::proxy::Proxy;
use super::{End, greet, two};
use crate::{TcpConfig, TcpFabric};
use charm4rs_transport_core::seed::Rng;
use charm4rs_transport_core::{Event, Imm, OpId, Pe, PostError, Posted, RegBuf, TransportError};
use charm4rs_transport_testkit::conformance::Watchdog;

/// Two processes that reach each other only through proxies.
fn apart(change: impl Fn(u32, &mut TcpConfig)) -> (Vec<TcpFabric>, Vec<Proxy>) {
    let fabrics = two(change);
    let proxies: Vec<Proxy> = fabrics.iter().zip(7..).map(|(fabric, seed)| Proxy::before(fabric, seed)).collect();
    let addresses: Vec<Vec<u8>> = proxies.iter().map(Proxy::publish).collect();
    fabrics.iter().for_each(|fabric| fabric.set_addresses(addresses.clone()));
    (fabrics, proxies)
}

/// Two connected ends, whose connections from now on each break within 600,000 bytes.
fn often_cut(checksum: bool) -> (Vec<TcpFabric>, Vec<Proxy>, End, End) {
    let (fabrics, proxies) = apart(|_, config| config.checksum = checksum);
    let (mut a, mut b) = (End::of(&fabrics, 0), End::of(&fabrics, 1));
    greet(&mut a, &mut b);
    proxies.iter().for_each(|proxy| proxy.mode.cut_within.store(600_000, Ordering::Release));
    proxies.iter().for_each(Proxy::cut);
    (fabrics, proxies, a, b)
}

fn contents(from: Pe, number: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut rng = Rng::stream(u64::from(from.0), u64::from(number));
    for byte in bytes.iter_mut().step_by(61) {
        *byte = u8::try_from(rng.below(256)).unwrap();
    }
    bytes
}

fn length(number: u32) -> usize {
    match number % 50 {
        7 => 200_000,
        13 => 9_000,
        31 if number % 200 == 31 => 1_200_000,
        n => n as usize * 20,
    }
}

#[test]
fn every_message_arrives_once_and_in_order_although_connections_break_repeatedly() {
    const COUNT: u32 = 600;
    let _watchdog = Watchdog::start("resets");
    for checksum in [false, true] {
        let (fabrics, proxies) = apart(|_, config| config.checksum = checksum);
        for proxy in &proxies {
            proxy.mode.cut_within.store(1_500_000, Ordering::Release);
        }
        let mut ends = [End::of(&fabrics, 0), End::of(&fabrics, 1)];
        let (mut sent, mut received) = ([0u32; 2], [0u32; 2]);
        while received != [COUNT; 2] {
            for at in 0..2 {
                let (me, peer) = (ends[at].end.pe(), ends[1 - at].end.pe());
                for _ in 0..3 {
                    let bytes = contents(me, sent[at], length(sent[at]));
                    if sent[at] < COUNT && ends[at].try_send(peer, sent[at], &bytes).is_ok() {
                        sent[at] += 1;
                    }
                }
                ends[at].poll().unwrap();
                for event in ends[at].events.drain(..) {
                    match event {
                        Event::Recv { from, imm, msg } => {
                            assert_eq!((from, imm), (peer, Imm(received[at])), "in order, none lost, none duplicated");
                            assert!(*msg == *contents(peer, imm.0, length(imm.0)), "message {}", imm.0);
                            received[at] += 1;
                        }
                        Event::Sent { .. } => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
        let cuts: u64 = proxies.iter().map(|proxy| proxy.mode.cuts.load(Ordering::Acquire)).sum();
        let resumed: u64 = fabrics.iter().map(|fabric| fabric.counters().resumed.load(Ordering::Relaxed)).sum();
        assert!(cuts > 5 && resumed > 5, "{cuts} cuts, {resumed} resumptions");
    }
}

#[test]
fn puts_and_gets_survive_cuts_too() {
    const LEN: usize = 2_000_000;
    let _watchdog = Watchdog::start("puts over resets");
    let (fabrics, proxies) = apart(|_, _| ());
    let (mut a, mut b) = (End::of(&fabrics, 0), End::of(&fabrics, 1));
    greet(&mut a, &mut b);
    proxies.iter().for_each(|proxy| proxy.mode.cut_within.store(9_000_000, Ordering::Release));
    proxies.iter().for_each(Proxy::cut);
    let window = b.end.expose(RegBuf::heap(LEN)).unwrap();
    for round in 0..12 {
        let data = contents(Pe(0), round, LEN);
        let put = a.end.put(Pe(1), RegBuf::copy_of(&data), &window.key, 0, Some(Imm(round)), OpId(1));
        assert!(put.is_ok());
        End::both(&mut a, &mut b, |a, b| !a.events.is_empty() && !b.events.is_empty());
        assert!(
            matches!(b.events[..], [Event::PutArrived { from: Pe(0), imm }] if imm == Imm(round)),
            "{:?}",
            b.events
        );
        assert!(matches!(a.events[..], [Event::Sent { op: OpId(1), buf: Some(_) }]), "{:?}", a.events);
        assert!(a.end.get(Pe(1), &window.key, 0, RegBuf::heap(LEN), OpId(2)).is_ok());
        a.events.clear();
        b.events.clear();
        End::both(&mut a, &mut b, |a, _| !a.events.is_empty());
        let Some(Event::Got { op: OpId(2), buf }) = a.events.pop() else { panic!("a get") };
        assert!(*buf == *data, "round {round}");
    }
    assert!(proxies.iter().any(|proxy| proxy.mode.cuts.load(Ordering::Acquire) > 0));
    drop(b.end.unexpose(window));
}

#[test]
fn puts_into_a_persistent_window_arrive_once_and_in_order_without_answers_although_connections_break() {
    const COUNT: u32 = 600;
    const LEN: usize = 1_200_000;
    let _watchdog = Watchdog::start("puts without answers over resets");
    for checksum in [false, true] {
        let (_fabrics, proxies, mut a, mut b) = often_cut(checksum);
        let window = b.end.expose_for_long(RegBuf::heap(LEN)).unwrap();
        let (mut put, mut pending) = (0, 0);
        let mut arrived = 0;
        while arrived < COUNT || pending > 0 {
            if put < COUNT {
                let bytes = contents(Pe(0), put, length(put));
                match a.end.put(Pe(1), RegBuf::copy_of(&bytes), &window.key, 0, Some(Imm(put)), OpId(1)) {
                    Ok(posted) => {
                        assert!(posted == Posted::Done || bytes.len() > 1_000, "{} bytes", bytes.len());
                        pending += u32::from(posted == Posted::Pending);
                        put += 1;
                    }
                    Err(PostError::Busy(_)) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
            a.poll().unwrap();
            b.poll().unwrap();
            for event in a.events.drain(..) {
                assert!(matches!(event, Event::Sent { op: OpId(1), .. }), "{event:?}");
                pending -= 1;
            }
            for event in b.events.drain(..) {
                assert!(matches!(event, Event::PutArrived { from: Pe(0), imm } if imm == Imm(arrived)), "{event:?}");
                arrived += 1;
            }
        }
        let last = contents(Pe(0), COUNT - 1, length(COUNT - 1));
        assert!(b.end.unexpose(window)[..last.len()] == last);
        let cuts: u64 = proxies.iter().map(|proxy| proxy.mode.cuts.load(Ordering::Acquire)).sum();
        assert!(cuts > 5, "{cuts} cuts");
    }
}

#[test]
fn a_put_into_a_persistent_window_that_is_closed_is_a_violation_and_touches_nothing() {
    let _watchdog = Watchdog::start("a late put");
    for len in [100, 100_000] {
        let fabrics = two(|_, _| ());
        super::wire_up(&fabrics);
        let (mut a, mut b) = (End::of(&fabrics, 0), End::of(&fabrics, 1));
        greet(&mut a, &mut b);
        let window = b.end.expose_for_long(RegBuf::heap(100_000)).unwrap();
        let key = window.key.clone();
        let buf = b.end.unexpose(window);
        assert!(a.end.put(Pe(1), RegBuf::copy_of(&vec![1; len]), &key, 0, Some(Imm(0)), OpId(1)).is_ok());
        let error = loop {
            a.poll().unwrap();
            if let Err(error) = b.poll() {
                break error;
            }
        };
        assert!(matches!(error, TransportError::Protocol { from: Pe(0), .. }) && error.code() == 76, "{error}");
        assert!(b.events.is_empty() && buf.iter().all(|&byte| byte == 0));
    }
}

#[test]
fn a_peer_that_cannot_be_reached_again_is_lost_in_time_and_operations_that_wait_for_it_fail() {
    let _watchdog = Watchdog::start("no reconnection");
    let (fabrics, proxies) = apart(|_, config| {
        config.reconnect = Duration::from_secs(1);
        config.liveness = None;
    });
    let (mut a, mut b) = (End::of(&fabrics, 0), End::of(&fabrics, 1));
    greet(&mut a, &mut b);
    proxies.iter().for_each(|proxy| proxy.mode.closed.store(true, Ordering::Release));
    proxies.iter().for_each(Proxy::cut);
    let begun = Instant::now();
    assert!(a.end.send(Pe(1), Imm(1), RegBuf::heap(2_000_000), OpId(5)).is_ok());
    End::both(&mut a, &mut b, |a, b| {
        let lost = |end: &End| end.events.iter().any(|event| matches!(event, Event::PeerLost { .. }));
        lost(a) && lost(b)
    });
    assert!(begun.elapsed() < Duration::from_secs(5), "faults.md, row 16");
    match &a.events[..] {
        [Event::Failed { op: OpId(5), buf: Some(_), error }, Event::PeerLost { pe: Pe(1), .. }] => {
            assert!(matches!(**error, TransportError::PeerDown { pe: Pe(1), .. }) && error.code() == 69, "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(a.send(Pe(1), 2, b"late"), Err(PostError::PeerDown(Pe(1), ()))));
}

#[test]
fn a_flipped_bit_is_detected_and_reported() {
    let _watchdog = Watchdog::start("corruption");
    let (fabrics, proxies) = apart(|_, config| config.checksum = true);
    let (mut a, mut b) = (End::of(&fabrics, 0), End::of(&fabrics, 1));
    greet(&mut a, &mut b);
    for proxy in &proxies {
        proxy.mode.flip.store(true, Ordering::Release);
    }
    a.send(Pe(1), 9, &contents(Pe(0), 9, 5_000)).unwrap();
    let error = loop {
        a.poll().unwrap();
        if let Err(error) = b.poll() {
            break error;
        }
        assert!(b.events.is_empty(), "{:?}", b.events);
    };
    assert!(matches!(error, TransportError::Corrupt { from: Pe(0), sequence: 2, size: 5_000 }), "{error}");
    assert_eq!(error.code(), 76);
}

#[test]
fn a_sender_holds_no_more_than_its_credit_and_one_message() {
    let _watchdog = Watchdog::start("credit");
    let fabrics = two(|_, config| config.credit = 100_000);
    super::wire_up(&fabrics);
    let (mut a, mut b) = (End::of(&fabrics, 0), End::of(&fabrics, 1));
    greet(&mut a, &mut b);
    let mut taken = 0;
    let mut refused = 0;
    // The kernel's own buffers accept some more.
    while refused < 1_000 {
        match a.end.send(Pe(1), Imm(taken), RegBuf::heap(10_000), OpId(0)) {
            Ok(_) => taken += 1,
            Err(PostError::Busy(buf)) => {
                assert_eq!(buf.len(), 10_000);
                refused += 1;
                a.poll().unwrap();
            }
            Err(e) => panic!("{e:?}"),
        }
    }
    assert_eq!(taken, 100_000u32.div_ceil(10_016), "nothing is acknowledged, so nothing is released");
    End::both(&mut a, &mut b, |_, b| b.events.len() == taken as usize);
    a.send(Pe(1), taken, b"there is room again").unwrap();
}

#[test]
fn the_largest_message_arrives_although_no_connection_lives_long_enough_for_it() {
    const LEN: usize = 6_000_000;
    let _watchdog = Watchdog::start("a message longer than any connection");
    for checksum in [false, true] {
        let (_fabrics, proxies, mut a, mut b) = often_cut(checksum);
        let window = b.end.expose(RegBuf::heap(LEN)).unwrap();
        let [message, put] = [1, 2].map(|number| contents(Pe(0), number, LEN));
        a.send(Pe(1), 1, &message).unwrap();
        let mut left = Some(RegBuf::copy_of(&put));
        while let Some(buf) = left.take() {
            match a.end.put(Pe(1), buf, &window.key, 0, Some(Imm(2)), OpId(2)) {
                Err(PostError::Busy(back)) => left = Some(back),
                outcome => assert!(outcome.is_ok(), "{outcome:?}"),
            }
            a.poll().unwrap();
            b.poll().unwrap();
        }
        let source = a.end.expose(RegBuf::copy_of(&message)).unwrap();
        assert!(b.end.get(Pe(0), &source.key, 0, RegBuf::heap(LEN), OpId(3)).is_ok());
        End::both(&mut a, &mut b, |_, b| b.events.len() == 3);
        b.events.sort_by_key(|event| match event {
            Event::Recv { .. } => 0,
            Event::PutArrived { .. } => 1,
            _ => 2,
        });
        let [Event::Recv { msg, .. }, Event::PutArrived { imm: Imm(2), .. }, Event::Got { buf, .. }] = &b.events[..]
        else {
            panic!("{:?}", b.events)
        };
        assert!(**msg == *message && **buf == *message);
        assert!(*b.end.unexpose(window) == *put);
        drop(a.end.unexpose(source));
        let cuts: u64 = proxies.iter().map(|proxy| proxy.mode.cuts.load(Ordering::Acquire)).sum();
        assert!(cuts > 10, "{cuts} cuts");
    }
}

#[test]
fn a_peer_is_lost_in_time_if_every_connection_breaks_before_anything_gets_through() {
    let _watchdog = Watchdog::start("nothing gets through");
    let (fabrics, proxies) = apart(|_, _| ());
    let (mut a, mut b) = (End::of(&fabrics, 0), End::of(&fabrics, 1));
    greet(&mut a, &mut b);
    // Enough for a handshake and a resumption.
    proxies.iter().for_each(|proxy| proxy.mode.cut_within.store(1, Ordering::Release));
    proxies.iter().for_each(Proxy::cut);
    let begun = Instant::now();
    a.send(Pe(1), 1, &contents(Pe(0), 1, 5_000)).unwrap();
    End::both(&mut a, &mut b, |a, b| {
        assert!(b.events.is_empty(), "{:?}", b.events);
        !a.events.is_empty()
    });
    assert!(begun.elapsed() < Duration::from_secs(6), "faults.md, row 16: within 5 s, {:?}", begun.elapsed());
    assert!(matches!(&a.events[..], [Event::PeerLost { pe: Pe(1), why }] if why.contains("breaks")), "{:?}", a.events);
}
