//! Laws of liveness: silence is noticed, a computing PE is not considered dead, and a process that leaves normally is not reported.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::proxy::Proxy;
use super::{End, greet, open, two, wire_up};
use crate::{Liveness, TcpConfig, TcpFabric};
use charm4rs_transport_core::failure_detector::{FailureDetector as _, Loss};
use charm4rs_transport_core::{Doorbell, Event, Fabric as _, Layout, Pe};
use charm4rs_transport_testkit::conformance::Watchdog;

const QUICK: Liveness = Liveness { every: Duration::from_millis(100), silence: Duration::from_millis(500) };

fn quick(_: u32, config: &mut TcpConfig) {
    config.liveness = Some(QUICK);
}

#[test]
fn a_process_that_falls_silent_is_lost_and_the_reason_is_reported() {
    let _watchdog = Watchdog::start("silence");
    let fabrics = two(|_, _| ());
    let proxies: Vec<Proxy> = fabrics.iter().map(|fabric| Proxy::before(fabric, 1)).collect();
    let addresses: Vec<Vec<u8>> = proxies.iter().map(Proxy::publish).collect();
    fabrics.iter().for_each(|fabric| fabric.set_addresses(addresses.clone()));
    let (mut a, mut b) = (End::of(&fabrics, 0), End::of(&fabrics, 1));
    greet(&mut a, &mut b);
    let begun = Instant::now();
    proxies.iter().for_each(|proxy| proxy.mode.silent.store(true, Ordering::Release));
    let Event::PeerLost { pe, why } = a.event().unwrap() else { panic!("a loss") };
    assert!(begun.elapsed() < Duration::from_secs(7), "faults.md, row 18: within 6 s, {:?}", begun.elapsed());
    assert_eq!(pe, b.end.pe());
    assert!(why.contains("unresponsive"), "{why}");
    assert!(matches!(b.event().unwrap(), Event::PeerLost { .. }), "the other end notices, too");
}

#[test]
fn a_computing_pe_is_not_considered_dead_and_finds_its_messages_afterwards() {
    let _watchdog = Watchdog::start("computing");
    let fabrics = two(quick);
    wire_up(&fabrics);
    let (mut a, mut b) = (End::of(&fabrics, 0), End::of(&fabrics, 1));
    greet(&mut a, &mut b);
    a.send(b.end.pe(), 1, b"read this later").unwrap();
    // B does nothing for six times the allowed silence.
    let until = Instant::now() + 6 * QUICK.silence;
    while Instant::now() < until {
        a.poll().unwrap();
    }
    assert!(a.events.is_empty(), "{:?}", a.events);
    assert!(matches!(b.event().unwrap(), Event::Recv { msg, .. } if *msg == *b"read this later"));
}

#[test]
fn without_liveness_a_silent_process_is_not_lost() {
    let _watchdog = Watchdog::start("no liveness");
    let fabrics = two(|_, config| config.liveness = None);
    let proxies: Vec<Proxy> = fabrics.iter().map(|fabric| Proxy::before(fabric, 1)).collect();
    let addresses: Vec<Vec<u8>> = proxies.iter().map(Proxy::publish).collect();
    fabrics.iter().for_each(|fabric| fabric.set_addresses(addresses.clone()));
    let (mut a, mut b) = (End::of(&fabrics, 0), End::of(&fabrics, 1));
    greet(&mut a, &mut b);
    proxies.iter().for_each(|proxy| proxy.mode.silent.store(true, Ordering::Release));
    let until = Instant::now() + Duration::from_secs(7);
    while Instant::now() < until {
        a.poll().unwrap();
    }
    assert!(a.events.is_empty(), "{:?}", a.events);
}

#[test]
fn a_process_whose_connections_break_for_a_moment_is_not_lost() {
    let _watchdog = Watchdog::start("cut control connections");
    let fabrics = two(quick);
    let proxies: Vec<Proxy> = fabrics.iter().map(|fabric| Proxy::before(fabric, 1)).collect();
    let addresses: Vec<Vec<u8>> = proxies.iter().map(Proxy::publish).collect();
    fabrics.iter().for_each(|fabric| fabric.set_addresses(addresses.clone()));
    let (mut a, mut b) = (End::of(&fabrics, 0), End::of(&fabrics, 1));
    for round in 0..5 {
        greet(&mut a, &mut b);
        proxies.iter().for_each(Proxy::cut);
        let until = Instant::now() + QUICK.silence;
        End::both(&mut a, &mut b, |_, _| Instant::now() > until);
        assert!(a.events.is_empty() && b.events.is_empty(), "round {round}: {:?} {:?}", a.events, b.events);
    }
}

#[test]
fn a_process_that_closes_normally_is_not_reported_lost() {
    let _watchdog = Watchdog::start("goodbye");
    let mut fabrics = two(quick);
    wire_up(&fabrics);
    let (mut a, b) = (End::of(&fabrics, 0), fabrics[1].builder(charm4rs_transport_core::Pe(1)));
    let (closed, is_closed) = std::sync::mpsc::channel();
    let other = fabrics.pop().unwrap();
    let thread = std::thread::spawn(move || {
        let bell = charm4rs_transport_core::Doorbell::new().unwrap();
        let mut end = End { end: b.build(&bell).unwrap(), events: Vec::new(), _bell: bell };
        assert!(matches!(end.event().unwrap(), Event::Recv { .. }));
        end.send(charm4rs_transport_core::Pe(0), 0, b"farewell").unwrap();
        end.end.close().unwrap();
        drop(other);
        closed.send(()).unwrap();
    });
    a.send(charm4rs_transport_core::Pe(1), 0, b"hello").unwrap();
    while is_closed.try_recv().is_err() {
        a.poll().unwrap();
    }
    thread.join().unwrap();
    let until = Instant::now() + 3 * QUICK.silence;
    while Instant::now() < until {
        a.poll().unwrap();
    }
    assert!(matches!(&a.events[..], [Event::Recv { msg, .. }] if **msg == *b"farewell"), "{:?}", a.events);
    a.end.close().unwrap();
}

#[test]
fn a_detector_without_endpoints_reports_neighbours_that_vanish_and_none_that_leave() {
    let _watchdog = Watchdog::start("failure events");
    for dies in [true, false] {
        let fabrics = open(Layout::one_host(3, 1), quick);
        wire_up(&fabrics);
        let bells: Vec<Doorbell> = fabrics.iter().map(|_| Doorbell::new().unwrap()).collect();
        let mut events: Vec<_> = (0..3).map(|pe| fabrics[pe as usize].subscribe(Pe(pe), &bells[pe as usize])).collect();
        // Every process knows its neighbours: with three processes, both others.
        let proven = |fabric: &TcpFabric| fabric.counters().proven.load(Ordering::Relaxed);
        while fabrics.iter().any(|fabric| proven(fabric) == 0) {
            std::thread::yield_now();
        }
        let mut fabrics = fabrics;
        let last = fabrics.pop().unwrap();
        if dies {
            last.vanish();
        }
        drop(events.pop());
        drop(last);
        if dies {
            while !events[1].has_events() {
                std::thread::yield_now();
            }
            let losses = events[1].take().unwrap();
            assert!(matches!(losses[..], [Loss { process: 2, .. }]), "{losses:?}");
        } else {
            // Twice as long as a silent process may live: a process that leaves normally is not reported.
            let until = Instant::now() + 2 * QUICK.silence;
            while Instant::now() < until {
                assert!(!events[0].has_events() && !events[1].has_events());
                std::thread::yield_now();
            }
        }
    }
}
