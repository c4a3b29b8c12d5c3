//! Laws of what an authenticated peer must not send: the error names the sender, and nothing is indexed or allocated by the data.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{End, JOB, two, wire_up};
use crate::frame::{Format, FrameKind, HEAD_MAX, Head, LENGTH_MAX};
use crate::{TcpFabric, address};
use charm4rs_transport_core::auth::{CHALLENGE, Dialer, Hello, Keys, Purpose, Secret, Step, Terms};
use charm4rs_transport_core::{Event, Pe, RegBuf, TransportError};
use charm4rs_transport_testkit::conformance::Watchdog;

const FORMAT: Format = Format { checksum: false, message_max: LENGTH_MAX };

fn encoded(kind: FrameKind, len: u64, ack: u32, words: [u64; 4]) -> Vec<u8> {
    let mut bytes = [0; HEAD_MAX];
    let head = Head { ack, words, ..Head::new(kind, len) };
    let n = FORMAT.encode(&head, 0, &mut bytes);
    bytes[..n].to_vec()
}

/// A connection of a proven PE 1 that can write arbitrary bytes.
fn impostor(fabric: &TcpFabric) -> TcpStream {
    let terms = Terms { version: 1, digest: [3; 32] };
    let hello = Hello { purpose: Purpose::Data, terms, rank: 1, from: Pe(1), to: Pe(0), generation: 1 };
    let mut dialer = Dialer::new(&Keys::new(JOB, &Secret::new([9; 32])), hello, 0, [4; 32]);
    let mut stream = TcpStream::connect(address::decode(&fabric.publish())[0]).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(dialer.hello()).unwrap();
    let mut challenge = [0; CHALLENGE];
    stream.read_exact(&mut challenge).unwrap();
    let Ok(Step::Reply((proof, _))) = dialer.accept_bytes(&challenge) else { panic!("a proof") };
    stream.write_all(&proof).unwrap();
    stream
}

const RESUME: (FrameKind, u64, u32, [u64; 4]) = (FrameKind::Resume, 0, 0, [0; 4]);

/// PE 0's reaction to these frames of PE 1.
fn verdict(frames: &[(FrameKind, u64, u32, [u64; 4])], tail: &[u8]) -> TransportError {
    let fabrics = two(|_, config| config.message_max = 1 << 20);
    wire_up(&fabrics);
    let mut end = End::of(&fabrics, 0);
    let mut stream = impostor(&fabrics[0]);
    for &(kind, len, ack, words) in frames {
        stream.write_all(&encoded(kind, len, ack, words)).unwrap();
    }
    stream.write_all(tail).unwrap();
    loop {
        if let Err(error) = end.poll() {
            return error;
        }
    }
}

#[test]
fn every_violation_names_its_sender_and_is_a_protocol_error() {
    let _watchdog = Watchdog::start("violations");
    let data = |len| (FrameKind::Data, len, 0, [0; 4]);
    let cases: Vec<(&str, Vec<_>, Vec<u8>)> = vec![
        ("a message before the resumption", vec![data(0)], vec![]),
        ("a second resumption", vec![RESUME, RESUME], vec![]),
        ("a length above the limit", vec![RESUME, data(1 << 40)], vec![]),
        ("an unknown kind", vec![RESUME], vec![0xee; 64]),
        ("an acknowledgement of what was never sent", vec![RESUME, (FrameKind::Ack, 0, 1, [0; 4])], vec![]),
        ("a resumption from the future", vec![(FrameKind::Resume, 0, 0, [5, 0, 0, 0])], vec![]),
        ("a resumption within a frame that was never sent", vec![(FrameKind::Resume, 0, 0, [0, 0, 1, 0])], vec![]),
        ("an answer to a put that was never posted", vec![RESUME, (FrameKind::PutDone, 0, 0, [1, 0, 0, 0])], vec![]),
        ("an answer to a get that was never posted", vec![RESUME, (FrameKind::GetReply, 10, 0, [1, 0, 0, 0])], vec![]),
        ("a put longer than allowed", vec![RESUME, (FrameKind::Put, 1 << 30, 0, [0; 4])], vec![]),
        ("a goodbye with a body", vec![RESUME, (FrameKind::Bye, 7, 0, [0; 4])], vec![]),
    ];
    for (what, frames, tail) in cases {
        let error = verdict(&frames, &tail);
        assert!(matches!(error, TransportError::Protocol { from: Pe(1), .. }), "{what}: {error}");
        assert_eq!(error.code(), 76, "{what}");
    }
}

#[test]
fn a_different_setting_of_checksums_is_a_version_error() {
    let error = verdict(&[(FrameKind::Resume, 0, 0, [0, 1, 0, 0])], &[]);
    assert!(matches!(error, TransportError::Version { .. }) && error.to_string().contains("checksum"), "{error}");
}

/// A put that the origin's own checks would have stopped is answered with a refusal; the connection lives.
#[test]
fn a_put_or_get_outside_a_window_is_refused_by_the_target_itself() {
    let _watchdog = Watchdog::start("forged puts");
    let fabrics = two(|_, _| ());
    wire_up(&fabrics);
    let mut end = End::of(&fabrics, 0);
    let window = end.end.expose(RegBuf::heap(100)).unwrap();
    let key = u64::from_le_bytes((*window.key.bytes).try_into().unwrap());
    let mut stream = impostor(&fabrics[0]);
    let mut frames = encoded(FrameKind::Resume, 0, 0, [0; 4]);
    let puts = [(key, 95, 1), (key, u64::MAX, 2), (key + (1 << 32), 0, 3), (key, 90, 4)];
    for (key, offset, operation) in puts {
        frames.extend(encoded(FrameKind::Put, 10, 0, [key, offset, operation, 0]));
        frames.extend([0xaa; 10]);
    }
    frames.extend(encoded(FrameKind::Get, 0, 0, [key, 50, 5, 51]));
    frames.extend(encoded(FrameKind::Get, 0, 0, [key, u64::MAX, 6, 2]));
    frames.extend(encoded(FrameKind::Data, 2, 0, [0; 4]));
    frames.extend(b"ok");
    stream.write_all(&frames).unwrap();
    assert!(matches!(end.event().unwrap(), Event::Recv { from: Pe(1), msg, .. } if *msg == *b"ok"));
    end.poll().unwrap();
    stream.set_nonblocking(false).unwrap();
    let mut answers = vec![0; 40 + 4 * 32 + 2 * 40];
    stream.read_exact(&mut answers).unwrap();
    let mut at = FORMAT.head_len(FrameKind::Resume);
    let mut answered = Vec::new();
    while let Some((head, head_len)) = FORMAT.decode(&answers[at..], 0).unwrap() {
        let status = if head.kind == FrameKind::PutDone { head.words[1] } else { head.words[2] };
        answered.push((head.kind, head.words[0], status));
        at += head_len;
    }
    let put = |operation, status| (FrameKind::PutDone, operation, status);
    let get = |operation| (FrameKind::GetReply, operation, 1);
    assert_eq!(answered, [put(1, 1), put(2, 1), put(3, 1), put(4, 0), get(5), get(6)]);
    let bytes = end.end.unexpose(window);
    assert!(bytes[..90].iter().all(|&b| b == 0) && bytes[90..].iter().all(|&b| b == 0xaa));
}
