//! Laws of authentication: strangers are turned away, whatever they do, and the job is not disturbed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{End, JOB, config, greet, two, wire_up};
use crate::{Listen, TcpFabric, address};
use charm4rs_transport_core::auth::{CHALLENGE, Dialer, HELLO, Hello, Keys, PROOF, Purpose, Secret, Step, Terms};
use charm4rs_transport_core::{Event, Layout, Pe, TransportError};
use charm4rs_transport_testkit::conformance::Watchdog;

fn door(fabric: &TcpFabric) -> SocketAddr {
    address::decode(&fabric.publish())[0]
}

fn knock(fabric: &TcpFabric) -> TcpStream {
    let stream = TcpStream::connect(door(fabric)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// The dialer of PE 1, with a secret that may be wrong.
fn dialer(secret: u8, nonce: u8) -> Dialer {
    let terms = Terms { version: 1, digest: [3; 32] };
    let hello = Hello { purpose: Purpose::Data, terms, rank: 1, from: Pe(1), to: Pe(0), generation: 1 };
    Dialer::new(&Keys::new(JOB, &Secret::new([secret; 32])), hello, 0, [nonce; 32])
}

/// Whether the other end closes the connection.
fn hangs_up(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 512]), Ok(0) | Err(_))
}

#[test]
fn two_hundred_strangers_of_every_kind_do_not_disturb_a_job() {
    let _watchdog = Watchdog::start("strangers");
    let fabrics = two(|_, _| ());
    wire_up(&fabrics);
    // They all come before the job's own connections, and stay while it works.
    let strangers: Vec<TcpStream> = (0..200u32)
        .map(|number| {
            let mut stream = knock(&fabrics[number as usize % 2]);
            match number % 4 {
                0 => stream.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").unwrap(),
                1 => stream.write_all(&dialer(9, 1).hello()[..50]).unwrap(),
                2 => stream.write_all(&[0; HELLO]).unwrap(),
                _ => {}
            }
            stream
        })
        .collect();
    let (mut a, mut b) = (End::of(&fabrics, 0), End::of(&fabrics, 1));
    for _ in 0..100 {
        greet(&mut a, &mut b);
    }
    drop(strangers);
    greet(&mut a, &mut b);
    let counters = fabrics[0].counters();
    assert!(counters.strangers.load(Ordering::Relaxed) >= 50, "{counters:?}");
    assert!(counters.evicted.load(Ordering::Relaxed) <= 100, "{counters:?}");
}

#[test]
fn a_thousand_wrong_proofs_are_counted_and_change_nothing() {
    let _watchdog = Watchdog::start("wrong proofs");
    let fabrics = two(|_, _| ());
    wire_up(&fabrics);
    let (mut a, mut b) = (End::of(&fabrics, 0), End::of(&fabrics, 1));
    greet(&mut a, &mut b);
    for number in 0..1_000u32 {
        let mut stream = knock(&fabrics[0]);
        stream.write_all(dialer(9, 1).hello()).unwrap();
        let mut challenge = [0; CHALLENGE];
        stream.read_exact(&mut challenge).unwrap();
        stream.write_all(&[u8::try_from(number % 256).unwrap(); PROOF]).unwrap();
        assert!(hangs_up(&mut stream), "a wrong proof is refused");
        if number % 100 == 0 {
            greet(&mut a, &mut b);
        }
    }
    greet(&mut a, &mut b);
    assert_eq!(fabrics[0].counters().wrong_proofs.load(Ordering::Relaxed), 1_000);
}

#[test]
fn a_replayed_handshake_is_turned_away() {
    let _watchdog = Watchdog::start("replay");
    let fabrics = two(|_, _| ());
    wire_up(&fabrics);
    let mut dialer = dialer(9, 1);
    let mut stream = knock(&fabrics[0]);
    stream.write_all(dialer.hello()).unwrap();
    let mut challenge = [0; CHALLENGE];
    stream.read_exact(&mut challenge).unwrap();
    let Ok(Step::Reply((proof, _))) = dialer.accept_bytes(&challenge) else { panic!("a proof") };
    // An eavesdropper is quicker, on a connection of its own.
    let mut thief = knock(&fabrics[0]);
    thief.write_all(dialer.hello()).unwrap();
    thief.read_exact(&mut challenge).unwrap();
    thief.write_all(&proof).unwrap();
    assert!(hangs_up(&mut thief));
    assert_eq!(fabrics[0].counters().wrong_proofs.load(Ordering::Relaxed), 1);
}

#[test]
fn a_handshake_that_takes_too_long_is_dropped_and_others_are_accepted_meanwhile() {
    let _watchdog = Watchdog::start("slow handshakes");
    let fabrics = two(|_, config| config.handshake = Duration::from_millis(400));
    wire_up(&fabrics);
    let begun = Instant::now();
    let mut slow = knock(&fabrics[0]);
    slow.write_all(&dialer(9, 1).hello()[..95]).unwrap();
    let mut silent = knock(&fabrics[0]);
    let (mut a, mut b) = (End::of(&fabrics, 0), End::of(&fabrics, 1));
    greet(&mut a, &mut b);
    assert!(hangs_up(&mut slow) && hangs_up(&mut silent));
    assert!(begun.elapsed() >= Duration::from_millis(400));
    assert_eq!(fabrics[0].counters().timed_out.load(Ordering::Relaxed), 2);
}

/// The errors of both ends of a first message, in the order of their PEs.
fn errors(fabrics: &[TcpFabric]) -> [Option<TransportError>; 2] {
    let (mut a, mut b) = (End::of(fabrics, 0), End::of(fabrics, 1));
    b.send(Pe(0), 0, b"hello").unwrap();
    let mut errors = [None, None];
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until && !errors.iter().all(Option::is_some) {
        for (end, error) in [&mut a, &mut b].into_iter().zip(&mut errors) {
            *error = error.take().or(end.poll().err());
            assert!(!end.events.iter().any(|event| matches!(event, Event::Recv { .. })), "no message passes");
        }
    }
    errors
}

#[test]
fn two_processes_with_different_programs_refuse_each_other_with_both_values() {
    let _watchdog = Watchdog::start("digests");
    let fabrics = two(|process, config| config.digest = [u8::try_from(process).unwrap(); 32]);
    wire_up(&fabrics);
    for error in errors(&fabrics) {
        let error = error.unwrap();
        let text = error.to_string();
        assert!(error.code() == 76 && text.contains(&"00".repeat(32)) && text.contains(&"01".repeat(32)), "{text}");
    }
}

#[test]
fn a_process_of_the_job_with_a_wrong_secret_is_an_authentication_error() {
    let _watchdog = Watchdog::start("secrets");
    let fabrics = two(|process, config| {
        config.secret = Secret::new([u8::try_from(process).unwrap(); 32]);
        config.liveness = None;
        config.reconnect = Duration::from_millis(300);
    });
    wire_up(&fabrics);
    let [_, error] = errors(&fabrics);
    assert_eq!(error.map(|error| error.code()), Some(77));
}

/// Listens where an ended process did, and answers every HELLO as a member of the job would, but with a wrong proof.
fn impostor(door: SocketAddr) {
    let listener = loop {
        match TcpListener::bind(door) {
            Ok(listener) => break listener,
            // The process is about to go.
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut hello = [0; HELLO];
            if stream.read_exact(&mut hello).is_ok() {
                let mut challenge = [7; CHALLENGE];
                challenge[..8].copy_from_slice(&hello[..8]);
                let _ = stream.write_all(&challenge);
            }
        }
    });
}

#[test]
fn a_stranger_at_the_address_of_an_ended_process_is_not_an_authentication_error() {
    let _watchdog = Watchdog::start("an impostor");
    for liveness in [None, Some(crate::Liveness::default())] {
        let fabrics = two(|_, config| {
            config.reconnect = Duration::from_millis(300);
            config.liveness = liveness;
        });
        wire_up(&fabrics);
        let (mut a, mut b) = (End::of(&fabrics, 0), End::of(&fabrics, 1));
        greet(&mut a, &mut b);
        let door = door(&fabrics[1]);
        fabrics[1].vanish();
        impostor(door);
        drop(b);
        let lost = loop {
            let event = a.event().expect("a stranger ends no job");
            if let Event::PeerLost { pe, .. } = event {
                break pe;
            }
        };
        assert_eq!(lost, Pe(1));
        assert!(fabrics[0].counters().wrong_proofs.load(Ordering::Relaxed) > 0, "{:?}", fabrics[0].counters());
    }
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut config = config(&Arc::new(Layout::one_host(1, 1)), 0);
    config.port = Some(port);
    let error = TcpFabric::open(config).unwrap_err();
    assert!(error.code() == 71 && error.to_string().contains(&port.to_string()), "{error}");
}

#[test]
fn a_job_listens_on_loopback_only_and_ipv6_is_enough() {
    let _watchdog = Watchdog::start("IPv6");
    let fabrics = two(|_, _| ());
    assert!(fabrics.iter().all(|fabric| door(fabric).ip().is_loopback()));
    let fabrics = two(|_, config| config.listen = Listen::On(vec!["::1".parse().unwrap()]));
    assert!(fabrics.iter().all(|fabric| door(fabric).is_ipv6()));
    wire_up(&fabrics);
    let (mut a, mut b) = (End::of(&fabrics, 0), End::of(&fabrics, 1));
    greet(&mut a, &mut b);
}

mod alone {
    use super::*;

    #[test]
    fn ten_thousand_strangers_delay_the_start_of_a_job_by_at_most_a_second_and_are_counted() {
        const STRANGERS: u64 = 10_000;
        let _watchdog = Watchdog::start("ten thousand strangers");
        let fabrics = two(|_, _| ());
        let doors = [0, 1].map(|at| door(&fabrics[at]));
        let done = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut silent = Vec::new();
                for number in 0..STRANGERS {
                    let mut stream = TcpStream::connect(doors[usize::try_from(number % 2).unwrap()]).unwrap();
                    // A stranger that is evicted meanwhile may not be able to write any more.
                    match number / 2 % 5 {
                        0 => drop(stream),
                        1 => drop(stream.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")),
                        2 => drop(stream.write_all(&[0x16; HELLO])),
                        3 => {
                            let _ = stream.write_all(&dialer(9, 1).hello()[..90]);
                            silent.push(stream);
                        }
                        _ => silent.push(stream),
                    }
                    // The first of the silent ones stay for the whole test.
                    silent.truncate(300);
                    done.fetch_add(1, Ordering::Release);
                }
            });
            // The job starts in the middle of it.
            while done.load(Ordering::Acquire) < STRANGERS / 10 {
                std::thread::yield_now();
            }
            let begun = Instant::now();
            wire_up(&fabrics);
            let (mut a, mut b) = (End::of(&fabrics, 0), End::of(&fabrics, 1));
            greet(&mut a, &mut b);
            assert!(begun.elapsed() < Duration::from_secs(1), "faults.md, row 10: {:?}", begun.elapsed());
            while done.load(Ordering::Acquire) < STRANGERS {
                greet(&mut a, &mut b);
            }
        });
        let accepted = || fabrics.iter().map(|f| f.counters().accepted.load(Ordering::Relaxed)).sum::<u64>();
        while accepted() < STRANGERS {
            std::thread::yield_now();
        }
        let turned_away = |f: &TcpFabric| {
            let counters = f.counters();
            [&counters.strangers, &counters.evicted].map(|c| c.load(Ordering::Relaxed)).iter().sum::<u64>()
        };
        assert!(fabrics.iter().map(turned_away).sum::<u64>() > STRANGERS / 5, "{:?}", fabrics[0].counters());
    }
}
