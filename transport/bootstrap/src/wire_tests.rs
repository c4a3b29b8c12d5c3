//! The channel's messages can be decoded, and everything else is refused.

use proptest::prelude::*;

use super::*;

fn welcome() -> ToProcess {
    ToProcess::Welcome(Box::new(Welcome {
        rank: 2,
        job: JobId(*b"01234567"),
        secret: Secret::new([7; 32]),
        group: 77,
        layout: Layout::new(&[2, 2, 1], &[2, 1]),
        options: vec![("seed".into(), "9".into()), ("checksum".into(), String::new())],
        toward: vec!["a".into(), "fd00::1".into()],
    }))
}

fn to_process() -> Vec<ToProcess> {
    vec![
        welcome(),
        ToProcess::Fenced,
        ToProcess::Value(None),
        ToProcess::Value(Some(b"value".to_vec())),
        ToProcess::Fds { rank: 3, count: 253, more: true },
        ToProcess::Stop(2),
        ToProcess::Kill,
        ToProcess::Ping(9),
        ToProcess::Stacks,
    ]
}

fn to_launcher() -> Vec<ToLauncher> {
    vec![
        ToLauncher::Join { rank: 1, pid: 2 },
        ToLauncher::Put { key: "k".into(), value: vec![1, 2] },
        ToLauncher::Fence,
        ToLauncher::Get { rank: 1, key: "k".into() },
        ToLauncher::Share { count: 0, more: false },
        ToLauncher::Exit(-1),
        ToLauncher::Abort { code: 1, pe: None, what: "it broke".into() },
        ToLauncher::Warning("so what".into()),
        ToLauncher::TakesInterrupt,
        ToLauncher::Fault(Fault { signal: 11, pe: Some(3), address: 0xdead, stack: true }),
        ToLauncher::Pong(9),
        ToLauncher::Stacks("PE 1: idle".into()),
    ]
}

#[test]
fn every_message_is_decoded_as_it_was_encoded() {
    for message in to_process() {
        assert_eq!(ToProcess::decode(&message.encode()), Ok(message));
    }
    for message in to_launcher() {
        assert_eq!(ToLauncher::decode(&message.encode()), Ok(message));
    }
}

#[test]
fn a_packet_that_is_too_short_or_too_long_is_refused() {
    for packet in to_process().iter().map(ToProcess::encode) {
        for len in 0..packet.len() {
            assert!(ToProcess::decode(&packet[..len]).is_err(), "{packet:?} cut to {len}");
        }
        assert_eq!(ToProcess::decode(&[&packet[..], &[0]].concat()), Err(WireError::Trailing));
    }
    for packet in to_launcher().iter().map(ToLauncher::encode) {
        for len in 0..packet.len() {
            assert!(ToLauncher::decode(&packet[..len]).is_err(), "{packet:?} cut to {len}");
        }
        assert_eq!(ToLauncher::decode(&[&packet[..], &[0]].concat()), Err(WireError::Trailing));
    }
}

#[test]
fn another_version_is_recognized_whatever_follows() {
    assert_eq!(ToProcess::decode(b"c4\x09\x00\xff\xff\xff"), Err(WireError::Version(9)));
    assert_eq!(ToLauncher::decode(b"HTTP/1.1"), Err(WireError::Magic));
    let [low, high] = VERSION.to_le_bytes();
    assert_eq!(ToLauncher::decode(&[b'c', b'4', low, high, 0xee]), Err(WireError::Kind(0xee)));
}

/// A welcome whose two lists of sizes are `pes` and `hosts`, as (times, size).
fn shaped(pes: &[(u32, u32)], hosts: &[(u32, u32)]) -> Result<ToProcess, WireError> {
    let mut w = packet();
    w.u8(1).u32(0).raw(&[0; 8]).raw(&[0; 32]).u32(1);
    for runs in [pes, hosts] {
        w.len(runs.len());
        for (times, size) in runs {
            w.u32(*times).u32(*size);
        }
    }
    w.len(0).len(0);
    ToProcess::decode(&w.into_bytes())
}

#[test]
fn an_impossible_layout_is_refused_and_costs_no_memory() {
    assert!(shaped(&[(4, 2)], &[(1, 4)]).is_ok());
    for (pes, hosts) in [
        (&[(4, 2)][..], &[(1, 3)][..]),
        (&[], &[]),
        (&[(0, 1)], &[(1, 1)]),
        (&[(1, 0)], &[(1, 1)]),
        (&[(u32::MAX, 1)], &[(1, u32::MAX)]),
        (&[(1 << 20, 1 << 20)], &[(1, 1 << 20)]),
        (&[(1, u32::MAX)], &[(1, 1)]),
    ] {
        assert_eq!(shaped(pes, hosts), Err(WireError::Field("layout")), "{pes:?} {hosts:?}");
    }
}

#[test]
fn a_long_text_is_cut_between_two_characters() {
    let ToLauncher::Warning(text) = ToLauncher::decode(&ToLauncher::Warning("aé".repeat(30_000)).encode()).unwrap()
    else {
        panic!("a warning")
    };
    assert!(text.len() <= TEXT_MAX && text.len() > TEXT_MAX - 4);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), message in 0..10usize, at in 0..80usize, with: u8) {
        let _ = (ToProcess::decode(&bytes), ToLauncher::decode(&bytes));
        // A valid message with one byte changed gets further into the decoder.
        let (mut a, mut b) = (to_process()[message.min(7)].encode(), to_launcher()[message].encode());
        let (la, lb) = (a.len(), b.len());
        a[at % la] = with;
        b[at % lb] = with;
        let _ = (ToProcess::decode(&a), ToLauncher::decode(&b));
    }
}

#[test]
fn the_pe_of_an_abort_is_where_the_signal_handler_writes_it() {
    let mut packet = ToLauncher::Abort { code: 71, pe: None, what: "no memory".into() }.encode();
    packet[ToLauncher::ABORTS_PE].copy_from_slice(&5u32.to_le_bytes());
    let expected = ToLauncher::Abort { code: 71, pe: Some(5), what: "no memory".into() };
    assert_eq!(ToLauncher::decode(&packet).unwrap(), expected);
}
