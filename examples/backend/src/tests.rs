//! Tests with a peer that belongs to the job and sends arbitrary packets. The endpoint refuses packets that break the protocol, and changes no memory
//! outside of its windows.

use std::sync::Arc;

use charm4rs_transport_core::{Endpoint as _, Fabric as _, Imm, Layout, OpId, Pe, RegBuf, RemoteKey, TransportError};
use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::packet::Packet;
use crate::socket::{Dialed, Received, Sent};

/// An endpoint of PE 0, and the sockets of PE 1, whose part the test plays.
struct Trial {
    end: UnixEndpoint,
    listener: OwnedFd,
    address: Address,
}

impl Trial {
    fn new() -> Self {
        let layout = Arc::new(Layout::one_host(2, 1));
        let (own, mut other) = (Listening::open(&layout, 0, None).unwrap(), Listening::open(&layout, 1, None).unwrap());
        let address = own.sockets[0].1;
        let published = [own.publish(), other.publish()];
        let end = own.join(&published).unwrap().description(Pe(0)).open(&Doorbell::new().unwrap()).unwrap();
        Self { end, listener: other.sockets.remove(0).0, address }
    }

    /// A connection to the endpoint.
    fn dial(&self) -> OwnedFd {
        match socket::dial(&self.address).unwrap() {
            Dialed::Connected(socket) => socket,
            other => panic!("{other:?}"),
        }
    }

    /// Makes progress until the endpoint may sleep and no event is left that would wake it.
    fn settle(&mut self) -> Result<usize, TransportError> {
        let mut out = Vec::new();
        while self.end.progress(&mut out, 16)? > 0 || !self.end.arm() || self.is_woken() {}
        Ok(out.len())
    }

    fn is_woken(&self) -> bool {
        let fd = self.end.wait_fd().unwrap();
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&Timespec::default())).unwrap() > 0
    }
}

fn send(socket: &OwnedFd, packet: &Packet<'_>) -> bool {
    socket::send(socket, &packet.head(), packet.body()) == Sent::Done
}

/// Checks that the outcome is a success or an error of the protocol by the peer, and not an error of this end.
fn expect_protocol(outcome: Result<usize, TransportError>) {
    match outcome {
        Ok(_) | Err(TransportError::Protocol { from: Pe(1) | Pe(0), .. }) => {}
        Err(other) => panic!("{other}"),
    }
}

/// The fields of a packet of any kind.
type Fields = (u8, u32, u64, u64, Vec<u8>);

fn fields() -> impl Strategy<Value = Fields> {
    let window = prop_oneof![Just(0), any::<u64>()];
    (0u8..10, 0u32..200, window, 0u64..200, proptest::collection::vec(any::<u8>(), 0..40))
}

/// The packet for these fields. A window of 0 means the window that exists, `there`.
fn packet((kind, small, window, offset, body): &Fields, there: u64) -> Packet<'_> {
    let (window, offset) = (if *window == 0 { there } else { *window }, *offset);
    match kind {
        0 => Packet::Hello(Pe(*small)),
        1 => Packet::Put { window, offset, imm: None, body },
        2 | 3 => Packet::Put { window, offset, imm: Some(Imm(*small)), body },
        4 => Packet::Get { window, offset, len: *small },
        5 => Packet::Stored,
        6 => Packet::Data(body),
        7 => Packet::Refused,
        8 => Packet::Goodbye,
        _ => Packet::Message(Imm(*small), body),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn requests_of_any_kind_in_any_order_are_served_or_refused(sent in proptest::collection::vec(fields(), 1..30)) {
        let mut trial = Trial::new();
        let window = trial.end.expose(RegBuf::heap(128)).unwrap();
        let dialer = trial.dial();
        prop_assert!(send(&dialer, &Packet::Hello(Pe(1))));
        for fields in &sent {
            send(&dialer, &packet(fields, window.id.0));
        }
        expect_protocol(trial.settle());
        prop_assert_eq!(trial.end.unexpose(window).len(), 128);
    }

    #[test]
    fn answers_of_any_kind_in_any_order_are_taken_or_refused(sent in proptest::collection::vec(fields(), 1..10), ops in 0u64..6) {
        let mut trial = Trial::new();
        let key = RemoteKey { len: 128, bytes: 7u64.to_le_bytes().into() };
        trial.end.inject(Pe(1), Imm(0), 0, &mut |_| ()).unwrap();
        for op in 0..ops {
            let buf = RegBuf::heap(20);
            let _ = if op % 2 == 0 {
                trial.end.put(Pe(1), buf, &key, 0, None, OpId(op)).unwrap()
            } else {
                trial.end.get(Pe(1), &key, 0, buf, OpId(op)).unwrap()
            };
        }
        let dialed = socket::accept(&trial.listener).unwrap().unwrap();
        for fields in &sent {
            send(&dialed, &packet(fields, 0));
        }
        expect_protocol(trial.settle());
    }

    #[test]
    fn bytes_of_any_kind_are_refused(bytes in proptest::collection::vec(any::<u8>(), 1..100), greets: bool) {
        let mut trial = Trial::new();
        let dialer = trial.dial();
        if greets {
            prop_assert!(send(&dialer, &Packet::Hello(Pe(1))));
        }
        prop_assert_eq!(socket::send(&dialer, &bytes, &[]), Sent::Done);
        expect_protocol(trial.settle());
    }
}

#[test]
fn a_process_cannot_act_for_this_pe_nor_for_a_pe_that_does_not_exist_nor_connect_twice_for_its_own() {
    for pe in [0, 2, u32::MAX] {
        let mut trial = Trial::new();
        let dialer = trial.dial();
        assert!(send(&dialer, &Packet::Hello(Pe(pe))));
        assert_eq!(trial.settle().unwrap_err().code(), 76, "PE {pe}");
    }
    let mut trial = Trial::new();
    let dialers = [trial.dial(), trial.dial()];
    assert!(dialers.iter().all(|dialer| send(dialer, &Packet::Hello(Pe(1)))));
    assert_eq!(trial.settle().unwrap_err().code(), 76);
}

#[test]
fn a_packet_that_is_too_long_is_refused() {
    let mut trial = Trial::new();
    let dialer = trial.dial();
    assert!(send(&dialer, &Packet::Hello(Pe(1))));
    let head = Packet::Message(Imm(0), &[]).head();
    assert_eq!(socket::send(&dialer, &head, &vec![0; BODY_MAX + 1_000]), Sent::Done);
    assert_eq!(trial.settle().unwrap_err().code(), 76);
}

#[test]
fn a_connection_that_was_not_accepted_gets_a_goodbye_and_later_ones_are_refused() {
    let trial = Trial::new();
    let dialer = trial.dial();
    assert!(send(&dialer, &Packet::Hello(Pe(1))));
    let address = trial.address;
    Box::new(trial.end).close().unwrap();
    let mut buffer = [0; packet::HEAD];
    assert_eq!(socket::receive(&dialer, &mut buffer).unwrap(), Received::Packet(packet::HEAD));
    assert_eq!(Packet::read(&buffer), Ok(Packet::Goodbye));
    assert_eq!(socket::receive(&dialer, &mut buffer).unwrap(), Received::End);
    assert!(matches!(socket::dial(&address).unwrap(), Dialed::Gone));
}

#[test]
fn the_owner_of_a_window_reads_no_more_requests_while_an_answer_waits_and_continues_when_it_is_sent() {
    const GETS: usize = 200;
    let mut trial = Trial::new();
    let window = trial.end.expose(RegBuf::heap(BODY_MAX)).unwrap();
    let dialer = trial.dial();
    let len = u32::try_from(BODY_MAX).unwrap();
    assert!(send(&dialer, &Packet::Hello(Pe(1))));
    let (mut asked, mut answered, mut buffer) = (0, 0, vec![0; packet::HEAD + BODY_MAX]);
    while asked < GETS {
        if send(&dialer, &Packet::Get { window: window.id.0, offset: 0, len }) {
            asked += 1;
        } else {
            trial.settle().unwrap();
            assert!(!trial.end.links.is_empty() && trial.end.links.iter().flatten().all(link::Link::is_full));
            assert_eq!(socket::receive(&dialer, &mut buffer).unwrap(), Received::Packet(packet::HEAD + BODY_MAX));
            answered += 1;
        }
    }
    while answered < GETS {
        trial.settle().unwrap();
        while let Received::Packet(_) = socket::receive(&dialer, &mut buffer).unwrap() {
            answered += 1;
        }
    }
    drop(trial.end.unexpose(window));
}

#[test]
fn incomplete_addresses_of_a_process_are_refused() {
    let layout = Arc::new(Layout::one_host(2, 1));
    let opened = || Listening::open(&layout, 0, None).unwrap();
    let whole = opened().publish();
    assert_eq!(opened().join(&[whole.clone(), whole.clone()]).unwrap().caps().name, "extern:unix");
    for cut in [&[][..], &whole[1..], &[&whole[..], &[0]].concat()] {
        let error = opened().join(&[whole.clone(), cut.to_vec()]).unwrap_err();
        assert!(error.to_string().contains("the process of PE 1 published"), "{error}");
    }
}
