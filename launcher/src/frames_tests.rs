//! Tests that frames survive transmission, and that other bytes are not accepted as frames.

use charm4rs_transport_core::Layout;
use charm4rs_transport_core::auth::{JobId, Secret};
use proptest::prelude::*;

use super::*;

fn order() -> ToAgent {
    ToAgent::Order(Box::new(Order {
        welcome: Welcome {
            rank: 2,
            job: JobId(*b"01234567"),
            secret: Secret::new([7; 32]),
            group: 0,
            layout: Layout::new(&[2, 2, 1], &[2, 1]),
            options: vec![("seed".into(), "9".into())],
            toward: vec!["a".into()],
        },
        program: b"./prog".to_vec(),
        args: vec![b"a b".to_vec(), Vec::new()],
        folder: b"/home".to_vec(),
        env: vec![b"A=1".to_vec(), b"B=\xff".to_vec()],
    }))
}

fn to_agent() -> Vec<ToAgent> {
    vec![
        order(),
        ToAgent::Packet { rank: 1, packet: ToProcess::Fenced.encode() },
        ToAgent::Signal(9),
        ToAgent::SignalOne { rank: 3, signal: 2 },
        ToAgent::Ping(7),
        ToAgent::Taken(1 << 20),
        ToAgent::Finish,
    ]
}

fn to_home() -> Vec<ToHome> {
    let news = |news| ToHome::News { rank: 4, news };
    vec![
        ToHome::Hello(77),
        news(News::Started(78)),
        news(News::Said(ToLauncher::Fence)),
        news(News::Broke(76, "what".into())),
        news(News::LineLost),
        news(News::Died(Death { how: Ending::Signal(9), resident_kib_max: 1 << 40 })),
        news(News::Died(Death { how: Ending::Code(3), resident_kib_max: 0 })),
        ToHome::Printed { rank: 4, which: 1, bytes: b"text\n".to_vec() },
        ToHome::Printed { rank: 4, which: 0, bytes: Vec::new() },
        ToHome::Failed { code: 78, what: "no such file".into() },
        ToHome::Pong(7),
        ToHome::Done,
    ]
}

/// All frames of a stream that arrives in pieces, and its result.
fn read<F: Frame>(stream: &[u8], piece: usize) -> (Vec<F>, Result<(), WireError>) {
    let mut incoming = Incoming::default();
    let mut frames = Vec::new();
    for bytes in stream.chunks(piece) {
        incoming.take(bytes);
        loop {
            match incoming.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    (frames, Ok(()))
}

fn stream<F: Frame>(frames: &[F]) -> Vec<u8> {
    [opening(), frames.iter().flat_map(Frame::to_bytes).collect()].concat()
}

#[test]
fn every_frame_survives_the_way_in_pieces_of_any_size() {
    for piece in [1, 2, 7, 1 << 20] {
        assert_eq!(read(&stream(&to_agent()), piece), (to_agent(), Ok(())));
        assert_eq!(read(&stream(&to_home()), piece), (to_home(), Ok(())));
    }
}

#[test]
fn what_a_login_shell_says_first_is_kept_as_words() {
    let mut incoming = Incoming::default();
    incoming.take(b"Welcome to this machine!\n");
    assert_eq!(incoming.next::<ToHome>(), Ok(None));
    assert_eq!(incoming.words(), b"Welcome to this machine!\n");
    incoming.take(&stream(&[ToHome::Pong(1)]));
    assert_eq!(incoming.next(), Ok(Some(ToHome::Pong(1))));
    assert_eq!(incoming.words(), b"Welcome to this machine!\n");
    let endless = vec![b'x'; WORDS_MAX + 1];
    assert_eq!(read::<ToHome>(&endless, 4096).1, Err(WireError::Magic));
}

#[test]
fn another_version_is_recognized_whatever_follows() {
    let mut bytes = opening();
    *bytes.last_mut().unwrap() = 9;
    assert_eq!(read::<ToAgent>(&bytes, 1).1, Err(WireError::Version(VERSION | (9 << 8))));
}

#[test]
fn a_length_beyond_the_limit_of_its_kind_is_refused_at_its_head() {
    for (kind, length) in [(1, ORDER_MAX + 1), (2, PACKET_MAX + 9), (5, 9), (7, 9)] {
        let head = [&opening()[..], &[kind], &u32::try_from(length).unwrap().to_le_bytes()].concat();
        assert_eq!(read::<ToAgent>(&head, 64).1, Err(WireError::Field("length")), "{kind}");
    }
    let head = [&opening()[..], &[200], &[0; 4]].concat();
    assert_eq!(read::<ToAgent>(&head, 64).1, Err(WireError::Kind(200)));
}

#[test]
fn a_body_that_is_cut_or_goes_on_is_refused() {
    let (kind, body) = order().encode();
    for len in 0..body.len() {
        assert!(ToAgent::decode(kind, &body[..len]).is_err(), "cut to {len}");
    }
    assert_eq!(ToAgent::decode(kind, &[&body[..], &[0]].concat()), Err(WireError::Trailing));
    for (kind, body) in to_home().iter().map(Frame::encode).filter(|(kind, _)| *kind != 3) {
        assert_eq!(ToHome::decode(kind, &[&body[..], &[0]].concat()), Err(WireError::Trailing), "{kind}");
    }
}

/// Writes the initial inputs of the fuzzer: `cargo test -p charm4rs-launcher -- --ignored the_corpus_is_made_anew`.
#[test]
#[ignore = "writes into the tree"]
fn the_corpus_is_made_anew() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/agent");
    std::fs::create_dir_all(&folder).unwrap();
    let write = |name: String, how: u8, bytes: Vec<u8>| {
        std::fs::write(folder.join(name), [&[how][..], &bytes].concat()).unwrap();
    };
    for frame in to_agent() {
        write(format!("to-agent-{}", frame.encode().0), 2, frame.to_bytes());
    }
    for (i, frame) in to_home().iter().enumerate() {
        write(format!("to-home-{i}"), 3, frame.to_bytes());
    }
    write("opened".into(), 0, stream(&to_agent()));
    write("greeted".into(), 1, [b"hello\n".to_vec(), stream(&to_home())].concat());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), message in 0..12usize, at in 0..300usize, with: u8, how: u8) {
        fuzz::frames(&bytes);
        // Valid frames with one changed byte get further into the code.
        let mut bytes = match how & 1 {
            0 => [&[2], &to_agent()[message % 7].to_bytes()[..]].concat(),
            _ => [&[3], &to_home()[message].to_bytes()[..]].concat(),
        };
        let at = 1 + at % (bytes.len() - 1);
        bytes[at] = with;
        fuzz::frames(&bytes);
    }
}

#[test]
fn a_signal_that_no_status_can_hold_is_refused() {
    for number in [0, 128, 255] {
        let news = News::Died(Death { how: Ending::Signal(number), resident_kib_max: 0 });
        let (kind, body) = ToHome::News { rank: 0, news }.encode();
        assert_eq!(ToHome::decode(kind, &body), Err(WireError::Field("signal")), "{number}");
    }
}
